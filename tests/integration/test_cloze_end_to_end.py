"""Fits and evaluations under the cloze protocol."""

import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch import Trainer
from tiny_runs import QUIET, TINY, answers, manifest, only_run

from moe_tune.answer_path.settings import AnswerPath
from moe_tune.base.errors import ConfigError
from moe_tune.callbacks.question_records import question_frame
from moe_tune.callbacks.start_up_line import start_up_line
from moe_tune.cli.main import main
from moe_tune.data.module import QuizDataModule
from moe_tune.data.nano_quiz import NanoQuiz
from moe_tune.data.question import number_questions
from moe_tune.heads.accuracy_bias import AccuracyBiasHead
from moe_tune.heads.retuned import RetunedHead
from moe_tune.models.base_model import BaseModel
from moe_tune.tuner.router_tuner import RouterTuner


def quiz(protocol="cloze", **changes):
    limits = {"limit_train": 32, "limit_validation": 24, "limit_test": 24, "batch_size": 16}
    return QuizDataModule(NanoQuiz(), protocol, **{**limits, **changes})


def tuner(folder, head=None, **settings):
    base = BaseModel("nano", experts_implementation="eager")
    path = AnswerPath(folder=str(folder), **settings.pop("answer_path", {}))
    return RouterTuner(base, head or RetunedHead(), {}, "last-2", answer_path=path, **settings)


def trainer():
    return Trainer(accelerator="cpu", max_epochs=2, num_sanity_val_steps=0, **QUIET)


def test_a_fit_makes_the_length_normalised_scores_tell_the_right_choice(tmp_path):
    one, data, runner = tuner(tmp_path), quiz(), trainer()
    one.make_optimizer = lambda parameters: torch.optim.SGD(parameters, lr=0.3)
    seen = []

    class Tuner(RouterTuner):
        def training_step(self, batch, batch_index):
            judged = self.examiner.answer_batch(batch, "train")
            score_BA = judged.log_likelihood_BA / batch.choices.characters_BA
            wanted = torch.nn.functional.cross_entropy(score_BA, batch.gold_B)
            loss = super().training_step(batch, batch_index)
            seen.append((float(loss.detach()), float(wanted)))
            return loss

    one.__class__ = Tuner
    runner.fit(one, datamodule=data)
    losses, wanted = np.array(seen).T
    np.testing.assert_allclose(losses, wanted, rtol=1e-5)
    assert losses[2:].mean() < losses[:2].mean(), "the second epoch starts where the first one ended"
    line = start_up_line(one)
    assert "answer path off (a cloze question's several answer tokens): full prompts" in line
    assert not list(tmp_path.iterdir()), "nothing is kept"


def test_records_hold_the_raw_scores_and_those_per_byte(tmp_path):
    args = [*TINY, "--data.protocol", "cloze", "--data.test_protocols", "[nano_quiz]", "--runs_root", str(tmp_path)]
    assert main(["fit", *args, "--test_after_fit", "true"]) == 0
    run = only_run(tmp_path)
    data = QuizDataModule(NanoQuiz(), "cloze")
    choices = {one.id: one.choices for one in data.questions("test")}
    frame = answers(run)
    for row in frame.itertuples():
        texts = choices[row.id]
        score_A = row.log_likelihoods / np.array([len(text) for text in texts])
        np.testing.assert_allclose(row.log_probs, score_A - np.log(np.exp(score_A).sum()), rtol=1e-4)
        assert row.prediction == score_A.argmax()
        bytes_A = np.array([len(text.encode()) for text in texts])
        np.testing.assert_allclose(row.log_likelihoods_per_byte, row.log_likelihoods / bytes_A)
    assert "log_likelihoods" not in answers(run, "test_nano_quiz"), "letters have no text to score"
    assert manifest(run)["answer_path"] == {
        "train": "full prompts", "validation": "full prompts", "test": "full prompts", "test_nano_quiz": "cached"
    }  # fmt: skip
    assert manifest(run)["data"]["prompts"]["test"]["letter_ids"] == []


def test_predict_writes_the_same_records(tmp_path):
    one, data, runner = tuner(tmp_path), quiz(), trainer()
    (*parts,) = runner.predict(one, datamodule=data)
    assert {"question_B", "log_probs_BA", "log_likelihood_BA"} == set(parts[0])


def test_records_per_byte_count_bytes_not_characters():
    asked = number_questions([("s", "?", ("\u00e9", "ab", "c"), 0), ("s", "!", ("\u00e9\u00e9", "x"), 1)])
    found = torch.tensor([[-4.0, -2.0, -1.0], [-8.0, -3.0, 0.0]])
    frame = question_frame(asked, torch.tensor([0, 1]), found.log_softmax(-1), found)
    assert isinstance(frame, pd.DataFrame)
    assert frame["log_likelihoods"].tolist() == [[-4, -2, -1], [-8, -3]]
    assert frame["log_likelihoods_per_byte"].tolist() == [[-2, -1, -1], [-2, -3]]


def test_calibrated_heads_read_each_question_at_its_last_prompt_token(tmp_path):
    one, data, runner = tuner(tmp_path, AccuracyBiasHead()), quiz(), trainer()
    runner.validate(one, datamodule=data, verbose=False)
    table = one.table.layers[2]
    assert len(table.hidden_QD) == len(data.questions("train")) == 32
    assert one.gated.calibrated


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"task_loss": "vocabulary"}, "expected task_loss letters but got vocabulary"),
        ({"answer_path": {"use": "always"}}, "but got a cloze question's several answer tokens"),
    ],
)
def test_what_a_cloze_question_has_not_is_refused(tmp_path, settings, said):
    with pytest.raises(ConfigError, match=said):
        trainer().fit(tuner(tmp_path, **settings), datamodule=quiz())


def test_a_trunk_is_no_way_for_cloze_questions(tmp_path):
    one = tuner(tmp_path, answer_path={"use": "trunk"})
    trainer().validate(one, datamodule=quiz(), verbose=False)
    assert one.examiner.settle("train") == "full prompts"
