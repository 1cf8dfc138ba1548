"""Sensitivity on the nano model: what changes nothing counts nothing, and nothing is left changed."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from moe_tune.analysis.perturbations import CHANGES, Change, double_a_space, space_behind_stem
from moe_tune.analysis.sensitivity import LETTERS, changed_experts, measure_sensitivity
from moe_tune.base.errors import ConfigError
from moe_tune.base.wheel import olmo_tokenizer_path
from moe_tune.data.batching import PromptDataset
from moe_tune.settings.fit_settings import FitSettings

QUESTIONS = 128


def bench(*more):
    """Return a tuner with a perturbed trainable head on a trainer, its model loaded, and its quiz."""
    host = FitSettings(["--config", "configs/nano.yaml", "--data.limit_validation", "256", *more])
    host.trainer_for(limit_val_batches=1).validate(host.model, datamodule=host.datamodule, verbose=False)
    with torch.no_grad():
        for parameter in host.model.gated.trainable().values():
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3))
    return host.model, host.datamodule


def measured(tuner, *how):
    return measure_sensitivity(tuner.examiner, *how)


@pytest.fixture(scope="module")
def nano():
    return bench("--data.few_shot", "2")


@pytest.fixture(scope="module")
def frame(nano):
    return measured(nano[0], "validation", QUESTIONS)


def rows(frame, change):
    part = frame[frame["change"] == change]
    return part[part["layer"] != LETTERS], part[part["layer"] == LETTERS].iloc[0]


def test_every_change_has_a_row_per_layer_and_one_of_letters(frame):
    assert list(frame.columns) == [
        *("change", "layer", "questions", "changed_share", "changed_low", "changed_high", "any_changed_share"),
        *("flipped_share", "flipped_low", "flipped_high", "too_long"),
    ]
    assert frame["change"].unique().tolist() == [one.name for one in CHANGES]
    for name in frame["change"].unique():
        layers, letters = rows(frame, name)
        assert layers["layer"].tolist() == [0, 1, 2, 3]
        assert layers["flipped_share"].isna().all()
        assert np.isnan(letters["changed_share"])
        assert set(layers["questions"]) == {letters["questions"]}


def test_shares_are_shares_within_their_intervals(frame):
    for name, shares in (("changed", frame), ("flipped", frame[frame["layer"] == LETTERS])):
        known = shares[shares[f"{name}_low"].notna()]
        assert len(known)
        low, share, high = (known[f"{name}_{part}"] for part in ("low", "share", "high"))
        assert ((low >= 0) & (low <= share + 1e-12) & (share <= high + 1e-12) & (high <= 1)).all()
    assert (frame["any_changed_share"].dropna() >= frame["changed_share"].dropna()).all()


def test_what_a_tokenizer_of_words_swallows_does_not_count(frame):
    layers, letters = rows(frame, "white space")
    assert letters["questions"] == 0
    assert layers[["changed_share", "changed_low", "any_changed_share"]].isna().all(axis=None)
    assert rows(frame, "choice order")[1]["questions"] == QUESTIONS
    assert rows(frame, "few-shot order")[1]["questions"] == QUESTIONS
    assert 0 < rows(frame, "synonyms")[1]["questions"] < QUESTIONS


def test_questions_that_change_move_some_experts(frame):
    for name in ("choice order", "typos"):
        assert (rows(frame, name)[0]["changed_share"] > 0.01).all()


def test_batch_size_in_float32_changes_less_than_one_choice_in_ten_thousand(frame):
    layers, letters = rows(frame, "batch size")
    assert letters["questions"] == QUESTIONS
    assert (layers["changed_share"] < 1e-4).all()
    assert letters["flipped_share"] == 0
    assert (layers["changed_high"] > 0.01).all()  # none of 128 is no proof of none


def test_the_other_dtype_moves_experts_by_less_than_a_typo(frame):
    layers, letters = rows(frame, "base dtype")
    assert letters["questions"] == QUESTIONS
    assert 0 < layers["changed_share"].mean() < rows(frame, "typos")[0]["changed_share"].mean()


def test_measuring_twice_gives_the_same(nano, frame):
    pd.testing.assert_frame_equal(frame, measured(nano[0], "validation", QUESTIONS))


@pytest.mark.parametrize("training", [True, False])
def test_nothing_is_left_changed(nano, training):
    tuner, quiz = nano
    tuner.train(training)
    tuner.gated(*tuner_batch(tuner, quiz)[:2])

    def state():
        files = sorted(Path(os.environ["XDG_CACHE_HOME"]).rglob("*"))
        modes = [module.training for module in tuner.modules()]
        heads = {name: value.clone() for name, value in tuner.state_dict().items()}
        with tuner.gated.session() as now:
            session = {name: value for name, value in vars(now).items() if name != "trace"}
        places = [value.data_ptr() for value in tuner.parameters()]
        return (
            tuner.gated.frozen_hashes(),
            heads,
            modes,
            session,
            places,
            quiz.manifest,
            dict(tuner.examiner.answering.ways),
            files,
        )

    before, random = state(), torch.get_rng_state()
    measured(tuner, "validation", 40)
    after = state()
    assert all(torch.equal(value, after[1][name]) for name, value in before[1].items())
    assert before[:1] + before[2:] == after[:1] + after[2:]
    assert torch.equal(random, torch.get_rng_state())
    assert torch.is_grad_enabled()
    tuner.eval()


def tuner_batch(tuner, quiz):
    return PromptDataset(quiz.encoded("validation").prompts, quiz.subjects, quiz.pad_id)[[0, 1, 2]]


def test_no_change_is_no_flip(nano):
    same = (Change("nothing asked"), Change("nothing computed", batch_size=nano[1].eval_batch_size))
    frame = measured(nano[0], "validation", QUESTIONS, same)
    assert rows(frame, "nothing asked")[1]["questions"] == 0
    layers, letters = rows(frame, "nothing computed")
    assert letters["questions"] == QUESTIONS
    assert letters["flipped_share"] == 0
    assert (layers[["changed_share", "any_changed_share"]] == 0).all(axis=None)


def test_a_model_that_knows_the_answer_follows_it_to_its_new_letter():
    """In the layout nano is good at; read without mapping back, nearly every letter would differ."""
    change = next(one for one in CHANGES if one.name == "choice order")
    knowing = ["--data.protocol", "nano_textbook", "--model.head", "IdentityHead"]
    _, letters = rows(measured(bench(*knowing)[0], "validation", QUESTIONS, [change]), "choice order")
    assert letters["flipped_share"] < 0.5


def test_prompts_that_no_longer_fit_are_left_out_and_counted():
    wordier = Change("wordier", question=lambda one: replace(one, stem=f"Which {one.stem}"))
    tuner, quiz = bench()
    longest = max(len(one.ids_S) for one in quiz.encoded("validation").prompts)
    at_limit = [len(one.ids_S) == longest for one in quiz.encoded("validation").prompts]
    quiz.max_length = longest
    letters = rows(measured(tuner, "validation", 1_000, [wordier]), "wordier")[1]
    assert letters["too_long"] == sum(at_limit) > 0
    assert letters["questions"] == 256 - sum(at_limit)


def test_white_space_counts_where_the_tokenizer_keeps_it():
    """A random model with OLMoE's own tokenizer."""
    try:
        olmo_tokenizer_path()
    except ConfigError as fault:
        pytest.skip(str(fault))
    base = ["--model.base.path", "random", "--model.base.tokenizer", "olmo-eval"]
    tuner, _ = bench(*base, "--data.protocol", "lm_eval", "--data.test_protocols", "null")
    change = Change("white space", question=double_a_space, protocol=space_behind_stem)
    layers, letters = rows(measured(tuner, "validation", 32, [change]), "white space")
    assert letters["questions"] == 32
    assert (layers["changed_share"] > 0).all()


def test_a_sample_of_nothing_is_refused(nano):
    with pytest.raises(ConfigError, match="at least 1 question but got 0"):
        measured(nano[0], "validation", 0)


def test_changed_experts_agrees_with_sets():
    draw = np.random.default_rng(0)
    before, after = draw.random((2, 50, 3, 8)) < 0.4
    before[0, 0] = after[0, 0] = False
    for place in np.ndindex(50, 3):
        first, second = (set(np.flatnonzero(one[place])) for one in (before, after))
        wanted = 1 - len(first & second) / max(len(first), len(second)) if first or second else 0.0
        assert changed_experts(before, after)[place] == pytest.approx(wanted)
