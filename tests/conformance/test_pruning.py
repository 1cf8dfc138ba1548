"""Masked is removed: a model whose experts are masked answers as the one they are cut out of, in every family."""

import pytest
import torch
from found_models import IN_CI, TYPES, found_model
from transformers import AutoModelForCausalLM

from moe_tune.base.errors import ConfigError, ModelError
from moe_tune.gates.gated_model import GatedModel
from moe_tune.heads.masked_experts import MaskedExperts
from moe_tune.models.base_model import BaseModel
from moe_tune.models.families import families_with_files, family_of
from moe_tune.models.packed_experts import pack_experts
from moe_tune.models.removed_experts import cut_of, removed
from moe_tune.models.written_model import write_model

REFUSED = {"deepseek_v4": r"experts that a router chooses among but model\.layers\.0\.mlp\.gate"}
"""Types that cannot be cut, and why."""
IDS_BS = torch.randint(3, 60, (3, 9), generator=torch.Generator().manual_seed(1))
CLOSE = 1e-5
"""How far logits may lie apart, relatively to the largest of them where that is above 1."""


def gone_of(model, family):
    """Return two experts of each group and layer, other ones in each layer, and how many stay."""
    gone = {}
    for layer, block in family.moe_layers(model).items():
        replay = family.replay(block, layer)
        number = 1 if replay.groups is None else replay.groups.number
        size = replay.num_experts // number
        gone[layer] = sorted(group * size + (place + layer) % size for group in range(number) for place in (0, 3))
    return gone, replay.num_experts - len(gone[layer])


def kept_of(gone, experts):
    return {layer: [one for one in range(experts) if one not in out] for layer, out in gone.items()}


def answers(model):
    with torch.no_grad():
        return model(input_ids=IDS_BS, use_cache=False).logits


def masked_answers(model, family, gone, numerics):
    gated = GatedModel(model, family, MaskedExperts(gone), "all", "all", numerics)
    try:
        return answers(model)
    finally:
        gated.detach()


@pytest.mark.parametrize("model_type", sorted({*families_with_files(), *TYPES}))
def test_masked_is_removed_or_it_is_refused(model_type, tmp_path):
    """The folder is read by plain transformers; the unmasked model answers otherwise, so that it is no empty law."""
    model, family = found_model(model_type)
    gone, left = gone_of(model, family)
    if model_type in REFUSED:
        with pytest.raises(ModelError, match=REFUSED[model_type]):
            cut_of(model, family, left)
        return
    before, masked = answers(model), masked_answers(model, family, gone, "float32")
    native = masked_answers(model, family, gone, "native")
    size, cut = sum(one.numel() for one in model.state_dict().values()), cut_of(model, family, left)
    experts = left + len(next(iter(gone.values())))
    state = removed(model, family, cut, kept_of(gone, experts))
    write_model(tmp_path / "pruned", cut.config, state, BaseModel("nano").load_tokenizer())
    smaller = AutoModelForCausalLM.from_pretrained(tmp_path / "pruned", dtype="auto", experts_implementation="eager")
    came, atol = answers(smaller.eval()), CLOSE * max(1.0, float(before.abs().max()))
    torch.testing.assert_close(masked, came, atol=atol, rtol=0)
    torch.testing.assert_close(native, came, atol=atol, rtol=0)
    assert not torch.allclose(before, masked, atol=1e-3)
    assert sum(one.numel() for one in smaller.state_dict().values()) < size


@pytest.mark.parametrize("model_type", [one for one in IN_CI if one not in REFUSED])
def test_the_dtype_is_kept(model_type, tmp_path):
    found_model(model_type, torch.bfloat16)[0].save_pretrained(tmp_path / "published")
    model, family = AutoModelForCausalLM.from_pretrained(tmp_path / "published", dtype="auto"), family_of(model_type)
    gone, left = gone_of(model, family)
    wanted = {name: one.dtype for name, one in model.state_dict().items()}
    cut = cut_of(model, family, left)
    experts = left + len(next(iter(gone.values())))
    state = removed(model, family, cut, kept_of(gone, experts))
    assert {name: one.dtype for name, one in state.items()} == wanted
    write_model(tmp_path / "pruned", cut.config, state, BaseModel("nano").load_tokenizer())
    smaller = AutoModelForCausalLM.from_pretrained(tmp_path / "pruned", dtype="auto")
    assert {name: one.dtype for name, one in smaller.state_dict().items()} == wanted


@pytest.mark.parametrize("model_type", ["olmoe", "mixtral", "deepseek_v3", "gemma4_text"])
def test_k_can_be_lowered_with_them(model_type):
    model, family = found_model(model_type)
    gone, left = gone_of(model, family)
    cut = cut_of(model, family, left, top_k=1)
    removed(model, family, cut, kept_of(gone, left + len(next(iter(gone.values())))))
    smaller = AutoModelForCausalLM.from_config(cut.config, experts_implementation="eager")
    layer, block = next(iter(family_of(model_type).moe_layers(smaller).items()))
    replay = family.replay(block, layer)
    assert (replay.num_experts, replay.top_k) == (left, 1)


def test_what_no_stock_folder_can_hold_is_refused():
    model, family = found_model("olmoe")
    layers = list(family.moe_layers(model))
    cut = cut_of(model, family, 6)
    kept = {layer: list(range(6)) for layer in layers}
    with pytest.raises(ConfigError, match=r"same number of experts in every layer but got \[5, 6\]"):
        removed(model, family, cut, {**kept, layers[0]: list(range(5))})
    with pytest.raises(ConfigError, match="experts 0 to 7 of layer 0"):
        removed(model, family, cut, {**kept, layers[0]: [0, 1, 2, 3, 4, 8]})
    with pytest.raises(ConfigError, match="experts of layers"):
        removed(model, family, cut, {layers[0]: list(range(6))})
    with pytest.raises(ConfigError, match="2 to 8 experts of each layer to stay but got 1"):
        cut_of(model, family, 1)
    with pytest.raises(ConfigError, match="1 to 2 experts per token but got 3"):
        cut_of(model, family, 6, top_k=3)
    pack_experts(model, 8)
    with pytest.raises(ModelError, match="packed ones"):
        cut_of(model, family, 6)


def test_groups_lose_equally_many():
    model, family = found_model("deepseek_v3")
    with pytest.raises(ConfigError, match="a multiple of 2 experts"):
        cut_of(model, family, 29)
    with pytest.raises(ConfigError, match="1 groups of at least 2 experts that hold 4 together"):
        cut_of(model, family, 6)
    kept = {layer: list(range(30)) for layer in family.moe_layers(model)}
    with pytest.raises(ConfigError, match=r"each of the 2 groups of layer \d+ but got \[16, 14\]"):
        removed(model, family, cut_of(model, family, 30), kept)


def test_a_tensor_that_is_not_read_back_as_it_was_written_leaves_no_folder(tmp_path, monkeypatch):
    model, _ = found_model("olmoe")
    read = AutoModelForCausalLM.from_pretrained

    def changed(*words, **options):
        back, report = read(*words, **options)
        back.state_dict()["model.layers.1.mlp.gate.weight"][0, 0] += 1
        return back, report

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", changed)
    with pytest.raises(ModelError, match=r"got 1 others, \['model\.layers\.1\.mlp\.gate\.weight'\]"):
        write_model(tmp_path / "model", model.config, model.state_dict(), BaseModel("nano").load_tokenizer())
    assert [*tmp_path.iterdir()] == []
