"""Quantised experts compute what their unpacked weights compute, and nothing else of a model is changed."""

import copy
import shutil

import pytest
import torch
from found_models import found_model
from hypothesis import given
from hypothesis import strategies as st
from transformers import core_model_loading

from moe_tune.base.errors import ConfigError, ModelError
from moe_tune.data.nano_quiz import NanoQuiz
from moe_tune.data.protocol import load_protocol
from moe_tune.data.question import number_questions
from moe_tune.gates.frozen import tensor_hashes
from moe_tune.gates.gated_model import GatedModel
from moe_tune.heads.dense_mixer import DenseMixerHead
from moe_tune.heads.retuned import RetunedHead
from moe_tune.models.base_model import NANO, BaseModel
from moe_tune.models.experts_choice import measured_choice
from moe_tune.models.families import family_of
from moe_tune.models.packed_experts import NAME, pack_experts
from moe_tune.models.packed_weight import GROUP, PackedWeight, fused_weights
from moe_tune.models.shapes import adapter_parameters
from moe_tune.tuner.router_tuner import RouterTuner

LAYOUTS = ("olmoe", "gpt_oss", "aria_text", "nemotron_h")
"""Outputs first; inputs first with biases; inputs first; experts without a gate."""
FUSED = ("gate_up_proj", "down_proj")
each_width = pytest.mark.parametrize("bits", [8, 4])
each_layout = pytest.mark.parametrize("model_type", LAYOUTS)


def packed_and_unpacked(model_type, bits, dtype=torch.float32):
    """Return a model with packed experts, the same one with what they unpack to, and their family."""
    model, family = found_model(model_type, dtype)
    packed, unpacked = copy.deepcopy(model), model
    pack_experts(packed, bits)
    for module, theirs in zip(unpacked.modules(), [*plain_modules(packed)], strict=True):
        for name, one in theirs.named_children():
            if isinstance(one, PackedWeight):
                getattr(module, name).data = torch.stack([one[expert] for expert in range(len(one))])
    return packed, unpacked, family


def plain_modules(model):
    return [one for one in model.modules() if not isinstance(one, PackedWeight)]


def experts_of(model, family):
    return next(reversed(family.moe_layers(model).values())).get_submodule(family.experts_path)


@given(st.sampled_from([8, 4]), st.booleans(), st.integers(1, 3), st.integers(1, 5), st.integers(1, 80), st.data())
def test_a_weight_comes_back_within_half_a_step(bits, transposed, experts, outputs, half, data):
    inputs = 2 * half
    values = st.floats(-8, 8, width=16)
    weight_EIO = torch.tensor(data.draw(st.lists(values, min_size=outputs * inputs, max_size=outputs * inputs)))
    weight_EIO = (
        weight_EIO.view(inputs, outputs).expand(experts, -1, -1) * torch.arange(1.0, experts + 1)[:, None, None]
    )
    packed = PackedWeight(weight_EIO if transposed else weight_EIO.mT, bits, transposed)
    for expert in range(experts):
        step_IO = (packed.scale[expert].expand(-1, inputs // packed.scale.shape[1], -1)).reshape(inputs, outputs)
        off_IO = (packed.unpacked(expert) - weight_EIO[expert]).abs()
        assert bool((off_IO <= 0.501 * step_IO + 1e-5).all())
        assert torch.equal(packed[expert], packed.unpacked(expert) if transposed else packed.unpacked(expert).T)


def test_groups_of_inputs_have_scales_of_their_own():
    weight_EOI = torch.ones(1, 3, 4 * GROUP)
    weight_EOI[..., GROUP : 2 * GROUP] = torch.linspace(-100, 100, GROUP)
    packed = PackedWeight(weight_EOI, 4, transposed=False)
    assert packed.scale.shape == (1, 4, 1, 3)
    assert torch.equal(packed[0][:, :GROUP], weight_EOI[0, :, :GROUP])
    assert torch.equal(packed[0][:, 2 * GROUP :], weight_EOI[0, :, 2 * GROUP :])


@pytest.mark.parametrize(("bits", "most"), [(8, 8.1), (4, 5.1)])
def test_bytes_are_as_few_as_promised(bits, most):
    weight = PackedWeight(torch.randn(2, 256, 512).bfloat16(), bits, transposed=False)
    assert 8 * sum(one.nbytes for one in weight.buffers()) <= most * 2 * 256 * 512


def test_an_odd_number_of_inputs_is_refused_at_4_bits():
    PackedWeight(torch.randn(2, 4, 7), 8, transposed=False)
    with pytest.raises(ModelError, match="even number of inputs but got 7"):
        PackedWeight(torch.randn(2, 4, 7), 4, transposed=False)


@each_width
@each_layout
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_outputs_and_gradients_are_those_of_unpacked_weights(model_type, bits, dtype, tolerance):
    packed, unpacked, family = packed_and_unpacked(model_type, bits, dtype)
    results = []
    for model in (packed, unpacked):
        torch.manual_seed(1)
        experts = experts_of(model, family)
        count = len(fused_weights(experts)[0])
        hidden_TD = torch.randn(40, 16, dtype=dtype, requires_grad=True)
        weights_TK = torch.rand(40, 2, dtype=dtype, requires_grad=True)
        mixed_TD = experts(hidden_TD, torch.rand(40, count).topk(2).indices, weights_TK)
        mixed_TD.square().sum().backward()
        results.append((mixed_TD, hidden_TD.grad, weights_TK.grad))
    for came, wanted in zip(*results, strict=True):
        torch.testing.assert_close(came, wanted, atol=tolerance * float(wanted.detach().abs().max()), rtol=tolerance)


@each_width
@each_layout
def test_the_gradient_is_the_slope(model_type, bits):
    packed, _, family = packed_and_unpacked(model_type, bits)
    experts = experts_of(packed.double(), family)
    experts_TK = torch.tensor([[0, 1], [1, 3], [2, 1]])

    def mixed(hidden_TD, weights_TK):
        return experts(hidden_TD, experts_TK, weights_TK)

    given_TD, weights_TK = torch.randn(3, 16).double(), torch.rand(3, 2).double()
    if model_type == "nemotron_h":  # its activation has a corner
        given_TD = given_TD + 0.1
    assert torch.autograd.gradcheck(mixed, (given_TD.requires_grad_(), weights_TK.requires_grad_()))


@each_width
@each_layout
def test_a_head_on_it_gets_the_gradient_it_gets_with_unpacked_weights(model_type, bits):
    results = []
    for model in packed_and_unpacked(model_type, bits)[:2]:
        gated = GatedModel(model, family_of(model_type), RetunedHead(), "all", "all", "native")
        ids_BS = torch.randint(3, 60, (3, 9), generator=torch.Generator().manual_seed(1))
        logits_BSV = model(input_ids=ids_BS, use_cache=False).logits
        logits_BSV.logsumexp(-1).sum().backward()
        results.append((logits_BSV, *(one.grad for one in gated.trainable().values())))
    assert len(results[0]) > 1
    for came, wanted in zip(*results, strict=True):
        torch.testing.assert_close(came, wanted, atol=1e-4 * float(wanted.detach().abs().max()), rtol=1e-4)


def test_no_unpacked_weight_is_kept_for_the_gradient():
    weight = PackedWeight(torch.randn(2, 64, 32), 4, transposed=False)
    seen = []
    hidden_NI = torch.randn(3, 32, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda one: seen.append(one.shape) or one, lambda one: one):
        weight.product(hidden_NI, 1).sum()
    assert (32, 64) not in seen
    assert (64, 32) not in seen


@each_width
def test_under_autocast_it_is_what_unpacked_weights_are(bits):
    results = []
    for model in packed_and_unpacked("olmoe", bits)[:2]:
        experts = experts_of(model, family_of("olmoe"))
        torch.manual_seed(1)
        hidden_TD, weights_TK = torch.randn(5, 16, requires_grad=True), torch.rand(5, 2)
        with torch.autocast("cpu", torch.bfloat16):
            mixed_TD = experts(hidden_TD, torch.rand(5, 8).topk(2).indices, weights_TK)
        mixed_TD.sum().backward()
        assert hidden_TD.grad.dtype == torch.float32
        results.append((mixed_TD, hidden_TD.grad))
    for came, wanted in zip(*results, strict=True):
        torch.testing.assert_close(came, wanted, atol=2e-2 * float(wanted.detach().abs().max()), rtol=2e-2)


@each_width
def test_a_model_is_packed_while_it_is_read_and_nothing_else_of_it_changes(bits):
    stock, family = BaseModel("nano").load()
    one_by_one = BaseModel("nano", quantise=bits).load()[0]
    at_once = copy.deepcopy(stock)
    pack_experts(at_once, bits)
    assert tensor_hashes(one_by_one) == tensor_hashes(at_once)
    before, after = tensor_hashes(stock), tensor_hashes(one_by_one)
    assert {name for name in before if before[name] != after.get(name)} == {
        f"model.layers.{layer}.mlp.experts.{name}" for layer in family.moe_layers(stock) for name in FUSED
    }
    assert all(".packed" in name or ".scale" in name or ".minimum" in name for name in after.keys() - before.keys())
    assert one_by_one.config._experts_implementation == NAME
    assert not any(one.is_meta for one in [*one_by_one.parameters(), *one_by_one.buffers()])
    assert not one_by_one.training


@pytest.mark.parametrize("model_type", ["gpt_oss", "mixtral"])
def test_other_layouts_are_packed_from_their_files_too(model_type, tmp_path):
    model, _ = found_model(model_type)
    model.save_pretrained(tmp_path)
    pack_experts(model, 4)
    read, _ = BaseModel(str(tmp_path), quantise=4).load()
    assert tensor_hashes(read) == tensor_hashes(model)


@pytest.mark.parametrize("missing", ["experts", "norm"])
def test_a_model_with_a_weight_too_few_is_refused_as_ever(missing, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(NANO, tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    gone = next(name for name in tensors if missing in name)
    tensors = {name: one for name, one in tensors.items() if name.split("experts")[0] != gone.split("experts")[0]}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="missing keys"):
        BaseModel(str(folder), quantise=4).load()


def test_while_a_model_is_read_only_the_weight_that_is_being_packed_is_there_unpacked(monkeypatch):
    stock, pack = core_model_loading.set_param_for_module, PackedWeight.__init__
    models, there = [], []

    def kept(model, *rest):
        models.append(model)
        stock(model, *rest)

    def counted(self, *given):
        there.append(sum(one.dim() == 3 and not one.is_meta for one in models[-1].parameters()))
        pack(self, *given)

    monkeypatch.setattr(core_model_loading, "set_param_for_module", kept)
    monkeypatch.setattr(PackedWeight, "__init__", counted)
    model, family = BaseModel("nano", quantise=4).load()
    assert there == [1] * 2 * len(family.moe_layers(model))
    assert core_model_loading.set_param_for_module is kept


@each_width
def test_random_models_are_quantised_too(bits):
    base = BaseModel("random", tokenizer=str(NANO / "tokenizer.json"), quantise=bits)
    model, family = base.load()
    assert all(isinstance(one, PackedWeight) for one in fused_weights(experts_of(model, family)))
    assert tensor_hashes(model) == tensor_hashes(base.load()[0])


@pytest.mark.parametrize("name", ["eager", "grouped_mm", "batched_mm", "blocked"])
def test_another_implementation_is_refused(name):
    with pytest.raises(ConfigError, match=r"auto for quantised experts but got .*model\.base\.experts_implementation"):
        BaseModel("nano", quantise=4, experts_implementation=name).load()


def test_the_implementation_is_not_measured():
    model, family = BaseModel("nano", quantise=8).load()
    family.moe_layers(model)[0].mlp.experts.register_forward_pre_hook(lambda *_: 1 / 0)
    assert measured_choice(model, family) == NAME


@pytest.mark.parametrize(
    "options",
    [
        {"r": 2, "target_parameters": ["mlp.experts.gate_up_proj"]},
        {"r": 2, "target_modules": ["q_proj", "down_proj"]},
        {"r": 2, "target_modules": ".*gate_up_proj"},
    ],
)
def test_a_lora_on_quantised_experts_is_refused(options):
    model, family = BaseModel("nano", quantise=4).load()
    gated = GatedModel(model, family, RetunedHead(), "last-2")
    with pytest.raises(ConfigError, match=r"model\.peft.*model\.base\.quantise"):
        gated.adapt(options)


def test_what_is_estimated_of_a_lora_knows_of_quantised_experts():
    base, plain = BaseModel("nano", quantise=4), BaseModel("nano")
    attention = {"r": 2, "target_modules": ["q_proj"]}
    assert adapter_parameters(base, attention) == adapter_parameters(plain, attention)
    with pytest.raises(ConfigError, match=r"model\.base\.quantise"):
        adapter_parameters(base, {"r": 2, "target_parameters": ["mlp.experts.down_proj"]})


def test_a_lora_beside_quantised_experts_is_not():
    model, family = BaseModel("nano", quantise=4).load()
    gated = GatedModel(model, family, RetunedHead(), "last-2")
    gated.adapt({"r": 2, "target_modules": ["q_proj"]})
    assert any("lora" in name for name in gated.trainable())


def test_packed_weights_move_with_the_model_and_are_hashed():
    model, family = BaseModel("nano", quantise=4).load()
    weight = experts_of(model, family).down_proj
    before = tensor_hashes(model)
    weight.packed[0, 0, 0] ^= 1
    assert sum(before[name] != one for name, one in tensor_hashes(model).items()) == 1
    model.double()
    assert (weight.packed.dtype, weight.scale.dtype, weight.minimum.dtype) == (torch.uint8, *2 * [torch.float64])
    model.to("meta")
    assert weight.packed.is_meta


def test_heads_that_ask_every_expert_are_served(batch):
    model, family = BaseModel("nano", quantise=8).load()
    with torch.no_grad():
        stock = model(**batch).logits
        GatedModel(model, family, DenseMixerHead(), "last-1", "all", "native")
        assert torch.isfinite(model(**batch).logits).all()
    assert torch.isfinite(stock).all()


def test_several_processes_do_not_send_packed_weights_to_one_another_at_every_step():
    sent = []
    for bits in (None, 4):
        tuner = RouterTuner(BaseModel("nano", quantise=bits), RetunedHead())
        tuner.configure_model()
        ignored = tuner._ddp_params_and_buffers_to_ignore
        sent.append({name for name, _ in tuner.named_buffers()} - set(ignored))
        assert bool(ignored) == bool(bits)
    assert sent[0] == sent[1]


def test_the_trained_nano_model_answers_almost_the_same():
    """Bounds well above what ``bench/quantised.py`` measures on more questions."""
    rows = [row.values for row in NanoQuiz(validation=64).rows("validation")]
    asked = number_questions((one["subject"], one["question"], tuple(one["choices"]), one["answer"]) for one in rows)
    prompts = [load_protocol("nano_quiz").prompt(one) for one in asked]
    tokens = BaseModel("nano").load_tokenizer()(prompts, return_tensors="pt", padding=True)
    last_B = tokens["attention_mask"].sum(1) - 1
    logprobs = []
    for bits in (None, 8, 4):
        model, _ = BaseModel("nano", quantise=bits).load()
        with torch.no_grad():
            logits_BSV = model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).logits
        logprobs.append(logits_BSV[torch.arange(len(last_B)), last_B].log_softmax(-1))
    stock_BV, *others = logprobs
    eight, four = (float((stock_BV.exp() * (stock_BV - one)).sum(-1).mean()) for one in others)
    assert 0 < eight < 2e-4
    assert eight < four < 5e-3
