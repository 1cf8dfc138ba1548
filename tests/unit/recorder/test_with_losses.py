"""Losses that are added to a model's own are those of our runs and reach the routers, or are refused."""

import pytest
import torch
from plain_training import LENGTHS, TYPES, hooks_of, padded_batch, trained_model

from moe_tune import with_losses
from moe_tune.base.errors import ConfigError
from moe_tune.gates.gated_model import GatedModel
from moe_tune.heads.retuned import RetunedHead
from moe_tune.losses.accuracy_pull import AccuracyPullLoss
from moe_tune.losses.base import LossContext
from moe_tune.losses.expert_orthogonality import ExpertOrthogonalityLoss
from moe_tune.losses.global_load_balance import GlobalLoadBalanceLoss
from moe_tune.losses.load_balance import LoadBalanceLoss
from moe_tune.losses.manifold import ManifoldLoss
from moe_tune.losses.oracle_distillation import OracleDistillationLoss
from moe_tune.losses.route_regret import RouteRegretLoss
from moe_tune.losses.router_distillation import RouterDistillationLoss
from moe_tune.losses.router_orthogonality import RouterOrthogonalityLoss
from moe_tune.losses.routing_anchor import RoutingAnchorLoss
from moe_tune.losses.sequence_load_balance import SequenceLoadBalanceLoss
from moe_tune.losses.token_entropy import TokenEntropyLoss
from moe_tune.losses.z_loss import ZLoss

LOSSES = {
    "balance": LoadBalanceLoss(weight=0.3),
    "sequence": SequenceLoadBalanceLoss(weight=0.2),
    "z": ZLoss(weight=0.01),
    "entropy": TokenEntropyLoss(weight=-0.1),
    "rows": RouterOrthogonalityLoss(weight=0.1),
    "outputs": ExpertOrthogonalityLoss(weight=0.1),
}


def losses_for(model_type):
    """Return the losses that a type can have."""
    described, one_input = model_type != "phimoe", model_type != "gemma4_text"
    return {
        name: loss
        for name, loss in LOSSES.items()
        if (described or not loss.reads_probabilities) and (one_input or name != "outputs")
    }


def in_our_runs(model, family, batch, losses):
    """Return the values, and the gradients of the weighted sum, that losses have with a head on every layer."""
    gated = GatedModel(model, family, RetunedHead(), "all", "all", "native", ["hidden"])
    model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    nothing = torch.empty(0)
    context = LossContext(gated.rule, gated.layers, "all", 0.0, nothing, nothing, nothing, gated.views)
    values = {name: loss.compute(gated.trace, context) for name, loss in losses.items()}
    sum(loss.weight * values[name] for name, loss in losses.items()).backward()
    gradients = [head.weight.grad for head in gated.heads.values()]
    gated.detach()
    return {name: float(value) for name, value in values.items()}, gradients


def gradients_of(model, family, batch, losses, **options):
    """Return the values of losses and the gradients of the routers' weights, the model's own loss taken away."""

    def backward():
        model.zero_grad()
        model(**batch, **options).loss.backward()
        gates = [block.get_submodule(family.gate_path) for block in family.moe_layers(model).values()]
        return [family.replay(block, 0).weight(gate).grad.clone() for block, gate in zip(blocks, gates, strict=True)]

    blocks = list(family.moe_layers(model).values())
    alone = backward()
    with with_losses(model, losses) as added:
        together = backward()
        values = {name.removeprefix("routing/"): value for name, value in added.step().items()}
    return values, [one - other for one, other in zip(together, alone, strict=True)]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("model_type", TYPES)
def test_values_and_gradients_are_those_of_our_runs(model_type, side):
    model, family = trained_model(model_type)
    batch, losses = padded_batch(side), losses_for(model_type)
    values, gradients = gradients_of(model, family, batch, losses)
    expected, others = in_our_runs(model.eval(), family, batch, losses)
    assert values == pytest.approx(expected, abs=1e-6, rel=1e-6)
    for mine, other in zip(gradients, others, strict=True):
        assert mine.abs().max() > 0
        torch.testing.assert_close(mine, other, atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize("model_type", ["olmoe", "deepseek_v3", "gemma4_text"])
def test_checkpointing_that_is_not_reentrant_gives_the_same_gradients(model_type):
    model, family = trained_model(model_type)
    batch, losses = padded_batch(), losses_for(model_type)
    values, plain = gradients_of(model, family, batch, losses, use_cache=False)
    model.activation_checkpointing_enable({"use_reentrant": False})
    again, checkpointed = gradients_of(model, family, batch, losses, use_cache=False)
    assert again == values
    for one, other in zip(plain, checkpointed, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_reentrant_checkpointing_is_refused():
    model, _ = trained_model("olmoe")
    model.activation_checkpointing_enable({"use_reentrant": True})
    with with_losses(model, {"z": ZLoss()}), pytest.raises(ConfigError, match="use_reentrant"):
        model(**padded_batch(), use_cache=False)


def test_the_loss_is_the_models_own_plus_the_weighted_values():
    model, _ = trained_model("olmoe")
    batch = padded_batch()
    own = model(**batch).loss
    with with_losses(model, LOSSES) as added:
        total, first = model(**batch).loss, model(**batch, return_dict=False)[0]
        values = added.step()
    expected = own + sum(loss.weight * values[f"routing/{name}"] for name, loss in LOSSES.items())
    torch.testing.assert_close(total, expected)
    assert torch.equal(total, first)
    assert torch.equal(model(**batch).loss, own)
    assert hooks_of(model) == 0


def test_evaluation_and_passes_without_labels_stay_what_they_are():
    model, _ = trained_model("olmoe")
    batch = padded_batch()
    own = model.eval()(**batch).loss
    with with_losses(model, {"z": ZLoss()}) as added:
        assert torch.equal(model(**batch).loss, own)
        model.train()
        del batch["labels"]
        assert model(**batch).loss is None
        assert added.step() == {}
        with pytest.warns(UserWarning, match="no loss was added"):
            added.after_step()


def test_micro_batches_count_by_what_the_model_counts_them():
    """Trainer hands models the labelled tokens of the step: the sum over micro-batches is a mean by their tokens."""
    model, _ = trained_model("olmoe")
    parts = [padded_batch(lengths=(9, 6)), padded_batch(seed=2, lengths=(3, 2))]
    count = [int((part["labels"][:, 1:] != -100).sum()) for part in parts]
    own = sum(float(model(**part, num_items_in_batch=sum(count)).loss) for part in parts)
    with with_losses(model, {"z": ZLoss(weight=2.0)}) as added:
        total = sum(float(model(**part, num_items_in_batch=torch.tensor(sum(count))).loss) for part in parts)
        added.step()
        values = []
        for part in parts:
            model(**part)
            values.append(added.step()["routing/z"])
    mean = sum(value * share for value, share in zip(values, count, strict=True)) / sum(count)
    assert total - own == pytest.approx(2.0 * mean, rel=1e-5)


def test_schedules_follow_the_progress():
    model, _ = trained_model("olmoe")
    batch = padded_batch()
    own = model(**batch).loss
    with with_losses(model, {"z": ZLoss(weight=1.0, schedule="linear", weight_end=0.0)}) as added:
        gains = []
        for added.progress in (0.0, 0.5, 1.0):
            gains.append(float(model(**batch).loss - own))
    assert gains[1] == pytest.approx(gains[0] / 2, rel=1e-4)
    assert gains[2] == 0


def test_a_loss_that_carries_counts_forgets_them_after_a_step():
    model, _ = trained_model("olmoe")
    loss = GlobalLoadBalanceLoss()
    with with_losses(model, {"balance": loss}) as added:
        for _ in range(2):
            model(**padded_batch())
        assert int(loss.state["counts_0"].sum()) == 2 * 2 * sum(LENGTHS), "two micro-batches, top-2"
        added.after_step()
        assert loss.state == {}


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (RouterDistillationLoss(), "teacher.*answer"),
        (AccuracyPullLoss(), "table"),
        (OracleDistillationLoss(), "oracle"),
        (ManifoldLoss(), "neighbours"),
        (RouteRegretLoss(), "own_probs.*routes"),
        (RoutingAnchorLoss(), "base_logits"),
        (ZLoss(layers=[7]), "MoE layers"),
        (SequenceLoadBalanceLoss(scope="answer"), "scope"),
    ],
)
def test_losses_that_read_what_is_not_there_are_refused(loss, said):
    model, _ = trained_model("olmoe")
    with pytest.raises(ConfigError, match=said):
        with_losses(model, {"one": loss})
    assert hooks_of(model) == 0


def test_probabilities_without_a_closed_form_are_refused():
    model, _ = trained_model("phimoe")
    with pytest.raises(ConfigError, match="closed form"):
        with_losses(model, {"balance": LoadBalanceLoss()})


def test_what_has_no_loss_to_add_to_is_refused():
    model, _ = trained_model("olmoe")
    with pytest.raises(ConfigError, match="at least one"):
        with_losses(model, {})
    with pytest.raises(ConfigError, match="loss of its own"):
        with_losses(model.model, {"z": ZLoss()})
    with with_losses(model, {"z": ZLoss()}), pytest.raises(ConfigError, match="body was called alone"):
        model.model(input_ids=padded_batch()["input_ids"])
    model.requires_grad_(False)
    with with_losses(model, {"z": ZLoss()}), pytest.raises(ConfigError, match="trainable"):
        model(**padded_batch())


def test_a_models_own_balancing_is_told():
    model, _ = trained_model("olmoe")
    model.config.output_router_logits = True
    with pytest.warns(UserWarning, match="output_router_logits"):
        with_losses(model, {"z": ZLoss()}).remove()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([ZLoss()], "expected losses by name but got \\["),
        (ZLoss(), "expected losses by name but got "),
        (None, "expected losses by name but got None"),
        ({0: ZLoss()}, "expected losses by name but got 0"),
        ({"z": "ZLoss"}, "expected a loss, made of its class, but got 'ZLoss' \\(losses, 'z'\\)"),
        ({"z": ZLoss}, "expected a loss, made of its class, but got <class"),
    ],
)
def test_what_is_no_mapping_of_losses_is_refused_in_one_line(given, said):
    with pytest.raises(ConfigError, match=f"{said}.*Hint: with_losses"):
        with_losses(trained_model("olmoe")[0], given)
