"""A head with its own way of mixing expert outputs is honoured where it acts; any other leaves the experts alone."""

import pytest
import torch

from moe_tune.base.errors import ConfigError
from moe_tune.gates.gated_model import GatedModel
from moe_tune.gates.tuned_experts import TunedExperts
from moe_tune.heads.base import HeadTraits, RouterHead
from moe_tune.heads.identity import IdentityHead
from moe_tune.heads.retuned import RetunedHead
from moe_tune.heads.stack import Stack
from moe_tune.heads.temperature import TemperatureHead


class _Mixing(RouterHead):
    """A head that multiplies the expert outputs."""

    factor = 2.0

    @property
    def traits(self):
        return HeadTraits(exact_start=False, reason="multiplies")

    def mix(self, mixed_TD, hidden_TD, output, experts):
        return self.factor * super().mix(mixed_TD, hidden_TD, output, experts)


class _MixingByOne(_Mixing):
    factor = 1.0


def mlp_outputs(model, batch, layer=2):
    """Return what the experts of a layer add, by token."""
    kept = []
    hook = model.model.layers[layer].mlp.register_forward_hook(lambda module, args, output: kept.append(output))
    with torch.no_grad():
        model(**batch)
    hook.remove()
    return kept[0].flatten(0, 1)


@pytest.mark.parametrize("wrap", [lambda head: head, lambda head: Stack({"one": IdentityHead(), "two": head})])
@pytest.mark.parametrize("implementation", ["eager", "grouped_mm"])
@pytest.mark.parametrize("scope", ["answer", "all"])
def test_a_head_that_mixes_is_honoured_where_it_acts(family, build_model, batch, scope, implementation, wrap):
    model = build_model(family, experts=implementation)
    stock_TD = mlp_outputs(model, batch)
    names = [name for name, _ in model.named_modules()]
    routers = GatedModel(model, family, wrap(_Mixing()), [2], scope)
    mixed_TD = mlp_outputs(model, batch)
    acts_T = routers.trace.mask(scope)
    torch.testing.assert_close(mixed_TD[acts_T], 2 * stock_TD[acts_T], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(mixed_TD[~acts_T], stock_TD[~acts_T], atol=1e-6, rtol=1e-5)
    with routers.session(base_only=True):
        assert torch.equal(mlp_outputs(model, batch), stock_TD)
    routers.detach()
    assert torch.equal(mlp_outputs(model, batch), stock_TD)
    assert [name for name, _ in model.named_modules()] == names


def test_a_head_that_does_not_mix_leaves_the_experts_untouched(family, tiny_model):
    experts = [block.get_submodule(family.experts_path) for block in family.moe_layers(tiny_model).values()]
    GatedModel(tiny_model, family, Stack({"one": RetunedHead(), "two": TemperatureHead()}), "all")
    now = [block.get_submodule(family.experts_path) for block in family.moe_layers(tiny_model).values()]
    assert all(one is other for one, other in zip(experts, now, strict=True))


def test_only_layers_with_the_mixing_head_are_wrapped(family, tiny_model):
    GatedModel(tiny_model, family, _Mixing(), [1])
    wrapped = {name for name, module in tiny_model.named_modules() if isinstance(module, TunedExperts)}
    assert wrapped == {f"model.layers.1.{family.experts_path}"}


def test_mixing_as_the_family_does_gives_the_same_gradient(family, build_model, batch):
    gradients = []
    for mixer in (IdentityHead(), _MixingByOne()):
        model = build_model(family)
        routers = GatedModel(model, family, Stack({"retuned": RetunedHead(), "mixer": mixer}), "all", "all")
        model(**batch).logits[batch["attention_mask"].bool()].logsumexp(-1).sum().backward()
        gradients.append([parameter.grad for parameter in routers.trainable().values()])
    for plain, mixed in zip(*gradients, strict=True):
        assert plain.abs().max() > 0
        torch.testing.assert_close(mixed, plain, atol=1e-5, rtol=1e-4)


def test_two_heads_that_mix_are_refused_and_nothing_is_changed(family, tiny_model):
    stack = Stack({"one": _Mixing(), "two": _MixingByOne()})
    with pytest.raises(ConfigError, match=r"_Mixing.*_MixingByOne"):
        GatedModel(tiny_model, family, stack)
    GatedModel(tiny_model, family, IdentityHead())
