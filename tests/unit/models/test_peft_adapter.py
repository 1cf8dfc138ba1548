"""A PEFT adapter starts as nothing, trains beside the heads, can be switched off, and is PEFT's own when saved."""

import copy
import json
import warnings

import pytest
import torch
from safetensors.torch import save_file

from moe_tune.base.errors import ConfigError
from moe_tune.gates.gated_model import GatedModel
from moe_tune.heads.identity import IdentityHead
from moe_tune.heads.retuned import RetunedHead
from moe_tune.models.adapter import PREFIX, Adapter

OPTIONS = [
    {"r": 4, "target_modules": ["q_proj", "v_proj"]},
    {"r": 4, "target_parameters": ["mlp.gate.weight"]},
    {"r": 2, "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"], "layers_to_transform": [1, 2]},
]
each_option = pytest.mark.parametrize("options", OPTIONS, ids=["attention", "router", "experts"])


def adapted(model, family, options, head):
    routers = GatedModel(model, family, head, "all", "all")
    routers.adapt(options)
    return routers


def shaken(routers):
    with torch.no_grad():
        for parameter in routers.adapter.parameters.values():
            parameter.add_(0.3 * torch.randn_like(parameter))


@each_option
@pytest.mark.parametrize("head", [IdentityHead(), RetunedHead()], ids=["alone", "beside"])
def test_it_starts_as_nothing_and_gradient_reaches_it_and_the_head(options, head, family, build_model, batch):
    model = build_model(family)
    stock = model(**batch).logits.detach()
    routers = adapted(model, family, options, head)
    logits = model(**batch).logits
    torch.testing.assert_close(logits, stock, atol=1e-5, rtol=1e-5)
    shaken(routers)
    model(**batch).logits[batch["attention_mask"].bool()].logsumexp(-1).sum().backward()
    names = set(routers.trainable())
    assert any(name.startswith("adapter.") for name in names)
    assert any(name.startswith("layers.") for name in names) == isinstance(head, RetunedHead)
    assert all(parameter.grad.abs().max() > 0 for parameter in routers.trainable().values())
    assert {id(p) for p in model.parameters() if p.requires_grad} == {id(p) for p in routers.trainable().values()}


@each_option
def test_switched_off_the_model_is_the_pretrained_one(options, family, build_model, batch):
    model = build_model(family)
    with torch.no_grad():
        stock = model(**batch).logits
        routers = adapted(model, family, options, RetunedHead())
        shaken(routers)
        changed = model(**batch).logits
        with routers.session(base_only=True):
            torch.testing.assert_close(model(**batch).logits, stock, atol=1e-5, rtol=1e-5)
        assert torch.equal(model(**batch).logits, changed)
    assert not torch.allclose(changed, stock, atol=1e-4)


@each_option
def test_the_files_are_those_of_peft(options, family, build_model, batch, tmp_path):
    from peft import PeftModel

    model = build_model(family)
    stock = copy.deepcopy(model)
    routers = adapted(model, family, options, IdentityHead())
    shaken(routers)
    own = {name: value.detach().contiguous() for name, value in routers.adapter.parameters.items()}
    assert all(name.startswith(PREFIX) for name in own)
    save_file(own, tmp_path / "adapter_model.safetensors", {"format": "pt"})
    (tmp_path / "adapter_config.json").write_text(json.dumps(routers.adapter.description("somewhere")))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.filterwarnings("error", category=UserWarning)  # PEFT warns of tensors that find no place
        back = PeftModel.from_pretrained(stock, str(tmp_path))
        torch.testing.assert_close(back(**batch).logits, model(**batch).logits, atol=1e-5, rtol=1e-5)


def test_frozen_tensors_keep_their_names_and_hashes(family, build_model):
    plain = GatedModel(build_model(family), family, IdentityHead()).frozen_hashes()
    for options in OPTIONS:
        assert adapted(build_model(family), family, options, IdentityHead()).frozen_hashes() == plain


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"rank": 4}, r"'rank'.*Did you mean"),
        ({"target_modules": ["nonesuch"]}, "nonesuch"),
        ({"target_parameters": ["mlp.gate.weight"], "lora_dropout": 0.1}, "lora_dropout"),
        ({"r": 0, "target_modules": ["q_proj"]}, "r"),
        ({"target_modules": ["q_proj", "nonesuch"]}, "'nonesuch'"),
        ({"target_modules": ["q_proj"], "target_parameters": ["mlp.nothing.weight"]}, "'mlp.nothing'"),
        ({"target_modules": ["q_proj"], "init_lora_weights": "pissa"}, "init_lora_weights"),
        ({"target_modules": ["q_proj"], "init_lora_weights": False}, "init_lora_weights"),
        ({"target_modules": ["q_proj"], "bias": "all"}, "bias"),
        ({"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"target_modules": ["q_proj"], "layer_replication": [[0, 1]]}, "layer_replication"),
        ({"target_modules": ["q_proj"], "megatron_config": {"a": 1}}, "model.peft"),
        ({"target_modules": "["}, "model.peft"),
    ],
)
def test_what_peft_cannot_do_is_refused(options, word, family, build_model):
    with pytest.raises(ConfigError, match=word):
        Adapter(build_model(family), options)


def test_dropout_acts_in_training_alone(family, build_model, batch):
    model = build_model(family)
    routers = adapted(model, family, {"r": 4, "target_modules": ["q_proj"], "lora_dropout": 0.5}, IdentityHead())
    shaken(routers)
    same = {}
    for mode in (True, False):
        routers.adapter.train(mode)
        with torch.no_grad():
            same[mode] = torch.equal(model(**batch).logits, model(**batch).logits)
    assert same == {True: False, False: True}


def test_the_lora_of_a_half_precision_model_is_trained_in_full_precision(family, build_model, batch):
    for options in OPTIONS:
        model = build_model(family, dtype=torch.bfloat16)
        routers = adapted(model, family, options, RetunedHead())
        shaken(routers)
        logits = model(**batch).logits
        assert logits.dtype == torch.bfloat16
        logits.float().logsumexp(-1).sum().backward()
        for parameter in routers.adapter.parameters.values():
            assert parameter.dtype == torch.float32
            assert parameter.grad.isfinite().all()


def test_base_logits_are_those_of_the_pretrained_router(family, build_model, batch):
    model = build_model(family)
    routers = GatedModel(model, family, IdentityHead(), "all", "all", "float32", ["base_logits"])
    with torch.no_grad():
        model(**batch)
        wanted_TE = routers.trace.outputs[0].logits_TE
        routers.adapt(OPTIONS[1])
        shaken(routers)
        model(**batch)
    output = routers.trace.outputs[0]
    assert torch.equal(output.base_logits_TE, wanted_TE)
    assert not torch.allclose(output.logits_TE, wanted_TE, atol=1e-3)
    assert routers.views[0].router_weight() is None, "a head alone does not say what the layer routes with"
