"""Fits and evaluations under the cloze protocol."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch import Trainer
from tiny_runs import QUIET, TINY, answers, history, manifest, only_run

from moe_tune.answer_path.settings import AnswerPath
from moe_tune.answer_path.way import Reach, decide_way
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
from moe_tune.models.refusals import Refusals
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
    assert "answer path on (train, validation cached)" in start_up_line(one)
    assert len(list(tmp_path.glob("*/cache.json"))) == 2


def test_a_fit_on_kept_prompts_is_that_on_full_ones(tmp_path):
    found = []
    for use in ("always", "never"):
        one, runner = tuner(tmp_path, answer_path={"use": use}), trainer()
        one.make_optimizer = lambda parameters: torch.optim.SGD(parameters, lr=0.3)
        runner.fit(one, datamodule=quiz(few_shot=2))
        found.append((one.gated.state(), float(runner.callback_metrics["validation/loss"])))
    (came, loss), (wanted, other) = found
    for name, value in wanted.items():
        assert (came[name] - value).norm() <= 1e-4 * value.norm(), name
    assert loss == pytest.approx(other, rel=1e-5)
    for folder, way in ((tmp_path, "cached"), (tmp_path / "other", "streamed")):  # a cache that is there is read
        one, runner = tuner(folder, answer_path={"limit_gb": 0.0}), trainer()
        (usual,) = runner.validate(one, datamodule=quiz(few_shot=2), verbose=False)
        assert one.examiner.settle("validation") == way
        full = tuner(folder, answer_path={"use": "never"})
        (wanted,) = trainer().validate(full, datamodule=quiz(few_shot=2), verbose=False)
        assert usual["validation/loss"] == pytest.approx(wanted["validation/loss"], rel=1e-5)


def test_a_grid_gives_each_head_what_it_gets_alone(tmp_path, capsys):
    args = [*TINY, "--data.protocol", "cloze", "--data.test_protocols", "null"]
    args += ["--config", "configs/head/temperature.yaml", "--model.answer_path.folder", str(tmp_path / "kept")]
    assert main(["grid", *args, "--vary", "model.head.tau=0.3,2", "--format", "json"]) == 0
    points = json.loads(capsys.readouterr().out)
    for tau, point in zip((0.3, 2.0), points[1:], strict=True):
        alone = tmp_path / str(tau)
        settings = ["--model.head.tau", str(tau), "--runs_root", str(alone), "--model.answer_path.use", "never"]
        assert main(["validate", *args, *settings]) == 0
        logged = {key: value for line in history(only_run(alone)) for key, value in line.items()}
        for name in ("accuracy", "loss", "entropy_topk", "never_activated_share"):
            assert point["numbers"][name] == pytest.approx(logged[f"validation/{name}"], rel=1e-5), name


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
    assert manifest(run)["answer_path"] == dict.fromkeys(("train", "validation", "test", "test_nano_quiz"), "cached")
    assert manifest(run)["data"]["prompts"]["test"]["letter_ids"] == []


def test_predict_writes_the_same_records(tmp_path):
    one, data, runner = tuner(tmp_path), quiz(), trainer()
    (*parts,) = runner.predict(one, datamodule=data)
    assert {"question_B", "log_probs_BA", "log_likelihood_BA"} == set(parts[0])


def test_records_per_byte_count_bytes_not_characters():
    asked = number_questions([("s", "?", ("\u00e9", "ab", "c"), 0), ("s", "!", ("\u00e9\u00e9", "x"), 1)])
    found = torch.tensor([[-4.0, -2.0, -1.0], [-8.0, -3.0, 0.0]])
    frame = question_frame(
        asked, torch.tensor([0, 1]), {"log_probs_BA": found.log_softmax(-1), "log_likelihood_BA": found}
    )
    assert isinstance(frame, pd.DataFrame)
    assert frame["log_likelihoods"].tolist() == [[-4, -2, -1], [-8, -3]]
    assert frame["log_likelihoods_per_byte"].tolist() == [[-2, -1, -1], [-2, -3]]


def test_calibrated_heads_read_each_question_at_its_last_prompt_token(tmp_path):
    one, data, runner = tuner(tmp_path, AccuracyBiasHead()), quiz(), trainer()
    runner.validate(one, datamodule=data, verbose=False)
    table = one.table.layers[2]
    assert len(table.hidden_QD) == len(data.questions("train")) == 32
    assert one.gated.calibrated


def test_a_loss_over_the_vocabulary_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="expected task_loss letters but got vocabulary"):
        trainer().fit(tuner(tmp_path, task_loss="vocabulary"), datamodule=quiz())


def test_a_trunk_is_no_way_for_cloze_questions(tmp_path):
    one = tuner(tmp_path, answer_path={"use": "trunk"})
    trainer().validate(one, datamodule=quiz(), verbose=False)
    assert one.examiner.settle("train") == "full prompts"


@pytest.mark.parametrize("use", ["auto", "never"])
def test_choices_side_by_side_need_attention_to_all_earlier_tokens(use):
    reach = Reach(0, refusals=Refusals(side_by_side="sliding-window attention"), cloze=True)
    with pytest.raises(ConfigError, match="all earlier tokens but got sliding-window attention"):
        decide_way("train", reach, AnswerPath(use=use), None)
