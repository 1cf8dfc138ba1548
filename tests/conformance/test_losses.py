"""Every auxiliary loss, in every mode, keeps the laws of the contract; a loss added later is found and held to them."""

import inspect
import pickle
from typing import Literal, get_args, get_origin, get_type_hints

import pytest
import torch

import moe_tune.losses  # noqa: F401 (finds the losses)
from moe_tune.errors import ConfigError
from moe_tune.gate import EXTRAS
from moe_tune.losses.base import AuxLoss, LossContext
from moe_tune.plugins import concrete_subclasses
from moe_tune.routing import RoutingTrace, ScoringRule

LOSSES = {name: kind for name, kind in concrete_subclasses(AuxLoss).items() if kind.__module__.startswith("moe_tune")}
BASE_ARGUMENTS = list(inspect.signature(AuxLoss.__init__).parameters)[1:]


def modes(kind):
    """Return the settings of a loss worth a test: its defaults, and every other value of its own choices."""
    found = [{}]
    hints = get_type_hints(kind.__init__)
    for name, parameter in inspect.signature(kind.__init__).parameters.items():
        if name not in BASE_ARGUMENTS and get_origin(hints.get(name)) is Literal:
            found += [{name: value} for value in get_args(hints[name]) if value != parameter.default]
    return found


CASES = [(kind, mode) for kind in LOSSES.values() for mode in modes(kind)]
each_loss = pytest.mark.parametrize(
    ("kind", "mode"), CASES, ids=["-".join([kind.__name__, *map(str, mode.values())]) for kind, mode in CASES]
)


def context(scope="all", layers=(0, 1, 2), progress=0.5, questions=5):
    log_probs_BA = torch.log_softmax(torch.randn(questions, 4, generator=torch.Generator().manual_seed(2)), -1)
    return LossContext(ScoringRule(2, 8, False), layers, scope, progress, log_probs_BA, torch.zeros(questions).long())


def leaves(trace):
    return [output.logits_TE for output in trace.outputs.values()]


LENGTHS = (4, 1, 3, 5, 2)


@each_loss
@pytest.mark.parametrize("scope", ["answer", "all"])
def test_a_scalar_that_is_finite_and_has_a_gradient(kind, mode, scope, random_trace):
    trace = random_trace(LENGTHS, 5)
    value = kind(**mode).compute(trace, context(scope))
    assert value.shape == ()
    assert value.isfinite()
    value.backward()
    for logits_TE in leaves(trace):
        outside_T = ~trace.mask(scope)
        assert logits_TE.grad.isfinite().all()
        assert logits_TE.grad.abs().max() > 0
        assert not logits_TE.grad[outside_T].any(), "tokens that do not count get no gradient"


@each_loss
@pytest.mark.parametrize("spare", [False, True])
def test_padding_changes_nothing(kind, mode, spare, random_trace):
    """The made-up routing of a position does not depend on how far the batch is padded; padded rows are random."""
    trace, context_ = random_trace(LENGTHS, 5, spare=spare), context()
    value = kind(**mode).compute(trace, context_)
    for output in trace.outputs.values():
        for name in ("logits_TE", "probs_TE", "weights_TK"):
            junk = torch.where(output.mask_T[:, None], getattr(output, name), torch.randn(1).exp())
            setattr(output, name, junk)
        output.experts_TK = torch.where(output.mask_T[:, None], output.experts_TK, 0)
    torch.testing.assert_close(kind(**mode).compute(trace, context_), value)


@each_loss
def test_the_order_of_tokens_and_the_names_of_experts_do_not_matter(kind, mode, random_trace):
    trace = random_trace(LENGTHS, 5)
    value = kind(**mode).compute(trace, context())
    tokens, names = torch.randperm(25), torch.randperm(8)
    back = names.argsort()
    mixed = RoutingTrace(trace.real_T[tokens], trace.answer_T[tokens], trace.question_T[tokens])
    for output in trace.outputs.values():
        row = output.rows(tokens)
        row.logits_TE, row.probs_TE = row.logits_TE[:, names], row.probs_TE[:, names]
        row.experts_TK = back[row.experts_TK]
        mixed.record(row)
    torch.testing.assert_close(kind(**mode).compute(mixed, context()), value)


@each_loss
def test_only_the_chosen_layers_count(kind, mode, random_trace):
    trace, other = random_trace(LENGTHS, 5, seed=1), random_trace(LENGTHS, 5, seed=2)
    value = kind(**mode, layers=[0, 2]).compute(trace, context())
    trace.outputs[1] = other.outputs[1]
    assert torch.equal(kind(**mode, layers=[0, 2]).compute(trace, context()), value)
    assert torch.equal(kind(**mode).compute(trace, context(layers=(0, 2))), value)
    assert not torch.equal(kind(**mode, layers=[0, 1]).compute(trace, context()), value)


@each_loss
@pytest.mark.parametrize("layers", [[7], [0, 7], []])
def test_a_layer_that_does_not_exist_is_refused(kind, mode, layers, random_trace):
    with pytest.raises(ConfigError, match=r"layers"):
        kind(**mode, layers=layers).compute(random_trace(LENGTHS, 5), context())


@each_loss
def test_a_scope_of_its_own_wins(kind, mode, random_trace):
    trace = random_trace(LENGTHS, 5)
    own, heads = (
        kind(**mode, scope="answer").compute(trace, context("all")),
        kind(**mode).compute(trace, context("answer")),
    )
    assert torch.equal(own, heads)
    assert not torch.equal(own, kind(**mode).compute(trace, context("all")))


@each_loss
def test_no_token_at_all_is_no_loss(kind, mode, random_trace):
    trace = random_trace((0, 0), 3)
    value = kind(**mode).compute(trace, context("answer", questions=2))
    assert value.item() == 0
    assert value.requires_grad


@each_loss
def test_weight_and_schedule(kind, mode):
    loss = kind(**mode, weight=2.0, schedule="linear", weight_end=1.0, warmup=0.2)
    assert loss.current_weight(0.0) == 0
    assert loss.current_weight(0.1) == pytest.approx(1.0)
    assert loss.current_weight(0.2) == pytest.approx(2.0)
    assert loss.current_weight(1.0) == pytest.approx(1.0)
    assert kind(**mode, weight=-3.0).current_weight(0.7) == -3.0


@each_loss
def test_the_trace_is_left_as_it_was(kind, mode, random_trace):
    trace, same = random_trace(LENGTHS, 5), random_trace(LENGTHS, 5)
    loss = pickle.loads(pickle.dumps(kind(**mode)))  # noqa: S301 (our own bytes)
    assert torch.equal(loss.compute(trace, context()), kind(**mode).compute(same, context()))
    for layer, output in trace.outputs.items():
        assert torch.equal(output.probs_TE, same.outputs[layer].probs_TE)
        assert torch.equal(output.experts_TK, same.outputs[layer].experts_TK)


@pytest.mark.parametrize("kind", LOSSES.values(), ids=LOSSES)
def test_declared_needs_are_extras_a_trace_can_record(kind):
    assert kind.needs <= EXTRAS


@pytest.mark.parametrize("kind", LOSSES.values(), ids=LOSSES)
def test_documentation_is_complete(kind):
    text = inspect.getdoc(kind)
    assert text.split("\n\n")[0].endswith(".")
    assert "Formula:" in text
    assert "Value " in text, "the value at uniform routing"
    assert "Reference:" in text
    arguments = list(inspect.signature(kind.__init__).parameters)[1:]
    assert set(BASE_ARGUMENTS) <= set(arguments)
    assert [name for name in arguments if f"\n    {name}: " not in text.partition("Args:")[2]] == []
