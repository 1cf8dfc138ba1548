"""With the identity head the program answers as plain transformers does, on every nano test question."""

import pytest
import torch

from moe_tune.data.module import QuizDataModule
from moe_tune.data.nano_quiz import NanoQuiz
from moe_tune.gates.gated_model import GatedModel
from moe_tune.heads.identity import IdentityHead
from moe_tune.models.base_model import BaseModel
from moe_tune.models.family import family_of


def quiz(base, limit):
    module = QuizDataModule(NanoQuiz(), "nano_quiz", 0, ["nano_textbook"], eval_batch_size=256, limit_test=limit)
    module.prepare(base.load_tokenizer(), 4096)
    return module


@torch.no_grad()
def largest_difference(model, family, batches, scope, routing_dtype):
    """Return the largest difference of any logit with and without tuned gates, and whether all bits agree."""
    largest, same = 0.0, True
    for batch in batches:
        inputs = {"input_ids": batch.input_ids_BS, "attention_mask": batch.attention_mask_BS}
        wanted = model(**inputs).logits
        routers = GatedModel(model, family, IdentityHead(), "all", scope, routing_dtype)
        came = model(**inputs).logits
        routers.detach()
        largest = max(largest, float((came - wanted).abs().max()))
        same = same and torch.equal(came, wanted)
    return largest, same


@pytest.mark.parametrize(
    "limit", [pytest.param(256, id="some questions"), pytest.param(None, id="all questions", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("scope", ["answer", "all"])
def test_nano_is_plain_olmoe(limit, scope):
    base = BaseModel("nano", experts_implementation="eager")
    model, family = base.load()
    loaders = quiz(base, limit).test_dataloader()
    seen = sum(len(batch.gold_B) for loader in loaders for batch in loader)
    assert seen == 2 * (limit or 4096)
    for loader in loaders:
        assert largest_difference(model, family, loader, scope, "native") == (0.0, True)
        assert largest_difference(model, family, loader, scope, "float32")[0] <= 1e-5


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
    for scope in ("answer", "all"):
        assert largest_difference(model, family, [batch], scope, "native") == (0.0, True)
        if dtype == torch.float32:
            assert largest_difference(model, family, [batch], scope, "float32")[0] <= 1e-5
