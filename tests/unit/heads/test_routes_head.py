"""Pinned routes: with those of the model itself nothing changes, with others the file decides; the rest is refused."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from moe_tune.base.errors import ConfigError, DataError
from moe_tune.gates.gated_model import GatedModel
from moe_tune.heads.base import BaseGate
from moe_tune.heads.guard import Guard
from moe_tune.heads.identity import IdentityHead
from moe_tune.heads.retuned import RetunedHead
from moe_tune.heads.routes import RoutesHead
from moe_tune.heads.stack import Stack
from moe_tune.routing import SoftmaxRule
from moe_tune.tuner.opening import ModelSettings, open_model

EVERY = (0, 1, 2)


@pytest.fixture
def pinned(tmp_path):
    """Give a function that writes what a model's routers decided, perhaps changed, and returns the file."""

    def write(trace, batch, change=lambda expert_NLK: expert_NLK, **more):
        real_N = trace.real_T.nonzero().squeeze(-1)
        expert_NLK = torch.stack([trace.outputs[layer].experts_TK[real_N] for layer in EVERY], dim=1).numpy()
        place_T = batch["attention_mask"].cumsum(-1).flatten() - 1
        columns = {
            "id": trace.question_T[real_N].numpy().astype(str),
            "token": place_T[real_N].numpy(),
            "token_id": batch["input_ids"].flatten()[real_N].numpy(),
            "layer": np.array(EVERY),
            "expert": change(expert_NLK.copy()),
            **more,
        }
        path = tmp_path / f"routes-{len(list(tmp_path.iterdir()))}.npz"
        np.savez(path, **columns)
        return str(path)

    return write


def of_base(model, family, batch, dtype="float32"):
    """Return the stock model's logits, and the trace of its pretrained routers."""
    routers = GatedModel(model, family, IdentityHead(), "all", "all", dtype)
    with torch.no_grad():
        logits = model(**batch).logits
    routers.detach()
    return logits, routers.trace


def with_head(model, family, batch, head, scope="all", dtype="float32"):
    routers = GatedModel(model, family, head, "all", scope, dtype)
    try:
        return model(**batch).logits, routers.trace
    finally:
        routers.detach()


@torch.no_grad()
@pytest.mark.parametrize("dtype", ["float32", "native"])
@pytest.mark.parametrize("scope", ["answer", "all"])
def test_on_the_routes_of_the_model_itself_nothing_changes(scope, dtype, family, tiny_model, batch, pinned):
    logits, base = of_base(tiny_model, family, batch, dtype)
    head = RoutesHead(pinned(base, batch))
    for one in (head, Stack({"first": IdentityHead(), "routes": head}), Guard(head)):
        came, trace = with_head(tiny_model, family, batch, one, scope, dtype)
        atol = 0 if scope == "all" else 1e-6  # rows of a scope are multiplied in parts
        torch.testing.assert_close(came, logits, atol=atol, rtol=0)
        for layer in EVERY:
            assert torch.equal(
                trace.outputs[layer].experts_TK[base.real_T], base.outputs[layer].experts_TK[base.real_T]
            )


@pytest.mark.reference("RoutesHead")
@torch.no_grad()
def test_the_file_chooses_and_the_logits_weigh(family, tiny_model, batch, pinned):
    _, base = of_base(tiny_model, family, batch)
    file = pinned(base, batch, lambda expert_NLK: (expert_NLK + 3) % 8)
    _, trace = with_head(tiny_model, family, batch, RoutesHead(file))
    for layer in EVERY:
        output, wanted_TK = trace.outputs[layer], (base.outputs[layer].experts_TK + 3) % 8
        assert torch.equal(output.experts_TK[base.real_T], wanted_TK[base.real_T])
        assert isinstance(output.rule, SoftmaxRule)
        weights_TK = output.logits_TE.double().softmax(-1).gather(-1, output.experts_TK)
        if output.rule.renormalise:
            weights_TK = weights_TK / weights_TK.sum(-1, keepdim=True)
        torch.testing.assert_close(output.weights_TK.double(), weights_TK, atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_order_of_questions_and_side_of_padding_do_not_matter(family, tiny_model, batch, pinned):
    _, base = of_base(tiny_model, family, batch)
    head = RoutesHead(pinned(base, batch, lambda expert_NLK: (expert_NLK + 1) % 8))
    wanted, _ = with_head(tiny_model, family, batch, head)
    order = torch.tensor([3, 0, 4, 2, 1])
    mixed, _ = with_head(tiny_model, family, {key: value[order] for key, value in batch.items()}, head)
    left = {key: value.clone() for key, value in batch.items()}
    for row, length in enumerate(batch["attention_mask"].sum(1).tolist()):
        for value in left.values():
            value[row] = value[row].roll(9 - length)
    padded, _ = with_head(tiny_model, family, left, head)
    real_BS = batch["attention_mask"].bool()
    torch.testing.assert_close(mixed[real_BS[order]], wanted[order][real_BS[order]], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(padded[left["attention_mask"].bool()], wanted[real_BS], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_slots_of_minus_one_are_not_in_use(family, tiny_model, batch, pinned):
    _, base = of_base(tiny_model, family, batch)

    def fewer(expert_NLK):
        expert_NLK[::2, :, 0] = -1  # the first of two, so that what is left moves up
        expert_NLK[1] = -1
        return expert_NLK

    logits, trace = with_head(tiny_model, family, batch, RoutesHead(pinned(base, batch, fewer)))
    assert logits.isfinite().all()
    real_N = base.real_T.nonzero().squeeze(-1)
    for layer in EVERY:
        output, own_TK = trace.outputs[layer].rows(real_N), base.outputs[layer].experts_TK[real_N]
        assert output.used_TK.sum(-1).tolist() == [0 if n == 1 else 2 - (n % 2 == 0) for n in range(len(real_N))]
        assert torch.equal(output.experts_TK[::2, 0], own_TK[::2, 1])
        assert not output.weights_TK[~output.used_TK].any()


def test_a_router_is_trained_on_fixed_routes(family, tiny_model, batch, pinned):
    _, base = of_base(tiny_model, family, batch)
    file = pinned(base, batch, lambda expert_NLK: (expert_NLK + 1) % 8)
    head = Stack({"retuned": RetunedHead(), "routes": RoutesHead(file)})
    routers = GatedModel(tiny_model, family, head, "all", "all")
    logits = tiny_model(**batch).logits[:, 0]
    functional.cross_entropy(logits, torch.arange(5)).backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in routers.trainable().values())


@torch.no_grad()
def test_for_training_alone_it_leaves_evaluations_to_the_router(family, tiny_model, batch, pinned):
    logits, base = of_base(tiny_model, family, batch)
    head = RoutesHead(pinned(base, batch, lambda expert_NLK: (expert_NLK + 1) % 8), act="training")
    routers = GatedModel(tiny_model, family, head, "all", "all")
    other = {key: value[:, :2] for key, value in batch.items()}
    assert torch.equal(tiny_model(**batch).logits, logits)
    assert tiny_model(**other).logits.isfinite().all(), "other prompts are not looked up"
    routers.train(True)
    assert not torch.equal(tiny_model(**batch).logits, logits)


@torch.no_grad()
def test_prompts_that_are_not_in_the_file_are_refused(family, tiny_model, batch, pinned):
    _, base = of_base(tiny_model, family, batch)
    head = RoutesHead(pinned(base, batch))
    changed = {**batch, "input_ids": (batch["input_ids"] + 1) * batch["attention_mask"]}
    with pytest.raises(DataError, match=r"has routes for but got one of 9 tokens.*predict --routes") as refused:
        with_head(tiny_model, family, changed, head)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"num_experts": 16}, "2 of 8 experts but got '2 of 16"),
        ({"top_k": 4}, "2 of 8 experts but got '4 of 8"),
        ({"layer": np.array([4, 5, 6])}, "layer 0 in the file"),
        ({"layer": np.array([0, 1, 7])}, "layer 2 in the file"),
        ({"expert": 8}, "experts below 8"),
        ({"expert": 2, "slots": 3}, "2 slots"),
    ],
)
def test_a_file_of_another_model_is_refused(more, said, tiny_model, family, batch, pinned):
    _, base = of_base(tiny_model, family, batch)
    more = dict(more)

    def change(expert_NLK):
        if "slots" in more:
            return np.concatenate([expert_NLK, np.full_like(expert_NLK[..., :1], -1)], -1)
        if "expert" in more:
            expert_NLK[0, 0, 0] = more["expert"]
        return expert_NLK

    kept = {key: value for key, value in more.items() if key not in ("expert", "slots")}
    file = pinned(base, batch, change, **kept)
    with pytest.raises(ConfigError, match=rf"{said}.*head\.file") as refused:
        GatedModel(tiny_model, family, RoutesHead(file), "all", "all")
    assert "\n" not in str(refused.value)


def test_a_file_with_more_layers_than_the_model_is_refused(monkeypatch, tmp_path):
    from moe_tune.models.base_model import BaseModel

    columns = {"id": ["a"], "token": [0], "token_id": [1], "layer": np.arange(5)}
    np.savez(tmp_path / "five.npz", **columns, expert=np.tile(np.arange(8), (1, 5, 1)), num_experts=64, top_k=8)
    asked = ModelSettings(BaseModel("nano"), RoutesHead(str(tmp_path / "five.npz")), layers="all")
    with pytest.raises(ConfigError, match=r"layers of \[0, 1, 2, 3\] but got \[0, 1, 2, 3, 4\]"):
        open_model(asked, torch.device("cpu"))


def test_answer_tokens_alone_are_refused(family, tiny_model, batch, pinned):
    _, base = of_base(tiny_model, family, batch)
    routers = GatedModel(tiny_model, family, RoutesHead(pinned(base, batch)), "all", "answer")
    trace = routers.open_answers(2, torch.device("cpu"))
    with pytest.raises(ConfigError, match="whole prompts"):
        routers.heads[0].meet(trace, slice(None))


def test_a_file_that_is_not_there_is_refused():
    with pytest.raises(DataError, match=r"no nowhere\.parquet"):
        RoutesHead("nowhere.parquet").bound_to(BaseGate(torch.zeros(8, 16), SoftmaxRule(2, 8, False), 0))
