"""The loss of the next token: transformers' own, whichever side is padded; of the scored places alone."""

import pytest
import torch
from test_text_losses import louder, tuned

from moe_tune.answer_path.circumstances import Circumstances
from moe_tune.answer_path.text_way import TextWay
from moe_tune.answer_path.way import Reach
from moe_tune.base.errors import ConfigError, NumericsError
from moe_tune.data.module import QuizDataModule
from moe_tune.data.nano_quiz import NanoQuiz
from moe_tune.data.text_batching import UNSCORED, TextBatch
from moe_tune.gates.gated_model import GatedModel
from moe_tune.heads.identity import IdentityHead
from moe_tune.losses.oracle_distillation import OracleDistillationLoss
from moe_tune.losses.z_loss import ZLoss
from moe_tune.tuner.text_step import predicted, refuse_of_text

LENGTHS = (9, 4, 7)


@pytest.fixture
def tiny_model(family, build_model):
    return louder(build_model(family))


def batch_of(left, scored=lambda place: place >= 0):
    width = max(LENGTHS)
    ids_BS = torch.randint(1, 64, (len(LENGTHS), width + 1), generator=torch.Generator().manual_seed(2))
    place_S = torch.arange(width)
    real_BS = torch.stack([(place_S >= width - one) if left else (place_S < one) for one in LENGTHS])
    next_BS = ids_BS[:, 1:].where(real_BS & scored(place_S), UNSCORED)
    return TextBatch(ids_BS[:, :-1].where(real_BS, 0), real_BS.long(), next_BS, torch.arange(len(LENGTHS)))


def way_of(gated):
    return TextWay(Circumstances(gated, QuizDataModule(NanoQuiz()), Reach(0, "all")))


def stock_loss(model, batch):
    """Return the model's own loss: its labels are shifted by itself, so each token's label stands one place on."""
    last_B1 = torch.full((len(batch.next_BS), 1), UNSCORED)
    ids_BS = torch.cat([batch.input_ids_BS, torch.ones_like(last_B1)], 1)
    mask_BS = torch.cat([batch.attention_mask_BS, torch.zeros_like(last_B1)], 1)
    labels_BS = torch.cat([last_B1, batch.next_BS], 1)
    with torch.no_grad():
        return model(input_ids=ids_BS, attention_mask=mask_BS, labels=labels_BS).loss


@pytest.mark.parametrize("left", [True, False], ids=["left", "right"])
@pytest.mark.parametrize("scored", [lambda place: place >= 0, lambda place: place > 2], ids=["all", "some"])
def test_the_identitys_loss_is_the_stock_models_own(family, tiny_model, left, scored):
    batch = batch_of(left, scored)
    expected = stock_loss(tiny_model, batch)
    gated = GatedModel(tiny_model, family, IdentityHead(), "all", "all")
    with torch.no_grad(), gated.session(answer_BS=batch.answer_BS):
        found = predicted(way_of(gated), batch, "train", "here")
    assert len(found.loss_M) == int(batch.answer_BS.sum())
    assert float(found.loss_M.mean()) == pytest.approx(float(expected), abs=1e-6)


def test_a_changed_head_changes_the_loss_and_gets_a_gradient(family, tiny_model):
    batch = batch_of(left=False)
    before = stock_loss(tiny_model, batch)
    gated = tuned(tiny_model, family, "all")
    with gated.session(answer_BS=batch.answer_BS):
        loss = predicted(way_of(gated), batch, "train", "here").loss_M.mean()
    assert abs(float(loss) - float(before)) > 1e-4
    loss.backward()
    assert all(one.grad is not None and one.grad.any() for one in gated.trainable().values())


def test_padding_is_nowhere_in_the_trace(family, tiny_model):
    batch = batch_of(left=True)
    gated = GatedModel(tiny_model, family, IdentityHead(), "all", "all")
    with gated.session(answer_BS=batch.answer_BS) as session:
        predicted(way_of(gated), batch, "train", "here")
    assert int(session.trace.real_T.sum()) == sum(LENGTHS)
    assert torch.equal(session.trace.answer_T, batch.answer_BS.flatten())


def test_a_loss_that_is_not_finite_stops_with_the_step(family, tiny_model):
    with torch.no_grad():
        tiny_model.lm_head.weight.fill_(float("inf"))
    gated = GatedModel(tiny_model, family, IdentityHead(), "all", "all")
    with pytest.raises(NumericsError, match="train text, step 3"):
        predicted(way_of(gated), batch_of(left=False), "train", "step 3")


def test_what_only_a_quiz_has_is_refused():
    refuse_of_text("next_token", "all", {"z": ZLoss()})
    refuse_of_text("both", "all", {"oracle": OracleDistillationLoss()})
    with pytest.raises(ConfigError, match=r"'oracle' reads oracle of the quiz.*model\.losses"):
        refuse_of_text("next_token", "all", {"oracle": OracleDistillationLoss()})
    with pytest.raises(ConfigError, match=r"scope all but got answer"):
        refuse_of_text("both", "answer", {})
