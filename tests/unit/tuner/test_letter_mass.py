"""The letters' share of the vocabulary's probability."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from moe_tune.data.batching import Batch
from moe_tune.tuner.objective import judge, letter_mass

NOTHING = torch.zeros(0)


@given(st.lists(st.integers(2, 16), min_size=1, max_size=4), st.integers(16, 40), st.integers(1, 3), st.integers(0, 99))
def test_mass_and_letter_probabilities_give_the_probabilities_of_the_vocabulary(counts, vocabulary, heads, seed):
    draw = torch.Generator().manual_seed(seed)
    logits_BV = 5 * torch.randn(len(counts) * heads, vocabulary, generator=draw)
    letters = torch.randperm(vocabulary, generator=draw)[:16].tolist()
    count_B = torch.tensor(counts)
    batch = Batch(NOTHING, NOTHING, NOTHING, torch.zeros_like(count_B), NOTHING, NOTHING, count_B)
    log_probs_BA = judge(logits_BV, batch, letters, "letters", "test").log_probs_BA
    mass_B = letter_mass(logits_BV, batch, letters)
    wanted_BA = logits_BV.double().softmax(-1)[:, letters]
    for row, count in enumerate(torch.repeat_interleave(count_B, heads).tolist()):
        came = log_probs_BA[row, :count].exp() * mass_B[row]
        torch.testing.assert_close(came.double(), wanted_BA[row, :count], rtol=1e-4, atol=1e-7)
    assert ((mass_B > 0) & (mass_B <= 1 + 1e-6)).all()
