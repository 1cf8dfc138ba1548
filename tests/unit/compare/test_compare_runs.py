"""Run directories: what is read, grouped and refused."""

import json
import math
import re
import shutil

import pandas as pd
import pytest
from made_up_runs import write_run

from moe_tune.base.errors import DataError
from moe_tune.compare.arms import differing, group_arms
from moe_tune.compare.comparison import compare_arms
from moe_tune.compare.runs import load_run, require_same_items
from moe_tune.compare.table import render_markdown, summarise


def test_seeds_of_one_name_are_one_arm(run_dirs):
    runs = [load_run(path) for path in (run_dirs["baseline"], *run_dirs["retuned"], run_dirs["fixed"])]
    arms = group_arms(runs)
    assert {name: [run.seed for run in members] for name, members in arms.items()} == {
        "untouched": [1],
        "retuned": [1, 2, 3],
        "fixed": [1],
    }


def test_one_name_with_two_configurations_or_equal_seeds_is_never_pooled(tmp_path):
    first = write_run(tmp_path / "a-s1", name="nano", seed=1)
    other_head = write_run(tmp_path / "b-s2", name="nano", seed=2, gain=0.1, trainable=64)
    same_seed = write_run(tmp_path / "c-s1", name="nano", seed=1, gain=0.05)
    assert list(group_arms([load_run(first), load_run(other_head)])) == ["a-s1", "b-s2"]
    assert list(group_arms([load_run(first), load_run(same_seed)])) == ["a-s1", "c-s1"]


STOPPER = {"class_path": "lightning.pytorch.callbacks.EarlyStopping", "init_args": {"monitor": "validation/accuracy"}}
BAR = {"class_path": "lightning.pytorch.callbacks.RichProgressBar", "init_args": {"leave": True}}


@pytest.mark.parametrize(
    ("changes", "one_arm"),
    [
        ({"trainer": {"max_epochs": 5}}, False),
        ({"trainer": {"gradient_clip_val": 0.5}}, False),
        ({"trainer": {"devices": 2}}, False),
        ({"trainer": {"callbacks": [STOPPER]}}, False),
        ({"data": {"limit_train": 100}}, False),
        ({"data": {"batch_size": 16}}, False),
        ({"data": {"few_shot": 3}}, False),
        ({"optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.1}}}, False),
        ({"trainer": {"max_epochs": None, "devices": 1, "num_nodes": 1}}, True),  # the defaults, spelt out
        ({"data": {"batch_size": 32, "limit_train": None, "num_workers": 4}}, True),
        ({"model": {"base": {"experts_implementation": "eager"}, "answer_path": {"folder": "/elsewhere"}}}, True),
        ({"model": {"base": {"dtype": "float32"}, "answer_path": {"limit_gb": 20.0}}}, True),
        ({"trainer": {"logger": False, "accelerator": "cpu", "enable_progress_bar": False, "callbacks": [BAR]}}, True),
        ({"runs_root": "elsewhere", "name": "b", "test_after_fit": False, "lr_scheduler": None}, True),
        ({"optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"betas": [0.9, 0.999]}}}, True),
    ],
)
def test_seeds_of_one_arm_differ_in_nothing_that_moves_a_result(tmp_path, changes, one_arm):
    config = {
        "trainer": {"devices": 1, "callbacks": [], "default_root_dir": "a"},
        "model": {"head": {"class_path": "RetunedHead"}, "base": {"experts_implementation": "grouped_mm"}},
        "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {}},
    }
    changed = {**config, **changes}
    changed |= {key: {**config[key], **value} for key, value in changes.items() if key in ("trainer", "model")}
    runs = [
        load_run(write_run(tmp_path / f"s{seed}", name="a", seed=seed, config=one))
        for seed, one in ((1, config), (2, changed))
    ]
    assert (list(group_arms(runs)) == ["a"]) == one_arm, differing(*runs)


def test_what_processes_a_run_had_comes_before_what_was_asked_for(tmp_path):
    runs = [
        load_run(write_run(tmp_path / f"s{seed}", seed=seed, config={"trainer": {"devices": devices}}, processes=2))
        for seed, devices in ((1, "auto"), (2, 2))
    ]
    assert differing(*runs) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": {"data": {"few_shot": 3}}}, "same number of worked examples but got 0 .* and 3 "),
        ({"data": {"prompts": {"test": {"few_shot": 3}}}}, "same number of worked examples but got 0 .* and 3 "),
        ({"protocols": {"test": "lm_eval"}}, "same protocol but got nano_quiz .* and lm_eval"),
        ({"base": {"path": "nano", "revision": None, "dtype": "float32", "frozen_sha256": "b"}}, "same frozen weights"),
    ],
)
def test_another_measurement_and_other_weights_of_one_name_are_refused(tmp_path, changes, message):
    base = {"path": "nano", "revision": None, "dtype": "float32", "frozen_sha256": "a"}
    one = load_run(write_run(tmp_path / "one", splits=("test",), base=base))
    other = load_run(write_run(tmp_path / "other", splits=("test",), **{"base": base, **changes}))
    with pytest.raises(DataError, match=message):
        compare_arms({"one": [one], "other": [other]}, "one")


@pytest.mark.parametrize("before", [{}, {"quantise": None}, {"quantise": 8}])
def test_runs_of_differently_quantised_experts_are_refused(tmp_path, before):
    runs = [
        load_run(write_run(tmp_path / name, name=name, config={"model": {"base": base}}))
        for name, base in (("one", before), ("four", {"quantise": 4}))
    ]
    with pytest.raises(DataError, match=r"quantised alike but got model\.base\.quantise (null|8) in .* and 4 in "):
        compare_arms({"one": runs[:1], "four": runs[1:]}, "one")
    assert "model.base.quantise" in differing(*runs)


def test_other_differences_of_the_base_models_are_named(tmp_path):
    base = {"path": "nano", "revision": None, "dtype": "float32", "frozen_sha256": "a"}
    one = load_run(write_run(tmp_path / "one", name="one", base=base))
    half = load_run(write_run(tmp_path / "half", name="half", base=base | {"dtype": "bfloat16", "frozen_sha256": "b"}))
    old = load_run(write_run(tmp_path / "old", name="old", base={"path": "nano", "revision": None, "dtype": "float32"}))
    assert compare_arms({"one": [one], "same": [one]}, "one").notes == ()
    comparison = compare_arms({"one": [one], "half": [half], "old": [old]}, "one")
    assert comparison.notes == (
        "half: model.base.dtype is bfloat16, that of one is float32.",
        "No hash of the base model's weights is recorded in old: nothing shows it is the same.",
    )
    assert all(note in render_markdown(comparison) for note in comparison.notes)
    assert summarise(comparison)["notes"] == list(comparison.notes)


def test_a_run_whose_answers_are_one_letter_is_named(tmp_path):
    for name in ("one", "other"):
        write_run(tmp_path / name, name=name)
    file = tmp_path / "other" / "questions" / "test.parquet"
    pd.read_parquet(file).assign(prediction=2).to_parquet(file)
    one, other = (load_run(tmp_path / name) for name in ("one", "other"))
    notes = compare_arms({"one": [one], "other": [other]}, "one").notes
    assert "The answers of other on test: all 240 are C." in notes
    assert not any("textbook" in note or "of one" in note for note in notes)


def test_accuracy_agrees_with_pandas(run_dirs):
    paths = [run_dirs["baseline"], *run_dirs["retuned"]]
    comparison = compare_arms(group_arms([load_run(path) for path in paths]), "untouched")
    tables = [pd.read_parquet(path / "questions" / "test.parquet") for path in paths]
    shares = [(table["gold"] == table["prediction"]).mean() for table in tables]
    result = comparison.arms["retuned"].results["test"]
    assert result.baseline_accuracy == pytest.approx(shares[0])
    assert result.accuracy == pytest.approx(sum(shares[1:]) / 3)
    assert result.seeds == (1, 2, 3)
    assert list(comparison.splits) == ["test", "test_nano_textbook"]


def test_different_item_sets_are_refused_with_their_ids(run_dirs, tmp_path):
    fewer = load_run(write_run(tmp_path / "fewer", name="fewer", n=237))
    with pytest.raises(DataError, match=r"3 that differ: 3 only in .*\(q00237, q00238, q00239\)") as caught:
        require_same_items(load_run(run_dirs["baseline"]), fewer, "test")
    assert caught.value.exit_code == 3


def test_same_ids_with_other_answers_are_refused(run_dirs, tmp_path):
    other = load_run(write_run(tmp_path / "other", name="other", item_seed=5))
    with pytest.raises(DataError, match="equal content, subject and right answer"):
        compare_arms({"untouched": [load_run(run_dirs["baseline"])], "other": [other]}, "untouched")


@pytest.mark.parametrize(
    ("file", "remedy"),
    [
        ("manifest.json", "fit --config .*best.ckpt/config.yaml --fresh true"),
        ("config.yaml", "fit --config .*best.ckpt/config.yaml --fresh true"),
        ("questions/test.parquet", "test --ckpt_path .*checkpoints/best.ckpt`"),
        ("routing/test.parquet", "test --ckpt_path .*checkpoints/best.ckpt`"),
    ],
)
def test_a_corrupt_or_missing_file_is_named_with_the_command_that_makes_it(run_dirs, tmp_path, file, remedy):
    copy = shutil.copytree(run_dirs["baseline"], tmp_path / "run")
    (copy / "checkpoints" / "best.ckpt").mkdir(parents=True)
    shutil.copy(copy / "config.yaml", copy / "checkpoints" / "best.ckpt")
    (copy / file).write_text("{: broken")
    with pytest.raises(DataError, match=f"{file}.*python -m moe_tune {remedy}"):
        load_run(copy)
    if file != "questions/test.parquet":
        (copy / file).unlink()
        with pytest.raises(DataError, match=f"got nothing .*{file}.*{remedy}"):
            load_run(copy)


@pytest.mark.parametrize(
    ("status", "checkpoint", "remedy"),
    [
        ("finished", "best.ckpt", "test --ckpt_path {run}/checkpoints/best.ckpt"),
        ("finished", "last.ckpt", "test --ckpt_path {run}/checkpoints/last.ckpt"),
        ("finished", None, "fit --config {run}/config.yaml --test_after_fit true --fresh true"),
        ("evaluated", None, "test --config {run}/config.yaml"),
    ],
)
def test_a_run_without_test_records_is_told_how_to_make_them(run_dirs, tmp_path, status, checkpoint, remedy):
    run = write_run(tmp_path / "run", status=status, splits=("validation",))
    if checkpoint:
        (run / "checkpoints" / checkpoint).mkdir(parents=True)
    command = f"python -m moe_tune {remedy.format(run=run)}"
    arms = {"a": [load_run(run_dirs["baseline"])], "b": [load_run(run)]}
    for splits in (None, {"test": "quiz"}):
        with pytest.raises(DataError, match=re.escape(f"`{command}`")):
            compare_arms(arms, "a", splits)
    shutil.rmtree(run / "questions")
    with pytest.raises(DataError, match=re.escape(f"`{command}`")):
        load_run(run)


def test_unfinished_runs_are_refused_and_evaluations_accepted(tmp_path):
    with pytest.raises(DataError, match=r"'started'.*the same command again"):
        load_run(write_run(tmp_path / "unfinished", status="started"))
    evaluated, finished = (
        load_run(write_run(tmp_path / status, status=status)) for status in ("evaluated", "finished")
    )
    assert differing(evaluated, finished) == []


def test_missing_columns_keys_and_repeated_ids_are_named(run_dirs, tmp_path):
    copy = shutil.copytree(run_dirs["baseline"], tmp_path / "run")
    table = pd.read_parquet(copy / "questions/test.parquet")
    table.drop(columns="gold").to_parquet(copy / "questions/test.parquet")
    with pytest.raises(DataError, match="no gold"):
        load_run(copy)
    pd.concat([table, table.head(2)]).to_parquet(copy / "questions/test.parquet")
    with pytest.raises(DataError, match="2 repeated ids"):
        load_run(copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({key: manifest[key] for key in manifest if key != "seed"}))
    with pytest.raises(DataError, match="seed"):
        load_run(copy)
    with pytest.raises(DataError, match="a run directory"):
        load_run(tmp_path / "nowhere")


def test_validation_is_compared_only_without_a_test_split(tmp_path):
    def arms(splits):
        folder = tmp_path / "-".join(splits)
        one = write_run(folder / "one", name="one", splits=splits)
        return group_arms([load_run(one), load_run(write_run(folder / "two", name="two", gain=0.1, splits=splits))])

    assert list(compare_arms(arms(("validation", "test")), "one").splits) == ["test"]
    assert list(compare_arms(arms(("validation",)), "one").splits) == ["validation"]
    with pytest.raises(DataError, match="split"):
        compare_arms(arms(("train",)), "one")
    with pytest.raises(DataError, match="Did you mean test"):
        compare_arms(arms(("test",)), "one", {"tests": "quiz"})


def test_a_baseline_with_several_seeds_needs_each_seed_of_an_arm(tmp_path):
    runs = [load_run(write_run(tmp_path / f"base{seed}", name="base", seed=seed)) for seed in (1, 2)]
    arm = [load_run(write_run(tmp_path / f"arm{seed}", name="arm", seed=seed, gain=0.1)) for seed in (1, 3)]
    assert compare_arms({"base": runs, "arm": arm[:1]}, "base").arms["arm"].results["test"].seeds == (1,)
    with pytest.raises(DataError, match=r"got none for \[3\]"):
        compare_arms({"base": runs, "arm": arm}, "base")


def test_routing_summary_counts_experts_at_the_answer_position(run_dirs):
    run = load_run(run_dirs["baseline"])
    summary = compare_arms({"a": [run], "b": [run]}, "a").arms["a"].routing["test"]
    table = run.routing["test"].query("scope == 'answer'")
    assert summary.never_share == pytest.approx((table["count"] == 0).mean())
    assert summary.entropy_topk == pytest.approx(table.groupby("layer")["entropy_topk_mean"].first().mean())
    assert summary.usage_LE.shape == (4, 16)
    assert summary.never_bound == pytest.approx(math.log(64 / 0.05) / 240, rel=0.02)
