"""A random change is as large as the trained one, tensor by tensor, and another with every seed."""

import torch

from moe_tune.studies.random_change import _drawn


def test_every_tensor_moves_as_far_as_training_moved_it():
    generator = torch.Generator().manual_seed(0)
    start = {"a": torch.randn(8, 4, generator=generator), "b": torch.zeros(3), "n": torch.tensor(7)}
    moved = {"a": 0.1 * torch.randn(8, 4, generator=generator), "b": torch.zeros(3), "n": torch.tensor(2)}
    first, again, other = (_drawn(start, moved, seed) for seed in (0, 0, 1))
    torch.testing.assert_close((first["a"] - start["a"]).norm(), moved["a"].norm())
    assert torch.equal(first["b"], start["b"])
    assert first["n"] == 9
    assert torch.equal(first["a"], again["a"])
    assert not torch.equal(first["a"], other["a"])
