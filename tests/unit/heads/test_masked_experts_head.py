"""Masked experts: never chosen whatever else acts, in every family, and refused where too few are left."""

import pytest
import torch
from found_models import IN_CI, found_model
from torch.nn import functional

from moe_tune.base.errors import ConfigError
from moe_tune.gates.gated_model import GatedModel
from moe_tune.heads.accuracy_bias import AccuracyBiasHead
from moe_tune.heads.base import BaseGate, decide
from moe_tune.heads.fixed_k import FixedKHead
from moe_tune.heads.identity import IdentityHead
from moe_tune.heads.masked_experts import MaskedExperts
from moe_tune.heads.retuned import RetunedHead
from moe_tune.heads.routes import RoutesHead
from moe_tune.heads.stack import Stack
from moe_tune.heads.steer import SteerHead
from moe_tune.heads.strength import Strength
from moe_tune.heads.top_p import TopPHead
from moe_tune.metrics.gate_margin import boundary
from moe_tune.models.gate_replay import Groups
from moe_tune.routing import SoftmaxRule, entropy

IDS_BS = torch.randint(3, 60, (3, 9), generator=torch.Generator().manual_seed(1))
RULE = SoftmaxRule(2, 6, renormalise=False)


def bound(head, rule=RULE):
    return head.bound_to(BaseGate(torch.randn(rule.num_experts, 4), rule, 0)).eval()


def masked_everywhere(family, model, every=3):
    """Return a head that masks every third expert of each layer."""
    blocks = family.moe_layers(model)
    rule = family.rule(family.replay(next(iter(blocks.values())), min(blocks)))
    return MaskedExperts({layer: list(range(0, rule.num_experts, every)) for layer in blocks})


@pytest.mark.parametrize("numerics", ["float32", "native"])
@pytest.mark.parametrize("model_type", IN_CI)
def test_a_masked_expert_is_never_chosen(model_type, numerics):
    """Whatever its bias: that of the masked is the largest."""
    model, family = found_model(model_type)
    head = masked_everywhere(family, model)
    for block in family.moe_layers(model).values():
        for name, one in block.named_buffers():
            if "bias" in name:
                one.view(-1)[::3] = 5.0
    gated = GatedModel(model, family, head, "all", "all", numerics)
    with torch.no_grad():
        assert model(input_ids=IDS_BS, use_cache=False).logits.isfinite().all()
    for layer, output in gated.trace.outputs.items():
        masked = torch.tensor(head.experts[layer])
        assert not torch.isin(output.experts_TK, masked).any()
        assert (output.experts_TK.sort(-1).values.diff() > 0).all()
        if model_type != "gemma4_text":  # what is recorded there are probabilities
            assert (output.probs_TE[:, masked] == 0).all()
        assert entropy(output.probs_TE).isfinite().all()
        assert output.rule.log_probabilities(output.logits_TE).isfinite().all()
        assert output.logits_TE.logsumexp(-1).isfinite().all()


@pytest.mark.parametrize("numerics", ["float32", "native"])
@pytest.mark.parametrize("model_type", IN_CI)
def test_to_mask_none_changes_no_bit(model_type, numerics):
    model, family = found_model(model_type)
    results = []
    for head in (IdentityHead(), MaskedExperts({layer: [] for layer in family.moe_layers(model)})):
        gated = GatedModel(model, family, head, "all", "all", numerics)
        with torch.no_grad():
            results.append(model(input_ids=IDS_BS, use_cache=False).logits)
        gated.detach()
    assert torch.equal(*results)


def test_it_is_the_router_without_the_rows():
    torch.manual_seed(0)
    weight_ED, hidden_TD = torch.randn(6, 4), torch.randn(40, 4)
    head = MaskedExperts({0: [1, 4]}).bound_to(BaseGate(weight_ED, RULE, 0))
    came = decide(head, RULE, hidden_TD, functional.linear(hidden_TD, weight_ED))
    kept = torch.tensor([0, 2, 3, 5])
    smaller = SoftmaxRule(2, 4, renormalise=False)
    wanted = decide(None, smaller, hidden_TD, functional.linear(hidden_TD, weight_ED[kept]))
    assert torch.equal(came.experts_TK, kept[wanted.experts_TK])
    torch.testing.assert_close(came.weights_TK, wanted.weights_TK)


@pytest.mark.parametrize(
    "other",
    [SteerHead(promote=2), AccuracyBiasHead("select"), RetunedHead(), TopPHead(p=1.0, slots=6), FixedKHead(6)],
    ids=lambda one: type(one).__name__,
)
@pytest.mark.parametrize("first", [True, False])
def test_nothing_brings_an_expert_back(other, first):
    torch.manual_seed(0)
    parts = {"mask": MaskedExperts({0: [1, 4]}), "other": other}
    head = bound(Stack(parts if first else dict(reversed(parts.items()))))
    for name, value in head.state_dict().items():
        if "promoted_E" in name or "bias_E" in name:
            value[1] = 100.0
    came = decide(head, RULE, torch.randn(30, 4), torch.randn(30, 6))
    assert not torch.isin(came.experts_TK, torch.tensor([1, 4])).any()
    assert came.weights_TK.isfinite().all()


def test_two_masks_are_one():
    torch.manual_seed(0)
    hidden_TD, logits_TE = torch.randn(30, 4), torch.randn(30, 6)
    both = bound(Stack({"a": MaskedExperts({0: [1]}), "b": MaskedExperts({0: [4, 1]})}))
    came, wanted = (decide(one, RULE, hidden_TD, logits_TE) for one in (both, bound(MaskedExperts({0: [1, 4]}))))
    assert torch.equal(came.experts_TK, wanted.experts_TK)
    with pytest.raises(ConfigError, match=r"at least 2 experts .* in layer 0 but got 1"):
        bound(Stack({"a": MaskedExperts({0: [0, 1, 2]}), "b": MaskedExperts({0: [3, 4]})}))


def test_gradients_and_figures_stay_finite():
    torch.manual_seed(0)
    head = bound(Stack({"retuned": RetunedHead(), "mask": MaskedExperts({0: [1, 4, 0, 2]})}))
    came = decide(head, RULE, torch.randn(30, 4), torch.randn(30, 6))
    loss = came.weights_TK.square().sum() + RULE.log_probabilities(came.logits_TE).square().mean()
    (loss + came.logits_TE.logsumexp(-1).square().mean() + entropy(came.probs_TE).sum()).backward()
    assert all(one.grad.isfinite().all() for one in head.parameters())


@pytest.mark.parametrize(
    ("experts", "message"),
    [
        ({0: [1, 1]}, "different experts in layer 0"),
        ({0: [6]}, "experts of layer 0, which has 6"),
        ({0: [-1]}, "experts of layer 0"),
        ({0: [0, 1, 2, 3, 4]}, "at least 2 experts .* in layer 0 but got 1"),
    ],
)
def test_what_is_not_there_or_too_few_is_refused(experts, message):
    with pytest.raises(ConfigError, match=message):
        bound(MaskedExperts(experts))


def test_heads_that_a_mask_does_not_fit_are_refused():
    with pytest.raises(ConfigError, match="would bring them back"):
        Stack({"mask": MaskedExperts({0: [1]}), "routes": RoutesHead("none.parquet")})
    with pytest.raises(ConfigError, match="changes logits alone"):
        Strength(MaskedExperts({0: [1]}), 0.5)
    head = MaskedExperts({0: [1], 3: [2]})
    with pytest.raises(ConfigError, match=r"layers of \[0, 1\]"):
        head.refuse_layers([0, 1])
    with pytest.raises(ConfigError, match=r"layers that get the head, \[3\],"):
        head.refuse_places([3])


def test_groups_have_to_have_enough_each():
    """Of two groups of four a token chooses one, and two experts of it."""
    groups = Groups(2, 1, 2)
    assert groups.left_by(torch.tensor([0, 0, 1, 1, 0, 0, 0, 0], dtype=torch.bool)) == 2
    assert Groups(2, 2, 2).left_by(torch.tensor([1, 1, 1, 0, 0, 0, 0, 0], dtype=torch.bool)) == 0
    model, family = found_model("deepseek_v3")
    layer, block = next(iter(family.moe_layers(model).items()))
    replay = family.replay(block, layer)
    assert replay.groups == Groups(2, 1, 2)
    some = list(range(replay.num_experts // 2 - replay.top_k + 1))
    with pytest.raises(ConfigError, match=f"in layer {layer} but got {replay.top_k - 1}"):
        MaskedExperts({layer: some}).bound_to(BaseGate(replay.weight(block.mlp.gate), family.rule(replay), layer))
    MaskedExperts({layer: some[1:]}).bound_to(BaseGate(replay.weight(block.mlp.gate), family.rule(replay), layer))


def test_a_masked_expert_is_none_that_is_left_out():
    """With as many as a token needs there is no margin to speak of."""
    model, family = found_model("olmoe")
    blocks = family.moe_layers(model)
    gated = GatedModel(model, family, MaskedExperts({layer: list(range(6)) for layer in blocks}), "all", "all")
    with torch.no_grad():
        model(input_ids=IDS_BS, use_cache=False)
    for output in gated.trace.outputs.values():
        assert (boundary(output, output.logits_TE)[1] == -torch.inf).all()
