"""With the identity head the program answers as plain transformers does, on every nano test question."""

import pytest
import torch

from moe_tune.data.module import QuizDataModule
from moe_tune.data.nano_quiz import NanoQuiz
from moe_tune.gates.gated_model import GatedModel
from moe_tune.heads.identity import IdentityHead
from moe_tune.models.base_model import BaseModel
from moe_tune.models.families import family_of


def quiz(base, limit):
    module = QuizDataModule(NanoQuiz(), "nano_quiz", 0, ["nano_textbook"], eval_batch_size=256, limit_test=limit)
    module.prepare(base.load_tokenizer(), 4096)
    return module


@torch.no_grad()
def largest_differences(model, family, batch, ways):
    """Return the largest difference of any logit with and without tuned gates, for each scope and routing dtype."""
    inputs = {"input_ids": batch.input_ids_BS, "attention_mask": batch.attention_mask_BS}
    wanted, found = model(**inputs).logits, []
    for scope, routing_dtype in ways:
        routers = GatedModel(model, family, IdentityHead(), "all", scope, routing_dtype)
        came = model(**inputs).logits
        routers.detach()
        found.append(0.0 if torch.equal(came, wanted) else max(float((came - wanted).abs().max()), 1e-30))
    return found


NATIVE, FLOAT32 = ([(scope, dtype) for scope in ("answer", "all")] for dtype in ("native", "float32"))


@pytest.mark.parametrize(
    "limit", [pytest.param(256, id="some questions"), pytest.param(None, id="all questions", marks=pytest.mark.slow)]
)
def test_nano_is_plain_olmoe(limit):
    """To the last bit at the model's own numerics; to rounding in float32, for some questions."""
    base = BaseModel("nano", experts_implementation="eager")
    model, family = base.load()
    loaders, seen = quiz(base, limit).test_dataloader(), 0
    for batch in (batch for loader in loaders for batch in loader):
        seen += len(batch.gold_B)
        assert largest_differences(model, family, batch, NATIVE) == [0.0, 0.0]
        if limit:
            assert max(largest_differences(model, family, batch, FLOAT32)) <= 1e-5
    assert seen == 2 * (limit or 4096)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tiny_qwen3_moe_is_plain_qwen3_moe(dtype, build_model):
    from moe_tune.data.batching import Batch

    family = family_of("qwen3_moe")
    model = build_model(family, dtype=dtype)
    ids_BS = torch.randint(1, 64, (64, 12), generator=torch.Generator().manual_seed(0))
    mask_BS = torch.ones_like(ids_BS)
    mask_BS[::3, 7:] = 0
    none = torch.zeros(64, dtype=torch.long)
    batch = Batch(ids_BS, mask_BS, mask_BS.sum(1) - 1, none, none, none, none)
    assert largest_differences(model, family, batch, NATIVE) == [0.0, 0.0]
    if dtype == torch.float32:
        assert max(largest_differences(model, family, batch, FLOAT32)) <= 1e-5
