"""Computing in the other dtype gives what a model cast whole gives, and holds one layer more at most."""

import copy

import pytest
import torch

from moe_tune.models.other_dtype import in_other_dtype


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_logits_are_those_of_the_whole_model_cast(family, build_model, batch, dtype):
    other = torch.bfloat16 if dtype == torch.float32 else torch.float32
    model = build_model(family, dtype=dtype)
    before = {name: (value.dtype, value.data_ptr()) for name, value in model.named_parameters()}
    largest = max(sum(one.numel() for one in unit.parameters()) for unit in (*model.model.layers, model.lm_head))
    cast_at_once = []

    def count(*ignored):
        cast_at_once.append(sum(one.numel() for one in model.parameters() if one.dtype == other))

    hooks = [module.register_forward_hook(count) for layer in model.model.layers for module in layer.modules()]
    with torch.no_grad():
        wanted = copy.deepcopy(model).to(other)(**batch).logits
        plain = model(**batch).logits
        cast_at_once.clear()
        with in_other_dtype(model):
            got = model(**batch).logits
    assert got.dtype == other
    assert torch.equal(got, wanted)
    assert not torch.equal(got.float(), plain.float())
    assert 0 < max(cast_at_once) <= largest
    assert before == {name: (value.dtype, value.data_ptr()) for name, value in model.named_parameters()}
    for hook in hooks:
        hook.remove()
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, plain)


def test_what_keeps_its_dtype_does_and_a_failure_leaves_the_model_as_it_was(tiny_model, batch):
    gate = tiny_model.model.layers[0].mlp.gate.weight
    seen = []

    def stop(*ignored):
        seen.append((gate.dtype, tiny_model.model.layers[0].self_attn.q_proj.weight.dtype))
        raise KeyboardInterrupt

    hook = tiny_model.model.layers[0].self_attn.register_forward_hook(stop)
    with pytest.raises(KeyboardInterrupt), torch.no_grad(), in_other_dtype(tiny_model, [gate]):
        tiny_model(**batch)
    hook.remove()
    assert seen == [(torch.float32, torch.bfloat16)]
    assert {value.dtype for value in tiny_model.parameters()} == {torch.float32}
    assert not tiny_model.model.layers[0]._forward_hooks
