"""Every model family finds its routers, scores as the stock gate does, and brings models small enough for tests."""

import inspect

import pytest
import torch

from moe_tune.base.errors import ModelError
from moe_tune.gates.gated_model import GatedModel
from moe_tune.heads.base import decide
from moe_tune.heads.identity import IdentityHead
from moe_tune.heads.retuned import RetunedHead
from moe_tune.models.families import families_with_files, family_of

FAMILIES = {kind.__name__: kind for kind in families_with_files().values()}


def test_a_family_is_found_by_its_model_type(family):
    assert family.tiny_config().model_type == family.model_type == family.small_config(1000).model_type
    assert family.small_config(1000).vocab_size == 1000


def test_an_unknown_family_is_refused_with_a_guess():
    with pytest.raises(ModelError, match="Did you mean olmoe"):
        family_of("olmo")


def test_the_tiny_model_is_tiny_and_the_small_one_small(family, build_model):
    assert sum(p.numel() for p in build_model(family).parameters()) < 100_000
    with torch.device("meta"):
        from transformers import AutoModelForCausalLM

        small = AutoModelForCausalLM.from_config(family.small_config(1000))
    assert 100_000 < sum(p.numel() for p in small.parameters()) < 10_000_000


def test_routers_are_found_in_layer_order(family, tiny_model):
    layers = family.moe_layers(tiny_model)
    assert list(layers) == [0, 1, 2]
    for index, layer in layers.items():
        assert layer.get_submodule(family.experts_path).get_parameter("gate_up_proj").dim() == 3
        rule = family.rule(family.replay(layer, index))
        config = tiny_model.config
        assert (rule.top_k, rule.num_experts) == (config.num_experts_per_tok, config.num_experts)
        assert rule.renormalise == config.norm_topk_prob


def test_a_model_without_routers_is_refused(family, build_model):
    model = build_model(family)
    for layer in model.model.layers:
        layer.mlp = torch.nn.Linear(16, 16)
    with pytest.raises(ModelError, match="routers"):
        family.moe_layers(model)


@pytest.mark.parametrize("renormalise", [False, True])
def test_the_rule_decides_as_the_stock_gate(family, build_model, renormalise):
    model = build_model(family, norm_topk_prob=renormalise)
    replay = family.replay(family.moe_layers(model)[1], 1)
    gate = replay.gate
    hidden_TD = torch.randn(40, 16)
    with torch.no_grad():
        logits_TE, weights_TK, experts_TK = gate(hidden_TD)
        came = decide(IdentityHead(), family.rule(replay), hidden_TD, logits_TE, stock_ties=True)
    assert torch.equal(came.experts_TK, experts_TK)
    assert torch.equal(came.weights_TK, weights_TK)
    assert not torch.allclose(logits_TE.sum(-1), torch.ones(40)), "raw logits, not probabilities"


def test_a_tuned_gate_is_still_a_gate_of_the_family(family, tiny_model):
    stock_class = type(family.moe_layers(tiny_model)[0].get_submodule(family.gate_path))
    routers = GatedModel(tiny_model, family, IdentityHead())
    assert all(isinstance(gate, stock_class) for gate in routers.gates.values())


def test_dense_layers_are_left_out():
    family = family_of("qwen3_moe")
    model = build_model_with_dense_layer(family)
    assert list(family.moe_layers(model)) == [0, 2]
    routers = GatedModel(model, family, IdentityHead(), "last-5")
    assert routers.layers == (0, 2)
    model(torch.ones(1, 4, dtype=torch.long))
    assert sorted(routers.trace.outputs) == [0, 2]


def build_model_with_dense_layer(family):
    from transformers import AutoModelForCausalLM

    config = family.tiny_config()
    config.mlp_only_layers = [1]
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("kind", FAMILIES.values(), ids=FAMILIES)
def test_documentation_is_complete(kind):
    text = inspect.getdoc(kind)
    assert text.split("\n\n")[0].endswith(".")
    assert "Reference:" in text
    assert kind.model_type


def gates_of(family, model):
    return [block.get_submodule(family.gate_path) for block in family.moe_layers(model).values()]


@pytest.mark.parametrize("where", ["gate", "block"])
@pytest.mark.parametrize("kind", ["parameter", "buffer"])
def test_a_router_with_more_to_it_than_the_family_knows_is_refused(kind, where, family, tiny_model):
    gate = gates_of(family, tiny_model)[2]
    owner = gate if where == "gate" else family.moe_layers(tiny_model)[2].mlp
    if kind == "parameter":
        owner.bias = torch.nn.Parameter(torch.zeros(8))
    else:
        owner.register_buffer("bias", torch.zeros(8), persistent=False)
    with pytest.raises(ModelError, match=r"mlp\.(gate\.)?bias"):
        GatedModel(tiny_model, family, IdentityHead())
    assert gates_of(family, tiny_model)[2] is gate, "nothing is changed"
    assert tiny_model.lm_head.weight.requires_grad


def test_a_router_that_decides_otherwise_is_refused(family, tiny_model):
    gate = gates_of(family, tiny_model)[1]
    forward = gate.forward

    def doubled(hidden_TD):
        logits_TE, weights_TK, experts_TK = forward(hidden_TD)
        return logits_TE, 2 * weights_TK, experts_TK

    gate.forward = doubled
    with pytest.raises(ModelError, match="layer 1"):
        GatedModel(tiny_model, family, IdentityHead())


@pytest.mark.parametrize("head", [IdentityHead(), RetunedHead()])
def test_what_a_family_claims_reaches_the_logits(head, family, build_model, batch):
    """A bias, an input norm and a buffer of a router are kept, in the stock gate's place and under it."""
    model = build_model(family)

    class Richer(type(gates_of(family, model)[0])):
        def forward(self, hidden_states):
            return super().forward(self.norm(hidden_states) * self.scale + self.shift.sum())

    class RicherFamily(type(family)):
        model_type = "richer"
        gate_tensors = frozenset({"weight", "norm.weight", "shift", "scale"})

        def logits(self, gate, hidden_TD):
            read_TD = gate.norm(hidden_TD) * gate.scale + gate.shift.sum()
            return torch.nn.functional.linear(read_TD, gate.weight.to(hidden_TD.dtype))

    for gate in gates_of(family, model):
        gate.__class__ = Richer
        gate.norm = torch.nn.RMSNorm(16)
        gate.shift = torch.nn.Parameter(torch.randn(16))
        gate.register_buffer("scale", torch.rand(16))
    with torch.no_grad():
        stock = model(**batch).logits
        routers = GatedModel(model, RicherFamily(), head, "all", "all", "native")
        assert torch.equal(model(**batch).logits, stock)
        model.double()
        assert all(gate.scale is gate.stock[0].scale for gate in routers.gates.values()), "moved with the model"
        routers.detach()
        model(**batch)


def test_every_layer_has_a_rule_of_its_own(family, tiny_model, batch):
    gates_of(family, tiny_model)[1].norm_topk_prob = not tiny_model.config.norm_topk_prob
    with torch.no_grad():
        stock = tiny_model(**batch).logits
        routers = GatedModel(tiny_model, family, RetunedHead(), "all", "all", "native")
        assert torch.equal(tiny_model(**batch).logits, stock)
    rules = [output.rule.renormalise for output in routers.trace.outputs.values()]
    assert rules == [gate.norm_topk_prob for gate in routers.gates.values()]
    assert len(set(rules)) == 2
