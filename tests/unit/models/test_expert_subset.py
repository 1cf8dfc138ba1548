"""A LoRA on some experts: as many parameters as one on all, the others left exactly as they were."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moe_tune.base.errors import ConfigError
from moe_tune.gates.gated_model import GatedModel
from moe_tune.heads.identity import IdentityHead
from moe_tune.models.expert_subset import ExpertSubset

ON_EXPERTS = {"r": 2, "lora_alpha": 4, "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]}


def adapted(model, family, **experts):
    gated = GatedModel(model, family, IdentityHead(), "all", "all")
    gated.adapt({**ON_EXPERTS, **({"experts": experts} if experts else {})})
    return gated


def changes(gated):
    """Return what the LoRA adds to each expert of each layer: (layer, expert) to the largest change of its weights."""
    return {
        (layer, expert): max(float(one.get_delta_weight("default")[expert].abs().max()) for one in modules)
        for layer, modules in gated.adapter.expert_layers().items()
        for expert in range(modules[0].num_experts)
    }


def loss(model, batch):
    return model(**batch).logits[batch["attention_mask"].bool()].logsumexp(-1).sum()


def test_every_share_has_as_many_parameters(family, build_model):
    counts = {
        share: adapted(build_model(family), family, by="random", share=share) for share in (0.125, 0.25, 0.5, 1.0)
    }
    every = adapted(build_model(family), family).trained_numbers
    assert {gated.trained_numbers for gated in counts.values()} == {every}
    assert counts[0.25].adapter.config.r == 8
    assert counts[0.25].adapter.config.lora_alpha == 16


def test_only_the_chosen_experts_change_however_long_it_trains(family, build_model, batch):
    model = build_model(family)
    gated = adapted(model, family, by="random", share=0.25)
    chosen = {0: [1, 5], 1: [0, 7], 2: [2, 3]}
    gated.adapter.restrict(chosen)
    optimizer = torch.optim.AdamW(gated.trainable().values(), lr=0.05, weight_decay=0.1)
    with torch.no_grad():
        before = model(**batch).logits
    for _ in range(5):
        optimizer.zero_grad()
        loss(model, batch).backward()
        optimizer.step()
    for (layer, expert), change in changes(gated).items():
        assert (change > 0) == (expert in chosen[layer]), (layer, expert)
    assert not torch.allclose(model(**batch).logits, before, atol=1e-3)


def test_the_gradient_of_the_chosen_is_what_it_was(family, build_model, batch):
    model = build_model(family)
    gated = adapted(model, family, by="random", share=0.5)
    with torch.no_grad():
        for one in gated.trainable().values():
            one.add_(0.1 * torch.randn_like(one))

    def gradients():
        for one in gated.trainable().values():
            one.grad = None
        loss(model, batch).backward()
        return {name: one.grad.clone() for name, one in gated.trainable().items()}

    free = gradients()
    gated.adapter.restrict(dict.fromkeys(range(3), range(8)))
    assert all(torch.equal(value, free[name]) for name, value in gradients().items())
    gated.adapter.restrict(dict.fromkeys(range(3), (2, 3)))
    kept = gradients()
    gated.adapter.restrict(dict.fromkeys(range(3), (0, 1, 4, 5, 6, 7)))
    others = gradients()
    for name, value in free.items():
        assert torch.equal(kept[name] + others[name], value), name
        assert not kept[name].equal(value)


@given(st.integers(1, 16), st.sampled_from([8, 16, 64, 128]), st.floats(0.01, 1))
def test_scaled_ranks_make_up_for_the_experts_left_out(rank, experts, share):
    subset = ExpertSubset("usage", share)
    try:
        scaled = subset.scaled({"r": rank, "lora_alpha": rank}, experts)
    except ConfigError:
        assert rank * experts % subset.count(experts)
        return
    assert scaled["r"] * subset.count(experts) == rank * experts
    assert scaled["lora_alpha"] == scaled["r"]


@pytest.mark.parametrize(
    ("experts", "word"),
    [
        ({"by": "usge"}, "one of usage, accuracy, random, effect, table"),
        ({"share": 0.5}, "a mapping with by"),
        ({"by": "usage", "shares": 0.5}, "Did you mean share"),
        ({"by": "usage", "share": 0}, "a share above 0"),
        ({"by": "usage", "share": 2}, "a share above 0"),
        ({"by": "table"}, "a file with by: effect or by: table"),
        ({"by": "effect"}, "a file with by: effect or by: table"),
        ({"by": "usage", "table": "x.csv"}, "a file with by: effect or by: table"),
        ({"by": "usage", "share": 0.37}, "a rank that is a whole number"),
        ({"by": "random", "seed": "first"}, "a whole number from 0"),
        ({"by": "table", "table": 5}, "names of a file and a column"),
    ],
)
def test_what_makes_no_sense_is_refused(experts, word, family, build_model):
    with pytest.raises(ConfigError, match=word):
        adapted(build_model(family), family, **experts)


def test_a_lora_elsewhere_has_no_experts_to_choose(family, build_model):
    gated = GatedModel(build_model(family), family, IdentityHead())
    with pytest.raises(ConfigError, match="a LoRA on fused expert weights"):
        gated.adapt({"r": 2, "target_modules": ["q_proj"], "experts": {"by": "usage"}})


@pytest.mark.parametrize(
    "more",
    [
        {"target_modules": ["q_proj"]},
        {"target_parameters": [*ON_EXPERTS["target_parameters"], "mlp.gate.weight"]},
        {"use_rslora": True},
        {"rank_pattern": {"down_proj": 3}},
    ],
    ids=str,
)
def test_what_would_give_shares_other_sizes_is_refused(more, family, build_model):
    """The rank of everything else would be raised too, and its parameters with it."""
    gated = GatedModel(build_model(family), family, IdentityHead())
    with pytest.raises(ConfigError, match="a LoRA on fused expert weights"):
        gated.adapt({**ON_EXPERTS, **more, "experts": {"by": "random"}})


def test_the_step_of_a_raised_rank_is_the_same_where_it_is_no_whole_number():
    scaled = ExpertSubset("usage", 3 / 64).scaled({"r": 3, "lora_alpha": 8}, 64)
    assert scaled["lora_alpha"] / scaled["r"] == pytest.approx(8 / 3)


def test_a_key_that_is_no_word_is_named():
    with pytest.raises(ConfigError, match=r"a key of model\.peft\.experts but got 3"):
        ExpertSubset.of({"by": "usage", 3: 1})
