"""What heads are calibrated on: in the run's precision, of the layers that run, of training questions alone."""

import pytest
import torch
from lightning.pytorch import Trainer
from tiny_runs import QUIET

from moe_tune.answer_path.answering import Answering
from moe_tune.answer_path.settings import AnswerPath
from moe_tune.base.errors import DataError
from moe_tune.data.module import QuizDataModule
from moe_tune.data.nano_quiz import NanoQuiz
from moe_tune.heads.accuracy_bias import AccuracyBiasHead
from moe_tune.heads.identity import IdentityHead
from moe_tune.models.base_model import BaseModel
from moe_tune.tuner.router_tuner import RouterTuner
from moe_tune.tuner.train_table import SAMPLE, HiddenSample


@pytest.fixture
def precisions(monkeypatch):
    """Return the set in which it is noted under which precision each split is answered."""
    seen, logits = set(), Answering.logits

    def watched(self, batch, split, words=None):
        seen.add((split, torch.is_autocast_enabled("cpu")))
        return logits(self, batch, split, words)

    monkeypatch.setattr(Answering, "logits", watched)
    return seen


def validated(head, way, precision="32-true"):
    """Return a tuner after a validation on a few questions."""
    tuner = RouterTuner(BaseModel("nano", experts_implementation="eager"), head, layers="last-2", answer_path=way)
    data = QuizDataModule(NanoQuiz(24, 24), "nano_quiz", eval_batch_size=8)
    trainer = Trainer(accelerator="cpu", precision=precision, **QUIET)
    trainer.validate(tuner, data, verbose=False)
    return tuner


def test_heads_are_calibrated_in_the_precision_of_the_run(precisions):
    validated(AccuracyBiasHead(), AnswerPath(use="never"), "bf16-mixed")
    assert precisions == {("train", True), ("validation", True)}


def test_on_a_trunk_the_evidence_and_the_table_hold_the_layers_that_run():
    tuner = validated(AccuracyBiasHead(), AnswerPath(use="trunk"))
    assert tuner.examiner.answering.ways["train"] == "trunk cache"
    every = tuple(tuner.gated.gates)
    assert tuner.examiner.metric_shape("train").layers == tuple(tuner.table.layers) == every[-2:]
    assert tuner.examiner.metric_shape("validation").layers == every
    table = tuner.table.layers[every[-1]]
    assert int(table.chosen_E.sum()) == 24 * tuner.gated.rule.top_k
    full = validated(AccuracyBiasHead(), AnswerPath(use="never"))
    assert tuple(full.table.layers) == every
    for layer in every[-2:]:
        assert torch.equal(full.table.layers[layer].chosen_ES, tuner.table.layers[layer].chosen_ES)


def test_the_sample_of_hidden_states_is_of_all_subjects_though_they_take_turns():
    sample = HiddenSample(4 * SAMPLE)
    taken_S = torch.bincount(sample.sampled_Q.nonzero().squeeze(-1) % 4, minlength=4)
    assert int(taken_S.sum()) == SAMPLE
    assert int(taken_S.min()) > 0.8 * SAMPLE / 4
    assert torch.equal(HiddenSample(4 * SAMPLE).sampled_Q, sample.sampled_Q)
    assert HiddenSample(SAMPLE).sampled_Q.all(), "all of them where there are no more"


def test_questions_that_calibrated_a_head_are_refused_in_another_split(monkeypatch):
    same = NanoQuiz.rows
    monkeypatch.setattr(NanoQuiz, "rows", lambda self, split: same(self, "train" if split == "validation" else split))
    with pytest.raises(DataError, match=r"expected no question of the validation split .* got 24 .* Hint: "):
        validated(AccuracyBiasHead(), AnswerPath(use="never"))
    validated(IdentityHead(), AnswerPath(use="never"))  # nothing was calibrated
