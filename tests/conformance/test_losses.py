"""Every auxiliary loss, in every mode, keeps the laws of the contract; a loss added later is found and held to them."""

import inspect
import pickle
from dataclasses import replace
from typing import Literal, get_args, get_origin, get_type_hints

import pytest
import torch
from jsonargparse import ArgumentParser
from made_up import MadeUpLayer, loss_context

import moe_tune.losses  # noqa: F401 (finds the losses)
from moe_tune.base.errors import ConfigError
from moe_tune.base.plugins import concrete_subclasses
from moe_tune.gates.gated_model import EXTRAS
from moe_tune.losses.base import CONTEXT_EXTRAS, AuxLoss
from moe_tune.routing import RoutingTrace

LOSSES = {name: kind for name, kind in concrete_subclasses(AuxLoss).items() if kind.__module__.startswith("moe_tune")}
BASE_ARGUMENTS = list(inspect.signature(AuxLoss.__init__).parameters)[1:]


BINDING = {"DeadExpertHingeLoss": {"tau": 1.0}}
"""Settings at which a loss that may be 0 is not, on the made-up routing."""


def modes(kind):
    """Return the settings of a loss worth a test: its defaults, and every other value of its own choices."""
    found = [BINDING.get(kind.__name__, {})]
    hints = get_type_hints(kind.__init__)
    for name, parameter in inspect.signature(kind.__init__).parameters.items():
        if name not in BASE_ARGUMENTS and get_origin(hints.get(name)) is Literal:
            found += [{name: value} for value in get_args(hints[name]) if value != parameter.default]
    return found


CASES = [(kind, mode) for kind in LOSSES.values() for mode in modes(kind)]
IDS = ["-".join([kind.__name__, *map(str, mode.values())]) for kind, mode in CASES]
each_loss = pytest.mark.parametrize(("kind", "mode"), CASES, ids=IDS)


def context(scope="all", layers=(0, 1, 2), progress=0.5, questions=5):
    return loss_context(layers=layers, scope=scope, progress=progress, questions=questions)


def widest(kind):
    """Return the scope with the most tokens at which a loss means anything."""
    return "all" if "all" in kind.scopes else kind.scopes[0]


def leaves(trace):
    return [output.logits_TE for output in trace.outputs.values()]


def renamed(context, names):
    """Return the context after its experts got new names."""
    view = {
        layer: MadeUpLayer(one.experts_EDD[names], one.pretrained_ED[names], one.weight_ED[names])
        for layer, one in context.view.items()
    }
    tables = {
        layer: replace(one, chosen_ES=one.chosen_ES[names], correct_ES=one.correct_ES[names])
        for layer, one in context.tables.items()
    }
    known = {
        name: replace(one, **{key: {layer: probs[:, names] for layer, probs in getattr(one, key).items()}})
        for name, key, one in (("oracle", "probs_QE", context.oracle), ("neighbours", "probs_RE", context.neighbours))
    }
    back, routes = names.argsort(), context.routes
    routes = replace(routes, experts_QNK={layer: back[one] for layer, one in routes.experts_QNK.items()})
    return replace(context, view=view, tables=tables, routes=routes, **known)


LENGTHS = (4, 1, 3, 5, 2)


@each_loss
@pytest.mark.parametrize("scope", ["answer", "all"])
def test_a_scalar_that_is_finite_and_has_a_gradient(kind, mode, scope, random_trace, exempt):
    trace = random_trace(LENGTHS, 5)
    here = context(scope)
    if scope not in kind.scopes:
        with pytest.raises(ConfigError, match="scope"):
            kind(**mode).compute(trace, here)
        exempt(f"refused at scope {scope}")
        return
    value = kind(**mode).compute(trace, here)
    assert value.shape == ()
    assert value.isfinite()
    value.backward()
    if kind.reads != "routing":
        reached = [here.logits_BV, *(one.weight_ED for one in here.view.values())]
        assert any(leaf.grad is not None and leaf.grad.abs().max() > 0 for leaf in reached)
        return
    below, last = leaves(trace)[:-1], leaves(trace)[-1:]
    if kind.last_layer:
        assert all(logits_TE.grad is None for logits_TE in below)
    for logits_TE in last if kind.last_layer else [*below, *last]:
        outside_T = ~trace.mask(scope)
        assert logits_TE.grad.isfinite().all()
        assert logits_TE.grad.abs().max() > 0
        assert not logits_TE.grad[outside_T].any(), "tokens that do not count get no gradient"


@each_loss
@pytest.mark.parametrize("spare", [False, True])
def test_padding_changes_nothing(kind, mode, spare, random_trace):
    """The made-up routing of a position does not depend on how far the batch is padded; padded rows are random."""
    trace, context_ = random_trace(LENGTHS, 5, spare=spare), context(widest(kind))
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
    value = kind(**mode).compute(trace, context(widest(kind)))
    tokens, names = torch.randperm(25), torch.randperm(8)
    back = names.argsort()
    mixed = RoutingTrace(trace.real_T[tokens], trace.answer_T[tokens], trace.question_T[tokens])
    for output in trace.outputs.values():
        row = output.rows(tokens)
        row.logits_TE, row.probs_TE = row.logits_TE[:, names], row.probs_TE[:, names]
        row.experts_TK, row.base_logits_TE = back[row.experts_TK], row.base_logits_TE[:, names]
        row.own_probs_TE = row.own_probs_TE[:, names]
        mixed.record(row)
    torch.testing.assert_close(kind(**mode).compute(mixed, renamed(context(widest(kind)), names)), value)


@each_loss
def test_only_the_chosen_layers_count(kind, mode, random_trace):
    trace, other = random_trace(LENGTHS, 5, seed=1), random_trace(LENGTHS, 5, seed=2)
    value = kind(**mode, layers=[0, 2]).compute(trace, context(widest(kind)))
    trace.outputs[1] = other.outputs[1]
    assert torch.equal(kind(**mode, layers=[0, 2]).compute(trace, context(widest(kind))), value)
    assert torch.equal(kind(**mode).compute(trace, replace(context(widest(kind)), layers=(0, 2))), value)
    assert (
        not torch.equal(kind(**mode, layers=[0, 1]).compute(trace, context(widest(kind))), value)
        or kind.reads == "answer"
    )


@each_loss
@pytest.mark.parametrize("layers", [[7], [0, 7], []])
def test_a_layer_that_does_not_exist_is_refused(kind, mode, layers, random_trace):
    with pytest.raises(ConfigError, match=r"layers"):
        kind(**mode, layers=layers).compute(random_trace(LENGTHS, 5), context(widest(kind)))


@each_loss
def test_a_scope_of_its_own_wins(kind, mode, random_trace):
    trace = random_trace(LENGTHS, 5)
    mine, other = kind.scopes[0], "all" if kind.scopes[0] == "answer" else "answer"
    own = kind(**mode, scope=mine).compute(trace, context(other))
    assert torch.equal(own, kind(**mode).compute(trace, context(mine)))
    if other in kind.scopes and kind.reads == "routing":
        assert not torch.equal(own, kind(**mode).compute(trace, context(other)))


@each_loss
def test_no_token_at_all_is_no_loss(kind, mode, random_trace):
    trace = random_trace((0, 0), 3)
    value = kind(**mode).compute(trace, context(kind.scopes[0], questions=2))
    assert value.item() == 0 or kind.reads != "routing"
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
def test_what_is_carried_survives_a_round_trip(kind, mode, random_trace):
    """A loss that takes over another's state goes on as that one does."""
    loss, other = kind(**mode), kind(**mode)
    scope = kind.scopes[0]
    for seed in range(3):
        loss.compute(random_trace(LENGTHS, 5, seed=seed), context(scope))
        loss.after_step()
    other.state = {name: value.clone() for name, value in loss.state.items()}
    values = [one.compute(random_trace(LENGTHS, 5, seed=9), context(scope)) for one in (loss, other)]
    assert torch.equal(*values)


@each_loss
def test_the_trace_is_left_as_it_was(kind, mode, random_trace):
    trace, same = random_trace(LENGTHS, 5), random_trace(LENGTHS, 5)
    loss = pickle.loads(pickle.dumps(kind(**mode)))  # noqa: S301 (our own bytes)
    assert torch.equal(loss.compute(trace, context(widest(kind))), kind(**mode).compute(same, context(widest(kind))))
    for layer, output in trace.outputs.items():
        assert torch.equal(output.probs_TE, same.outputs[layer].probs_TE)
        assert torch.equal(output.experts_TK, same.outputs[layer].experts_TK)


@pytest.mark.parametrize("kind", LOSSES.values(), ids=LOSSES)
def test_declared_needs_are_extras_a_trace_can_record(kind):
    assert kind.needs <= EXTRAS | CONTEXT_EXTRAS


@pytest.mark.parametrize("kind", LOSSES.values(), ids=LOSSES)
def test_documentation_is_complete(kind):
    text = inspect.getdoc(kind)
    assert text.split("\n\n")[0].endswith(".")
    assert "Formula:" in text
    assert "Value " in text, "the value at uniform routing"
    assert "Reference:" in text
    own = {*inspect.signature(kind.__init__).parameters} - {*BASE_ARGUMENTS, "self", "shared"} | {"weight"}
    shared = inspect.getdoc(AuxLoss).partition("Args:")[2]
    described = text.partition("Args:")[2]
    assert [name for name in own if f"\n    {name}: " not in described] == []
    assert [name for name in BASE_ARGUMENTS if f"\n    {name}: " not in shared] == []


@pytest.mark.parametrize("kind", LOSSES.values(), ids=LOSSES)
def test_the_shared_arguments_stand_in_every_help_and_every_configuration(kind, capsys):
    """In the order that saved configurations have: the weight, what is its own, the rest."""
    parser = ArgumentParser()
    parser.add_argument("--loss", type=AuxLoss)
    arguments = list(parser.parse_args([f"--loss={kind.__name__}"]).loss.init_args.__dict__)
    own = [name for name in inspect.signature(kind.__init__).parameters if name not in (*BASE_ARGUMENTS, "shared")][1:]
    assert arguments == ["weight", *own, *BASE_ARGUMENTS[1:]]
    with pytest.raises(SystemExit):
        parser.parse_args([f"--loss.help={kind.__name__}"])
    told = " ".join(capsys.readouterr().out.split())
    assert told.count("(type: ") == len(arguments)
    assert "Layer indices" in told
    assert "over which the weight rises from 0" in told
