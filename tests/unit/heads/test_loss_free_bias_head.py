"""The loss-free bias moves the choice alone, by the sign of the load of all ranks, and evens out a skewed router."""

from fractions import Fraction

import torch
from hypothesis import given
from hypothesis import strategies as st
from made_up import bound_to, output_of

from moe_tune.gates.gated_model import GatedModel
from moe_tune.heads import loss_free_bias
from moe_tune.heads.base import decide
from moe_tune.heads.loss_free_bias import LossFreeBiasHead, load_sign
from moe_tune.routing import SoftmaxRule

RULE = SoftmaxRule(2, 8, False)
HIDDEN_TD = torch.zeros(200, 4)


def bound(**options):
    return bound_to(RULE, LossFreeBiasHead(**options))


@given(counts=st.lists(st.integers(0, 10**9), min_size=1, max_size=64))
def test_the_sign_equals_the_slow_reference(counts):
    mean = Fraction(sum(counts), len(counts))
    assert load_sign(torch.tensor(counts)).tolist() == [(mean > c) - (mean < c) for c in counts]


def test_micro_batches_and_ranks_are_added_up_before_the_sign(monkeypatch):
    head, logits_TE = bound(gamma=0.01), torch.randn(200, 8)
    output = output_of(decide(head, RULE, HIDDEN_TD, logits_TE), torch.arange(200) % 3 > 0)
    elsewhere_E = torch.randint(0, 100, (8,))
    monkeypatch.setattr(loss_free_bias, "summed_over_ranks", lambda value: value + elsewhere_E)
    for rows in (slice(0, 50), slice(50, 200)):
        head.observe(output.rows(rows))
    assert torch.equal(head.counts_E, output.counts_E())
    head.after_step()
    total_E = output.counts_E() + elsewhere_E
    torch.testing.assert_close(head.bias_E, 0.01 * torch.sign(total_E.float().mean() - total_E))
    assert not head.counts_E.any()


def test_a_step_that_saw_nothing_changes_nothing():
    head = bound()
    head.after_step()
    assert not head.bias_E.any()
    head.bias_E.copy_(before_E := torch.randn(8))
    head.after_step()
    assert torch.equal(head.bias_E, before_E)


def test_a_skewed_router_is_evened_out():
    logits_TE = torch.randn(200, 8) + torch.linspace(-2, 2, 8)
    head = bound(gamma=2e-3)
    loads = []
    for _ in range(160):
        output = output_of(decide(head, RULE, HIDDEN_TD, logits_TE))
        loads.append(output.counts_E().max() / 50)
        head.observe(output)
        head.after_step()
    assert loads[0] > 2
    assert loads[-1] < 1.3


def test_training_batches_are_counted_once_and_evaluation_never(family, build_model, batch):
    model = build_model(family).train()
    routers = GatedModel(model, family, LossFreeBiasHead(), "all", "all")
    model(**batch)
    counts = {layer: head.counts_E.clone() for layer, head in routers.heads.items()}
    for output in routers.trace.at("all"):
        assert torch.equal(counts[output.layer], output.counts_E())
    model.eval()
    model(**batch)
    assert all(torch.equal(head.counts_E, counts[layer]) for layer, head in routers.heads.items())
