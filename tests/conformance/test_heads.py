"""Every router head, in every mode, keeps the laws of the contract; a head added later is found and held to them."""

import copy
import inspect
import pickle
from dataclasses import replace

import pytest
import torch
from head_cases import (
    CASES,
    HEADS,
    IDS,
    REQUIRED,
    answers,
    decisions,
    each_head,
    each_head_in_turn,
    in_its_mode,
    required,
    shake,
    take_turns,
)
from made_up import layer_table
from tolerances import rounding_of
from torch.nn import functional

from moe_tune.base.errors import ConfigError, ModelError
from moe_tune.gates.gated_model import GatedModel
from moe_tune.heads.base import BaseGate, RouterHead, decide
from moe_tune.heads.identity import IdentityHead
from moe_tune.routing import SoftmaxRule, StockRouter

each_head_and_scope = take_turns(CASES, IDS, ("scope",), [("answer",), ("all",)])


@each_head_and_scope
def test_an_exact_start_is_exact(kind, mode, scope, family, build_model, batch, exempt):
    """Bit for bit at native numerics; at width 512, where a matrix product over fewer rows rounds differently."""
    head = kind(**required(kind), **mode)
    if not head.traits.exact_start:
        assert head.traits.reason
        exempt(f"starts elsewhere: {head.traits.reason}")
        return
    model = build_model(family, hidden_size=512, num_hidden_layers=2)
    with torch.no_grad():
        stock = model(**batch).logits
        routers = GatedModel(model, family, IdentityHead(), "all", scope)
        model(**batch)
        identity = decisions(routers)
        routers.detach()
        routers = GatedModel(model, family, head, "all", scope, "native")
        assert torch.equal(model(**batch).logits, stock)
        routers.detach()
        routers = GatedModel(model, family, head, "all", scope)
        torch.testing.assert_close(model(**batch).logits, stock, atol=1e-5, rtol=0)
    for (logits, weights, experts), (same_logits, same_weights, same_experts) in zip(
        decisions(routers), identity, strict=True
    ):
        assert torch.equal(experts, same_experts)
        torch.testing.assert_close(logits, same_logits, atol=rounding_of(same_logits), rtol=1e-6)
        torch.testing.assert_close(weights, same_weights, atol=1e-6, rtol=1e-6)


@each_head
def test_an_exact_start_is_exact_in_half_precision(kind, mode, family, build_model, batch, exempt):
    """bfloat16 logits tie often; ties fall as the stock gate lets them fall."""
    head = kind(**required(kind), **mode)
    if not head.traits.exact_start:
        exempt(f"starts elsewhere: {head.traits.reason}")
        return
    model = build_model(family, dtype=torch.bfloat16, num_experts=64, num_experts_per_tok=8)
    with torch.no_grad():
        stock = model(**batch).logits
        GatedModel(model, family, head, "all", "all", "native")
        assert torch.equal(model(**batch).logits, stock)


@each_head
def test_gradient_reaches_the_declared_parameters_and_no_other(kind, mode, family, tiny_model, batch, exempt):
    head = kind(**required(kind), **mode)
    routers = GatedModel(tiny_model, family, head, [0, 2])
    shake(routers)  # at an exact start a factor of 0 hides what lies behind it
    in_its_mode(routers, head)
    trainable = routers.trainable()
    assert bool(trainable) == head.traits.trainable
    assert set(map(id, trainable.values())) == {id(p) for p in tiny_model.parameters() if p.requires_grad}
    if not trainable:
        exempt("nothing to train")
        return
    functional.cross_entropy(answers(tiny_model, batch), torch.arange(5)).backward()
    assert {id(p) for p in tiny_model.parameters() if p.grad is not None} == set(map(id, trainable.values()))
    for name, parameter in trainable.items():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


@each_head_in_turn
def test_state_survives_a_round_trip(kind, mode, family, build_model, batch):
    head = kind(**required(kind), **mode)
    model, other = build_model(family), build_model(family)
    routers, same = GatedModel(model, family, head), GatedModel(other, family, head)
    shake(routers)
    same.load_state(copy.deepcopy(routers.state()), "test")
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, other(**batch).logits)
    assert routers.trainable().keys() <= routers.state().keys()


@each_head_in_turn
def test_what_is_drawn_at_the_start_does_not_depend_on_the_default_device(kind, mode, family, build_model):
    """Lightning loads a model under the default device of its accelerator; ``meta`` stands for one not the CPU."""

    def start(seed, device):
        model = build_model(family)
        torch.manual_seed(seed)
        with torch.device(device):
            return GatedModel(model, family, kind(**required(kind), **mode)).state()

    expected, other, elsewhere = start(1, "cpu"), start(2, "cpu"), start(1, "meta")
    drawn = [name for name, value in expected.items() if not torch.equal(value, other[name])]
    assert all(torch.equal(elsewhere[name], expected[name]) for name in drawn)


@each_head_in_turn
def test_a_foreign_state_is_refused(kind, mode, family, tiny_model):
    routers = GatedModel(tiny_model, family, kind(**required(kind), **mode))
    state = routers.state()
    with pytest.raises(ModelError, match=r"unknown \['layers.0.nothing'\]"):
        routers.load_state({**state, "layers.0.nothing": torch.zeros(1)}, "somewhere")
    for name, value in list(state.items())[:1]:
        with pytest.raises(ModelError, match="missing"):
            routers.load_state({key: tensor for key, tensor in state.items() if key != name}, "somewhere")
        with pytest.raises(ModelError, match="shape"):
            routers.load_state({**state, name: torch.zeros(3, *value.shape)}, "somewhere")


@each_head_and_scope
def test_padding_changes_nothing(kind, mode, scope, family, tiny_model, batch):
    routers = GatedModel(tiny_model, family, kind(**required(kind), **mode), "all", scope)
    shake(routers)
    left = {key: value.clone() for key, value in batch.items()}
    for row, length in enumerate(batch["attention_mask"].sum(1).tolist()):
        for value in left.values():
            value[row] = value[row].roll(value.shape[1] - length)
    wide = {key: functional.pad(value, (3, 2)) for key, value in batch.items()}
    with torch.no_grad():
        expected, rows = answers(tiny_model, batch), decisions(routers)
        for padded in (left, wide):
            torch.testing.assert_close(answers(tiny_model, padded), expected, atol=1e-5, rtol=1e-5)
            for row, same in zip(decisions(routers), rows, strict=True):
                for one, other in zip(row, same, strict=True):
                    torch.testing.assert_close(one, other, atol=max(1e-5, rounding_of(other)), rtol=1e-5)


@each_head
def test_renaming_the_experts_renames_the_choices(kind, mode, family, build_model, batch):
    model, renamed = (build_model(family, num_experts=7, num_experts_per_tok=3) for _ in range(2))
    order = torch.randperm(7)
    for block in family.moe_layers(renamed).values():
        for tensor in (block.mlp.gate.weight, block.mlp.experts.gate_up_proj, block.mlp.experts.down_proj):
            tensor.data = tensor.data[order]
    head = kind(**required(kind), **mode)
    routers, others = GatedModel(model, family, head), GatedModel(renamed, family, head)
    shake(routers)
    state = routers.state()
    for axis in range(2):  # the axes of length E of a head's tensors are its experts
        state = {
            k: v.index_select(axis, order) if v.dim() > axis and v.shape[axis] == 7 else v for k, v in state.items()
        }
    others.load_state(state, "test")
    with torch.no_grad():
        torch.testing.assert_close(renamed(**batch).logits, model(**batch).logits, atol=1e-5, rtol=1e-5)
    for (logits, weights, experts), (new_logits, new_weights, new_experts) in zip(
        decisions(routers), decisions(others), strict=True
    ):
        assert torch.equal(order[new_experts], experts)
        torch.testing.assert_close(new_logits, logits[:, order], atol=max(1e-5, rounding_of(logits)), rtol=1e-5)
        torch.testing.assert_close(new_weights, weights, atol=1e-5, rtol=1e-5)


@each_head_in_turn
def test_the_order_of_questions_does_not_matter(kind, mode, family, tiny_model, batch):
    routers = GatedModel(tiny_model, family, kind(**required(kind), **mode), "all", "all")
    shake(routers)
    order = torch.tensor([3, 0, 4, 2, 1])
    with torch.no_grad():
        expected = answers(tiny_model, batch)
        mixed = answers(tiny_model, {key: value[order] for key, value in batch.items()})
    torch.testing.assert_close(mixed, expected[order], atol=1e-5, rtol=1e-5)


@each_head_in_turn
def test_experts_implementations_agree(kind, mode, family, build_model, batch):
    """Eager, grouped and blocked experts give the same answers, and the same gradients of the heads."""
    head, results = kind(**required(kind), **mode), []
    for implementation in ("eager", "grouped_mm", "blocked"):
        model = build_model(family, experts=implementation)
        routers = GatedModel(model, family, head)
        shake(routers)
        in_its_mode(routers, head)
        logits = answers(model, batch)
        gradients = []
        if routers.trainable():
            functional.cross_entropy(logits, torch.arange(5)).backward()
            gradients = [parameter.grad for parameter in routers.trainable().values()]
        results.append([logits.detach(), *gradients])
    for eager, *others in zip(*results, strict=True):
        for other in others:
            torch.testing.assert_close(other, eager, atol=max(1e-5, rounding_of(eager)), rtol=1e-4)


@each_head
def test_mass_is_kept_where_that_is_claimed(kind, mode, exempt):
    head, rule = kind(**required(kind), **mode), SoftmaxRule(3, 8, False)
    if not head.traits.keeps_mass:
        exempt("claims nothing of the weights' sum")
        return
    base_ED, hidden_TD = torch.randn(8, 16), torch.randn(50, 16)
    bound = head.bound_to(BaseGate(base_ED, rule, 0)).eval()
    for value in bound.state_dict().values():
        value.add_(0.3 * torch.randn(value.shape))
    logits_TE = functional.linear(hidden_TD, base_ED)
    with torch.no_grad():
        came = decide(bound, rule, hidden_TD, logits_TE)
        same_choice_TK = rule.probabilities(logits_TE).gather(-1, came.experts_TK)
    torch.testing.assert_close(came.weights_TK.sum(-1), same_choice_TK.sum(-1), atol=1e-6, rtol=1e-5)


@each_head_in_turn
def test_training_decides_as_evaluation_does_unless_that_is_declared(kind, mode, family, build_model, batch):
    head, results = kind(**required(kind), **mode), []
    for training in (False, True):
        model = build_model(family)
        routers = GatedModel(model, family, head)
        shake(routers)
        for bound in routers.heads.values():
            bound.train(training)
        results.append(answers(model, batch).detach())
    parts = [part for part in next(iter(routers.heads.values())).modules() if isinstance(part, RouterHead)]
    if not any(part.traits.train_only for part in parts):
        assert torch.equal(*results)


@each_head_in_turn
def test_what_acts_in_training_alone_leaves_evaluation_alone(kind, mode, family, build_model, batch, exempt):
    head = kind(**required(kind), **mode)
    if not head.traits.train_only:
        exempt("acts in evaluation too")
        return
    model = build_model(family)
    with torch.no_grad():
        stock = model(**batch).logits
        routers = GatedModel(model, family, head, routing_dtype="native")
        shake(routers)
        assert torch.equal(model(**batch).logits, stock)
        in_its_mode(routers, head)
        assert not torch.equal(model(**batch).logits, stock)


@each_head
def test_tokens_outside_the_scope_keep_the_pretrained_decision(kind, mode, family, tiny_model, batch):
    """Bit for bit in the layer itself; in later layers up to the rounding of other batches of tokens per expert."""
    with torch.no_grad():
        routers = GatedModel(tiny_model, family, IdentityHead())
        tiny_model(**batch)
        base = routers.trace
        routers.detach()
        routers = GatedModel(tiny_model, family, kind(**required(kind), **mode))
        shake(routers)
        tiny_model(**batch)
    other_T = base.real_T & ~base.answer_T
    for layer, output in base.outputs.items():
        tuned = routers.trace.outputs[layer].rows(other_T)
        base_rows = output.rows(other_T)
        for key in ("logits_TE", "probs_TE", "weights_TK", "experts_TK"):
            came, wanted = getattr(tuned, key), getattr(base_rows, key)
            spare = came[:, wanted.shape[1] :]  # a head may need more slots than the pretrained router has
            assert not spare.any() or key == "experts_TK"
            came = came[:, : wanted.shape[1]]
            if layer == 0:
                assert torch.equal(came, wanted), key
            else:
                torch.testing.assert_close(came, wanted, atol=rounding_of(base_rows.logits_TE), rtol=1e-5)


@each_head
def test_decisions_are_well_formed(kind, mode, family, tiny_model, batch):
    head = kind(**required(kind), **mode)
    routers = GatedModel(tiny_model, family, head, "all", "all")
    shake(routers)
    with torch.no_grad():
        first = tiny_model(**batch).logits
        assert torch.equal(tiny_model(**batch).logits, first), "the same input must give the same bits"
    assert not routers.trace.is_open
    for output in routers.trace.at("all"):
        assert output.probs_TE.dtype == output.weights_TK.dtype == torch.float32
        torch.testing.assert_close(output.probs_TE.sum(-1), torch.ones(len(output.mask_T)))
        assert output.weights_TK.isfinite().all()
        assert ((output.experts_TK >= 0) & (output.experts_TK < 8)).all()
        if not head.traits.variable_k:
            assert output.used_TK is None
            assert (output.experts_TK.sort(-1).values.diff() > 0).all(), "an expert is chosen once"


@each_head_in_turn
def test_gradient_checkpointing_changes_nothing(kind, mode, family, build_model, batch):
    head = kind(**required(kind), **mode)
    results = []
    for checkpointing in (False, True):
        model = build_model(family).train()
        routers = GatedModel(model, family, head)
        shake(routers)
        in_its_mode(routers, head)
        if checkpointing:
            model.base_model.gradient_checkpointing_enable({"use_reentrant": False})
        loss = answers(model, batch).logsumexp(-1).sum()
        trace = decisions(routers)
        if routers.trainable():
            loss.backward()
        recorded, again = ([tensor for row in rows for tensor in row] for rows in (trace, decisions(routers)))
        results.append([loss, *recorded, *(parameter.grad for parameter in routers.trainable().values())])
        assert all(torch.equal(a, b) for a, b in zip(recorded, again, strict=True))
    assert all(torch.equal(plain, again) for plain, again in zip(*results, strict=True))


@each_head_in_turn
def test_a_half_precision_body_works(kind, mode, family, build_model, batch):
    model = build_model(family, dtype=torch.bfloat16)
    head = kind(**required(kind), **mode)
    routers = GatedModel(model, family, head)
    shake(routers)
    in_its_mode(routers, head)
    logits = answers(model, batch)
    assert logits.dtype == torch.bfloat16
    assert logits.isfinite().all()
    assert all(value.dtype == torch.float32 for value in routers.state().values() if value.is_floating_point())
    if routers.trainable():
        logits.float().logsumexp(-1).sum().backward()
        assert all(parameter.grad.isfinite().all() for parameter in routers.trainable().values())


@each_head_in_turn
def test_a_prototype_can_be_copied_and_sent(kind, mode, family, build_model, batch):
    head = kind(**required(kind), **mode)
    assert not list(head.parameters())
    assert not list(head.buffers())
    logits = []
    for twin in (head, copy.deepcopy(head), pickle.loads(pickle.dumps(head))):  # noqa: S301 (our own bytes)
        model = build_model(family)
        GatedModel(model, family, twin)
        with torch.no_grad():
            logits.append(model(**batch).logits)
        assert twin.traits == head.traits
        assert not list(twin.parameters()), "binding must not touch the prototype"
    assert torch.equal(logits[0], logits[1])
    assert torch.equal(logits[0], logits[2])


@each_head
def test_calibration_acts_where_it_is_declared(kind, mode):
    head = kind(**required(kind), **mode)
    gate = BaseGate(torch.randn(8, 16), SoftmaxRule(2, 8, False), 0)
    bound = head.bound_to(gate)
    before = copy.deepcopy(bound.state_dict())
    bound.calibrate(layer_table())
    changed = any(not torch.equal(value, before[name]) for name, value in bound.state_dict().items())
    assert changed == head.traits.needs_calibration


@each_head
def test_a_foldable_head_is_a_linear_router(kind, mode, exempt):
    """Its logits on the unit vectors are a router weight, and the stock router with that weight decides alike."""
    head = kind(**required(kind), **mode)
    if not head.traits.foldable:
        exempt("no router weight does the same")
        return
    base_ED, hidden_TD = torch.randn(8, 16), torch.randn(50, 16)
    rule = SoftmaxRule(2, 8, False)
    bound = head.bound_to(BaseGate(base_ED, rule, 0))
    for value in bound.state_dict().values():
        value.add_(0.3 * torch.randn(value.shape))
    with torch.no_grad():
        folded_ED = bound.score(torch.eye(16), base_ED.T).T
        wanted = decide(bound, rule, hidden_TD, functional.linear(hidden_TD, base_ED))
        torch.testing.assert_close(bound.router_weight(base_ED), folded_ED, atol=1e-5, rtol=1e-5)
        came = decide(IdentityHead(), rule, hidden_TD, functional.linear(hidden_TD, folded_ED))
    assert torch.equal(came.experts_TK, wanted.experts_TK)
    torch.testing.assert_close(came.weights_TK, wanted.weights_TK, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("renormalise", [False, True])
@pytest.mark.parametrize("biased", [False, True], ids=["bare gate", "gate with biases"])
@each_head
def test_a_head_folds_exactly_or_says_why_not(kind, mode, biased, renormalise, exempt):
    """What it folds into are a stock gate's own tensors; with them, and without the head, decisions are the same."""
    rule, base_ED, hidden_TD = SoftmaxRule(2, 8, renormalise), torch.randn(8, 16), torch.randn(200, 16)
    bias_E = 0.3 * torch.randn(8) if biased else None
    bound = kind(**required(kind), **mode).bound_to(BaseGate(base_ED, rule, 0)).eval()
    for value in bound.state_dict().values():
        if value.is_floating_point():
            value.add_(0.3 * torch.randn(value.shape))
    own = StockRouter(base_ED, bias_E, torch.zeros(8) if biased else None, rule)
    with torch.no_grad():
        wanted = decide(bound, rule, hidden_TD, functional.linear(hidden_TD, base_ED, bias_E))
        try:
            router = bound.fold(own).settled(kind.__name__)
        except ConfigError as refusal:
            said = str(refusal)
            assert said.startswith("expected a head that a stock gate can be but got ")
            assert "(export --fold)" in said
            assert not bound.traits.foldable, "what is a router weight folds everywhere"
            exempt(said)
            return
        logits_TE = functional.linear(hidden_TD, router.weight_ED, router.bias_E)
        probs_TE = rule.probabilities(logits_TE)
        scores_TE = logits_TE if router.choice_E is None or not router.choice_E.any() else probs_TE + router.choice_E
        experts_TK = rule.choose(scores_TE, 2)
        weights_TK = rule.weights(probs_TE, experts_TK)
    came_TE, wanted_TE = torch.zeros(200, 8), torch.zeros(200, 8)
    came_TE.scatter_add_(-1, experts_TK, weights_TK)
    wanted_TE.scatter_add_(-1, wanted.experts_TK, wanted.weights_TK)
    torch.testing.assert_close(came_TE, wanted_TE, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", HEADS.values(), ids=HEADS)
def test_documentation_is_complete(kind):
    text = inspect.getdoc(kind)
    summary = text.split("\n\n")[0]
    assert summary.endswith(".")
    assert len(summary) < 200
    arguments = list(inspect.signature(kind.__init__).parameters)[1:] if "__init__" in vars(kind) else []
    _, _, described = text.partition("Args:")
    assert [name for name in arguments if f"\n    {name}: " not in described] == []
    assert "Reference:" in text or kind.__name__ in REQUIRED
    traits = kind(**required(kind)).traits
    for holds, word in (
        (not traits.exact_start, "start"),
        (traits.train_only, "training"),
        (traits.variable_k, "slots"),
    ):
        assert not holds or word in text, f"a law that does not bind it is explained: {word}"
    assert replace(kind(**required(kind)).traits) == kind(**required(kind)).traits
