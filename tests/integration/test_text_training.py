"""Fits on text: what they leave, that they resume to the bit, and that kept hidden states change no loss."""

import math
import re

import pandas as pd
import pytest
from tiny_runs import TINY, answers, history, manifest, only_run, power_cut, routing, same_weights, told_beside, weights

from moe_tune.base.errors import ConfigError
from moe_tune.cli.main import main
from moe_tune.data.joint_batching import JointBatch
from moe_tune.runs.answers import text_file
from moe_tune.tuner.router_tuner import RouterTuner

TEXT = ["--config", "configs/task/next_token.yaml", "--data.text.source.documents", "300", "--data.limit_test", "40"]
BOTH = ["--config", "configs/task/both.yaml", "--data.text.source.documents", "150", "--data.limit_test", "40"]
EVERY_STEP = ["--trainer.log_every_n_steps", "1"]
DESCENT = ["--optimizer", "torch.optim.SGD", "--optimizer.lr", "1.0", "--trainer.gradient_clip_val", "null"]


def fit(root, *words):
    assert main(["fit", *TINY, *words, "--runs_root", str(root)]) == 0
    return only_run(root)


def losses(run, key="train/loss"):
    return [one[key] for one in history(run) if key in one]


@pytest.fixture(scope="module")
def on_text(tmp_path_factory):
    """Give the run directory of a fit on text, and what was said of texts."""
    return told_beside(tmp_path_factory.mktemp("next_token"), *TEXT)


def test_a_fit_on_text_predicts_held_out_text_better_and_says_by_how_much(on_text):
    path, lines = on_text
    tuned, base = (pd.read_parquet(text_file(path, "validation", of)) for of in ("", ".base"))
    assert tuned["id"].is_unique
    mean, before = ((one["loss"] * one["tokens"]).sum() / one["tokens"].sum() for one in (tuned, base))
    assert mean < before - 0.1
    assert losses(path, "validation_text/loss")[-1] == pytest.approx(mean, rel=1e-6)
    assert any(re.match(r"test_text: next-token loss .* nats \[-", line) for line in lines)
    told = manifest(path)["data"]["text"]
    assert told["validation"]["tokens"] == tuned["tokens"].sum()
    assert told["train"]["documents"] + told["validation"]["documents"] <= told["documents"] == 300
    assert len(answers(path)) == 40, "the quiz is evaluated"
    assert not any("train/accuracy" in one for one in history(path)), "and not trained on"


def test_the_tokens_an_expert_served_are_counted_once_each(on_text):
    path, _ = on_text
    tokens = pd.read_parquet(text_file(path, "validation"))["tokens"].sum()
    for split in ("validation_text", "validation_text.base"):
        table = routing(path, split)
        slots = table.groupby("layer")["count"].sum()
        assert (slots == 8 * tokens).all()
        assert (table["questions"] == table["count"]).all(), "a token counts once for an expert"
        weighed = (table["token_loss"].fillna(0) * table["count"]).groupby(table["layer"]).sum() / slots
        of = ".base" if split.endswith("base") else ""
        losses_D = pd.read_parquet(text_file(path, "validation", of))
        assert weighed.to_numpy() == pytest.approx((losses_D["loss"] * losses_D["tokens"]).sum() / tokens, rel=1e-5)
        assert table["shrunk"].between(0, 1).any()


def test_its_checkpoint_can_be_tested_and_compared(on_text, capsys, tmp_path):
    path, _ = on_text
    assert main(["test", str(path)]) == 0
    with pytest.MonkeyPatch.context() as patch:
        said = []
        patch.setattr("moe_tune.callbacks.block_records.rank_zero_info", said.append)
        assert main(["validate", str(path)]) == 0
    assert said[0].startswith("validation_text: next-token loss")
    assert main(["compare", str(path), "--out", str(tmp_path)]) == 0
    assert "test_text" in capsys.readouterr().out


@pytest.mark.parametrize("task", [TEXT, BOTH], ids=["next_token", "both"])
def test_an_interrupted_fit_ends_as_one_that_was_not(task, tmp_path):
    words = [*task, "--trainer.max_epochs", "2"]
    whole = fit(tmp_path / "whole", *words)
    steps = manifest(whole)["steps"] if "steps" in manifest(whole) else len(losses(whole))
    power_cut(max(2, steps // 2), lambda: fit(tmp_path / "cut", *words))
    assert same_weights(fit(tmp_path / "cut", *words), whole)


def test_kept_hidden_states_change_no_loss(tmp_path):
    # A temperature changes no choice, so that no rounding decides in the end which expert a token gets.
    words = [*TEXT, *DESCENT, "--config", "configs/head/temperature_learned.yaml", "--model.layers", "last-2"]
    words += ["--optimizer.lr", "0.3", *EVERY_STEP]
    prompts = ["--model.answer_path.folder", str(tmp_path / "prompts")]
    kept = fit(tmp_path / "kept", *words, *prompts)
    again = fit(tmp_path / "again", *words, *prompts, "--model.answer_path.use", "never")
    (trunk,) = (tmp_path / "prompts").rglob("keys_values.bin")
    tokens = manifest(kept)["data"]["text"]["train"]["tokens"]
    assert trunk.stat().st_size == tokens * 64 * 4, "a hidden state per token that runs"
    one, other = losses(kept), losses(again)
    assert len(one) == len(other) > 4
    assert one == pytest.approx(other, abs=2e-6)
    assert one[-1] < one[0]


def test_micro_batches_of_text_make_one_step(tmp_path):
    words = [*TEXT, *DESCENT, "--trainer.max_epochs", "1"]
    whole = fit(tmp_path / "whole", *words, "--data.batch_size", "276")
    parts = fit(tmp_path / "parts", *words, "--data.batch_size", "69", "--trainer.accumulate_grad_batches", "4")
    assert manifest(whole)["data"]["text"]["train"]["blocks"] == 276, "one step"
    one, other = weights(whole), weights(parts)
    for name, value in one.items():
        assert value.allclose(other[name], atol=1e-5), "a step sees the mean over all of its tokens"


def test_both_trains_each_quiz_batch_with_a_text_batch_that_goes_on_over_epochs(tmp_path, monkeypatch):
    seen, steps = [], RouterTuner.training_step

    def spy(self, batch, batch_index):
        assert isinstance(batch, JointBatch)
        seen.append((batch.quiz.question_B.tolist(), batch.text.document_B.tolist()))
        return steps(self, batch, batch_index)

    monkeypatch.setattr(RouterTuner, "training_step", spy)
    run = fit(tmp_path, *BOTH, "--trainer.max_epochs", "3", "--data.batch_size", "32", *EVERY_STEP)
    blocks, quiz = manifest(run)["data"]["text"]["train"]["blocks"], len(seen) // 3
    a_pass = math.ceil(blocks / 32)
    assert len(seen) > a_pass, "the text begins anew"
    assert sorted(one for _, text in seen[:a_pass] for one in text) == list(range(blocks))
    assert seen[0][0] != seen[quiz][0], "another order in another epoch"
    assert losses(run, "train/loss_text")[-1] < losses(run, "train/loss_text")[0] + 1


def test_the_weight_of_text_holds_its_loss(tmp_path):
    ends = []
    for weight in ("0.01", "3.0"):
        run = fit(tmp_path / weight, *BOTH, "--data.text.weight", weight, "--trainer.max_epochs", "2")
        ends.append(losses(run, "validation_text/loss")[-1])
    assert ends[1] < ends[0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model.task", "next_token"], r"scope all but got answer.*model\.scope"),
        (["--model.task", "both", "--model.scope", "all"], r"text for the task both but got None \(data\.text\)"),
        ([*TEXT, "--config", "configs/losses/oracle_distillation.yaml"], "reads oracle of the quiz"),
        ([*TEXT, "--data.text.block", "1"], r"data\.text\.block"),
        ([*BOTH, "--config", "configs/trainer/gradient_checkpointing.yaml"], "no gradient checkpointing under both"),
        ([*TEXT, "--data.text.block", "4096"], r"model's context.*data\.text\.block"),
        ([*TEXT, "--model.task", "nxt_token"], "next_token"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(words, said, tmp_path, capsys):
    code = main(["fit", *TINY, *words, "--runs_root", str(tmp_path)])
    assert code == ConfigError.exit_code
    assert re.search(said, capsys.readouterr().err.replace("\n", " "))
    assert not any(tmp_path.glob("*/checkpoints"))
