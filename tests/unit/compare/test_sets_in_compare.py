"""Sets that a run was not made for: each is tested against its margin, their average too, and overlap is said."""

import json

import pytest
from made_up_runs import write_run
from rich.console import Console

from moe_tune.compare.comparison import compare_arms
from moe_tune.compare.non_inferiority import (
    POOL,
    POOL_MARGINS,
    POOLED,
    findings,
    non_inferiority_tables,
    size_of,
    summarise_non_inferiority,
)
from moe_tune.compare.report import compare_runs
from moe_tune.compare.runs import load_run
from moe_tune.compare.table import render_markdown
from moe_tune.compare.terminal import render_terminal
from moe_tune.data.suite_tasks import TASKS
from moe_tune.stats.non_inferiority import pooled_margin, smallest_margin

EXAMS = {"train": {"subjects": {"auxiliary": 99842}}}


def recorded(tasks, splits=None):
    sources = {
        f"test_{task}": {
            "source": {"class": "OlmoEvalSuite", "arguments": {"task": task}, "revision": "1"},
            **({"same_origin_as": ["auxiliary"]} if TASKS[task].same_origin_as else {}),
        }
        for task in tasks
    }
    own = {"class": "NanoQuiz", "arguments": {}, "revision": "1"}
    return {"source": own, "test_sources": sources, "splits": splits or {"train": {"subjects": {"sums": 9}}}}


def runs_of(folder, tasks, trained=None, n=240):
    splits = ("test", *(f"test_{task}" for task in tasks))
    baseline = write_run(folder / "base", n=n, splits=splits, data=recorded(tasks))
    arm = write_run(
        folder / "arm", name="retuned", trainable=8, gain=0.1, n=n, splits=splits, data=recorded(tasks, trained)
    )
    return baseline, arm


def figures(baseline, arm):
    return compare_arms({"untouched": [load_run(baseline)], "retuned": [load_run(arm)]}, "untouched")


@pytest.mark.slow
def test_each_set_has_its_margin_and_all_six_are_averaged(tmp_path):
    baseline, arm = runs_of(tmp_path, [*POOL, "sciq"])
    out = tmp_path / "out"
    comparison = compare_runs(baseline, [arm], out)
    (found,) = findings(comparison).values()
    assert set(found) == {*(f"test_{task}" for task in (*POOL, "sciq")), POOLED}
    one, result = found["test_piqa"], comparison.arms["retuned"].results["test_piqa"]
    assert (one.diff, one.low, one.margin) == (result.diff, result.ci90[0], smallest_margin(1838, 0.1))
    assert found[POOLED].margin == 0.0075
    assert found[POOLED].diff == pytest.approx(sum(found[f"test_{task}"].diff for task in POOL) / 6)
    summary = json.loads((out / "summary.json").read_text())["non_inferiority"]["retuned"]
    assert summary["test_piqa"]["non_inferior"] == one.holds
    for file in ("table.md", "report.html"):
        assert POOLED in (out / file).read_text()
    console = Console(width=80, record=True, file=(tmp_path / "said").open("w"))
    console.print(render_terminal(comparison))
    said = console.export_text()
    assert "not shown non-inferior" in said
    assert "…" not in said


@pytest.mark.slow
def test_after_exams_four_are_averaged_and_arc_is_said_to_overlap(tmp_path):
    comparison = figures(*runs_of(tmp_path, POOL, EXAMS))
    (found,) = findings(comparison).values()
    assert found[POOLED].margin == 0.0085
    kept = [task for task in POOL if not task.startswith("arc")]
    assert found[POOLED].diff == pytest.approx(sum(found[f"test_{task}"].diff for task in kept) / 4)
    notes = [note for note in comparison.notes if "not out of distribution" in note]
    assert [note.split()[0] for note in notes] == ["test_arc_challenge", "test_arc_easy"]
    assert "arm trained on auxiliary_train" in notes[0]
    ((table, _),) = non_inferiority_tables(comparison)
    flagged = {row[0].text for row in table.rows() if row[0].note == "not out of distribution"}
    assert flagged == {"arc_challenge", "arc_easy"}


def test_without_all_sets_there_is_no_average_and_without_any_no_table(tmp_path):
    (found,) = findings(figures(*runs_of(tmp_path / "some", ["piqa", "boolq"]))).values()
    assert POOLED not in found
    comparison = figures(*runs_of(tmp_path / "none", []))
    assert findings(comparison) == summarise_non_inferiority(comparison) == {}
    assert non_inferiority_tables(comparison) == []
    assert "non-inferior" not in render_markdown(comparison)


def test_an_evaluated_checkpoint_is_known_by_the_run_that_fitted_it(tmp_path):
    fitted = write_run(tmp_path / "fitted", data=recorded([], EXAMS), trainable=8)
    config = {"ckpt_path": str(fitted / "checkpoints" / "best.ckpt"), "model": {"head": {"class_path": "RetunedHead"}}}
    data = {**recorded(["openbookqa"]), "splits": {}}
    splits = ("test_openbookqa",)
    arm = write_run(tmp_path / "arm", name="retuned", trainable=8, gain=0.1, splits=splits, data=data, config=config)
    baseline = write_run(tmp_path / "base", splits=splits, data=data)
    notes = figures(baseline, arm).notes
    assert [note for note in notes if note.startswith("test_openbookqa is not out of distribution: arm trained on")]


def test_the_pools_margins_are_just_above_what_can_be_tested():
    sizes = {task: size_of(task) for task in POOL}
    four = [size for task, size in sizes.items() if not task.startswith("arc")]
    for pool in (list(sizes.values()), four):
        assert 0 < POOL_MARGINS[len(pool)] - pooled_margin(pool, 0.1) < 0.0005
