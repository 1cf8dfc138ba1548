"""The recorder's statistics are those of our own analysis, each token once, whatever loop runs the model."""

import pytest
import torch
from found_models import found_model
from lightning.pytorch import LightningModule
from peft import LoraConfig, get_peft_model
from plain_training import LENGTHS, TYPES, hooks_of, padded_batch, trained_model
from torch.utils.checkpoint import checkpoint
from transformers import LlamaConfig, LlamaForCausalLM

from moe_tune import RoutingRecorder
from moe_tune.base.errors import ConfigError
from moe_tune.gates.gated_model import GatedModel
from moe_tune.heads.identity import IdentityHead
from moe_tune.metrics.base import MetricShape
from moe_tune.metrics.expert_activation import ExpertActivation
from moe_tune.metrics.gate_entropy import GateEntropy
from moe_tune.recorder.routing_recorder import NO_QUESTIONS
from moe_tune.stats.load import load_columns


def own_analysis(model, family, batches):
    """Return the tables that metrics count with identity heads on the model."""
    gated = GatedModel(model, family, IdentityHead(), "all", "all", "native")
    rule = gated.rule
    shape = MetricShape(tuple(gated.gates), rule.num_experts, rule.top_k, 0, 0)
    metrics = [GateEntropy(shape, "all"), ExpertActivation(shape, "all")]
    with torch.no_grad():
        for batch in batches:
            model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
            for metric in metrics:
                metric.update(gated.trace, NO_QUESTIONS)
    gated.detach()
    tables = {}
    for metric in metrics:
        tables |= metric.compute()
    return tables, metrics


def recorded(model, *batches, passes="all", **options):
    """Return the values and the table of a recorder around calls of the model."""
    with RoutingRecorder(model, passes) as recorder:
        for batch in batches:
            model(**batch, **options)
        return recorder.step(), recorder.frame


@pytest.mark.filterwarnings("ignore:.*no known closed form")
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("model_type", TYPES)
def test_the_statistics_are_those_of_our_own_analysis(model_type, side):
    model, family = found_model(model_type)
    batches = [padded_batch(side), padded_batch(side, seed=2)]
    values, frame = recorded(model, *batches)
    tables, (entropies, activation) = own_analysis(model, family, batches)
    expected = entropies.summary(tables) | activation.summary(tables)
    if model_type == "phimoe":
        del expected["entropy_all"]
        assert not any("entropy_all" in key for key in values)
    for name, value in expected.items():
        assert values[f"routing/{name}"] == pytest.approx(value, abs=1e-6), name
    assert frame["layer"].tolist() == list(family.moe_layers(model))
    assert frame["tokens"].tolist() == tables["tokens"].tolist() == [2 * sum(LENGTHS)] * len(frame)
    columns = {name: tables[name] for name in entropies.axes} | load_columns(tables["count"].numpy())
    for name, column in columns.items():
        if not (model_type == "phimoe" and "entropy_all" in name):
            assert frame[name].tolist() == pytest.approx(column.tolist(), abs=1e-6), name


def test_a_router_without_a_closed_form_is_told_once():
    model, _ = found_model("phimoe")
    with pytest.warns(UserWarning, match="no known closed form") as told:
        values, _ = recorded(model, padded_batch(), padded_batch())
    assert len(told) == 1
    assert "routing/entropy_topk" in values


@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_does_not_count(side):
    model, _ = found_model("olmoe")
    batch = padded_batch(side)
    alone = [
        {"input_ids": ids[mask.bool()][None]}
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]
    padded, one_by_one = recorded(model, batch)[0], recorded(model, *alone)[0]
    assert padded == pytest.approx(one_by_one, abs=1e-5)


def test_generation_counts_every_token_that_the_model_reads_once():
    model, _ = found_model("olmoe")
    batch = padded_batch("left")
    del batch["labels"]
    with RoutingRecorder(model) as recorder:
        made = model.generate(**batch, max_new_tokens=4, min_new_tokens=4, do_sample=False, pad_token_id=0)
        generated = recorder.step()
        mask = torch.cat([batch["attention_mask"], torch.ones(len(made), 3).long()], dim=1)
        model(input_ids=made[:, :-1], attention_mask=mask)
        at_once = recorder.step()
    assert generated["routing/tokens"] == sum(LENGTHS) + 3 * len(LENGTHS)
    assert generated == pytest.approx(at_once, abs=1e-5)


def test_a_mask_that_hides_padding_is_told_once():
    model, _ = found_model("olmoe")
    with pytest.warns(UserWarning, match="every token counts") as told:
        values, _ = recorded(
            model, *[{"input_ids": torch.ones(1, 3).long(), "attention_mask": torch.zeros(1, 1, 3, 3)}] * 2
        )
    assert len(told) == 1
    assert values["routing/tokens"] == 6


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("model_type", ["olmoe", "deepseek_v3", "gemma4_text"])
def test_what_checkpointing_computes_again_does_not_count(model_type, reentrant):
    model, _ = trained_model(model_type)
    batches = [padded_batch(), padded_batch(seed=2)]
    plain = recorded(model, *batches, use_cache=False)[0]
    model.activation_checkpointing_enable({"use_reentrant": reentrant})
    with RoutingRecorder(model, "training") as recorder:
        for batch in batches:  # two micro-batches of one step
            model(**batch, use_cache=False).loss.backward()
        values = recorder.step()
    assert values == plain
    assert values["routing/tokens"] == 2 * sum(LENGTHS)
    assert all(one.grad is not None for name, one in model.named_parameters() if name.endswith("gate.weight"))


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_whole_model_that_is_computed_again_counts_once(reentrant):
    model, _ = trained_model("olmoe")
    batch = padded_batch()
    embedded = model.get_input_embeddings()(batch["input_ids"])
    with RoutingRecorder(model) as recorder:
        call = lambda one: model(inputs_embeds=one, attention_mask=batch["attention_mask"]).logits  # noqa: E731
        checkpoint(call, embedded, use_reentrant=reentrant).sum().backward()
        assert recorder.step()["routing/tokens"] == sum(LENGTHS)


def test_training_passes_are_neither_evaluations_nor_generation():
    model, _ = trained_model("olmoe")
    batch = padded_batch()
    with RoutingRecorder(model, "training") as recorder:
        with torch.no_grad():
            model(**batch)
        model.eval()(**batch)
        assert recorder.step() == {}
        model.train()(**batch)
        assert recorder.step()["routing/tokens"] == sum(LENGTHS)
        assert recorder.step() == {}


def test_the_model_computes_the_same_bits():
    model, _ = trained_model("mixtral")
    batch = padded_batch()

    def loss_and_gradients():
        model.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        return [loss.detach(), *(one.grad.clone() for one in model.parameters() if one.grad is not None)]

    before = loss_and_gradients()
    with RoutingRecorder(model):
        during = loss_and_gradients()
    assert all(torch.equal(one, other) for one, other in zip(before, during, strict=True))


def test_noise_of_a_gate_is_drawn_as_without_a_recorder():
    model, _ = found_model("phimoe")
    model.train()
    torch.manual_seed(5)
    plain = model(**padded_batch()).loss
    torch.manual_seed(5)
    with pytest.warns(UserWarning, match="closed form"), RoutingRecorder(model):
        assert torch.equal(model(**padded_batch()).loss, plain)


def test_brief_values_are_few():
    model, _ = found_model("olmoe")
    values, frame = recorded(model, padded_batch())
    assert len(values) <= 27
    assert all(key.startswith("routing/") and isinstance(value, float) for key, value in values.items())
    assert values["routing/entropy_topk_max"] == frame["entropy_topk_mean"].max()
    assert values["routing/load_imbalance_max"] == frame["load_max_over_mean"].max()


def test_the_hooks_go_at_the_end_and_after_an_error():
    model, _ = found_model("gemma4_text")
    before = hooks_of(model)
    with RoutingRecorder(model) as recorder:
        assert hooks_of(model) > before
        with pytest.raises(IndexError):
            model(input_ids=torch.tensor([[1, 999]]))
        model(input_ids=torch.tensor([[1, 2]]))
        assert recorder.step()["routing/tokens"] == 2, "what failed does not count, what follows does"
    assert hooks_of(model) == before
    with pytest.raises(ZeroDivisionError), RoutingRecorder(model):
        _ = 1 / 0
    assert hooks_of(model) == before


@pytest.mark.parametrize(
    ("model_type", "target"),
    [
        ("olmoe", {"target_parameters": ["mlp.gate.weight"]}),
        ("mixtral", {"target_parameters": ["mlp.gate.weight"]}),
        ("gemma4_text", {"target_modules": ["router.proj"]}),
    ],
)
def test_an_adapter_on_the_router_counts(model_type, target):
    model, _ = found_model(model_type)
    batch = padded_batch()
    stock = recorded(model, batch)[0]
    adapted = get_peft_model(model, LoraConfig(r=4, init_lora_weights=False, **target)).eval()
    values = recorded(adapted, batch)[0]
    merged = recorded(adapted.merge_and_unload(), batch)[0]
    assert values == pytest.approx(merged, abs=1e-5)
    assert values != pytest.approx(stock, abs=1e-3)


def test_a_model_is_found_within_others():
    class Module(LightningModule):
        def __init__(self, model):
            super().__init__()
            self.inner = torch.nn.ModuleList([model])

    model, _ = found_model("olmoe")
    assert RoutingRecorder(Module(model)).model is model


def test_what_cannot_be_read_is_refused():
    model, family = found_model("olmoe")
    gated = GatedModel(model, family, IdentityHead())
    with pytest.raises(ConfigError, match=r"GatedModel.detach"):
        RoutingRecorder(model)
    gated.detach()
    sizes = {
        "vocab_size": 8,
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
    }
    with pytest.raises(ConfigError, match="llama"):
        RoutingRecorder(LlamaForCausalLM(LlamaConfig(**sizes)))
    with pytest.raises(ConfigError, match="Linear"):
        RoutingRecorder(torch.nn.Linear(1, 1))
    with pytest.raises(ConfigError, match="passes"):
        RoutingRecorder(model, "some")
