"""Experiments: strict reading of the file, the runs it asks for, the results it writes."""

import json

import pytest
from made_up_experiment import VALID, Executor, write

from moe_tune.base.errors import ConfigError
from moe_tune.studies.experiment import run_experiment
from moe_tune.studies.experiment_file import load_experiment


def test_paths_are_found_in_the_folder_and_in_the_repository(folder):
    experiment = load_experiment(folder)
    assert experiment.base == [str(folder / "base.yaml")]
    assert experiment.arms["retuned"] == [str(folder.parents[1] / "overlay.yaml"), "model.head.tau=0.5"]
    assert experiment.baseline == "untouched"


def test_the_current_directory_comes_first(folder, monkeypatch):
    (folder.parents[1] / "base.yaml").touch()
    monkeypatch.chdir(folder.parents[1])
    assert load_experiment(folder).base == ["base.yaml"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": [1]}, "Did you mean seeds"),
        ({"seeds": [1, 2, 1]}, r"\[1\] more than once"),
        ({"seeds": []}, "a value for 'seeds'"),
        ({"seeds": ...}, "a value for 'seeds'"),
        ({"seeds": [True]}, "whole numbers"),
        ({"seeds": 3}, "whole numbers"),
        ({"seeds": [-1]}, "whole numbers"),
        ({"claim": ""}, "a value for 'claim'"),
        ({"base": "bases.yaml"}, "Did you mean base.yaml"),
        ({"arms": {"a": [], "b": ["overlai.yaml"]}}, "Did you mean overlay.yaml"),
        ({"arms": {"a": [], "b": ["tau 0.5"]}}, "an overlay file or key=value in arms.b"),
        ({"arms": {"a": [], "b": [{"tau": 0.5}]}}, "a list of texts for arms.b"),
        ({"arms": {"a": []}}, "at least one more arm"),
        ({"arms": {"a": [], "b/c": []}}, "letters, digits"),
        ({"arms": ["a", "b"]}, "arm names"),
        ({"full_arms": {"retuned": []}}, "each arm once"),
        ({"baseline": "untuched"}, "Did you mean untouched"),
        ({"baseline": ["untouched"]}, "an arm for 'baseline'"),
        ({"splits": ["test"]}, "a label for each split"),
        ({"protocols": ["test", "test_nano_textbook"]}, "three or more different splits"),
        ({"protocols": ["test", "test", "test_nano_textbook"]}, "three or more different splits"),
        ({"protocols": "test"}, "three or more different splits"),
        ({"protocols": ["test", "test_nano_textbok", "test_b"]}, "Did you mean test_nano_textbook"),
        ({"arms": {"a": [], "b": ["data.few_shot=3"]}}, r"data.few_shot 0 but got 3 in 'b'"),
        ({"arms": {"a": ["three.yaml"], "b": ["three.yaml", "data={few_shot: 0}"]}}, r"data.few_shot 3 but got 0"),
        ({"arms": {"a": [], "b": ["data.protocol=nano_quiz"]}}, r"data.protocol 'lm_eval' but got 'nano_quiz'"),
    ],
)
def test_faults_are_named_before_anything_runs(folder, changes, message):
    write(folder, **changes)
    with pytest.raises(ConfigError, match=message) as caught:
        run_experiment(folder, lambda request: pytest.fail("ran"))
    assert caught.value.exit_code == 2
    assert "experiment.yaml" in str(caught.value)


def test_every_arm_is_read_before_one_runs_and_all_faults_are_told(folder):
    arms = {"a": [], "b": ["model.haed=TemperatureHead"], "c": ["overlay.yaml", "model.head.tau=0"], "d": []}
    write(folder, arms=arms, full_arms={"e": ["optimizer.lr=high"]})
    with pytest.raises(ConfigError) as caught:
        run_experiment(folder, lambda request: pytest.fail("ran"), full=True)
    lines = str(caught.value).splitlines()
    assert [line.partition("experiment.yaml: ")[2].partition(":")[0] for line in lines] == ["arm b", "arm c", "arm e"]
    assert "model.haed" in lines[0]
    assert "temperature above 0" in lines[1]


def test_the_base_takes_values_beside_files_and_arms_win_over_both(folder, tmp_path):
    write(folder, base=["base.yaml", "model.head=TemperatureHead", "data.few_shot=2"])
    execute = Executor(tmp_path / "runs")
    run_experiment(folder, execute)
    words = ["--config", str(folder / "base.yaml"), "--model.head=TemperatureHead", "--data.few_shot=2"]
    assert execute.requests[0].argv == [*words, "--seed_everything=1"]
    assert execute.requests[1].argv[4:] == [
        "--config", str(tmp_path / "overlay.yaml"), "--model.head.tau=0.5", "--seed_everything=1"
    ]  # fmt: skip


def test_repeated_keys_broken_yaml_and_a_missing_file_are_faults(folder, tmp_path):
    file = folder / "experiment.yaml"
    file.write_text(file.read_text() + "seeds: [5]\n")
    with pytest.raises(ConfigError, match=r"'seeds' twice .*experiment.yaml"):
        load_experiment(folder)
    file.write_text("arms: [")
    with pytest.raises(ConfigError, match=r"expected YAML .*experiment.yaml"):
        load_experiment(folder)
    file.write_text("just text")
    with pytest.raises(ConfigError, match="keys and values"):
        load_experiment(folder)
    with pytest.raises(ConfigError, match="an experiment folder"):
        load_experiment(tmp_path / "nowhere")


def test_runs_compares_and_writes_results(folder, tmp_path, capsys):
    execute = Executor(tmp_path / "runs")
    comparison = run_experiment(folder, execute)
    # Nothing to train: the first seed only.
    assert [(one.arm, one.seed) for one in execute.requests] == [("untouched", 1), ("retuned", 1), ("retuned", 2)]
    assert execute.requests[2].argv == [
        "--config",
        str(folder / "base.yaml"),
        "--config",
        str(tmp_path / "overlay.yaml"),
        "--model.head.tau=0.5",
        "--seed_everything=2",
    ]
    assert execute.requests[2].name == "nano_quiz-retuned"
    assert not execute.requests[2].fresh
    results = folder / "results"
    names = ["flips.csv", "report.html", "summary.json", "table.csv", "table.md", "table.tex"]
    assert sorted(path.name for path in results.iterdir()) == names
    summary = json.loads((results / "summary.json").read_text())
    assert summary["claim"] == VALID["claim"]
    assert summary["hardware"]["cores"] >= 1
    assert {"date", "git_commit", "versions"} <= set(summary)
    assert summary["arms"]["retuned"]["seeds"] == [1, 2]
    assert summary["arms"]["retuned"]["diff"] == comparison.arms["retuned"].results["test"].diff
    shown = capsys.readouterr().out
    assert "quiz layout" in shown
    assert "report.html" in shown
    for file in results.iterdir():
        assert str(tmp_path) not in file.read_text(), f"a machine path in {file.name}"


def test_full_adds_a_table_of_further_arms_and_fresh_is_passed_on(folder, tmp_path):
    write(folder, also_against=["all_tokens"], full_arms=VALID["full_arms"] | {"more": ["overlay.yaml"]})
    run_experiment(folder, Executor(tmp_path / "plain"))
    assert not (folder / "results" / "against_all_tokens").exists()
    table = (folder / "results" / "table.csv").read_text()
    execute = Executor(tmp_path / "runs")
    comparison = run_experiment(folder, execute, full=True, fresh=True)
    assert list(comparison.arms) == ["untouched", "retuned"]
    assert (folder / "results" / "table.csv").read_text() == table
    for place, arms in (
        ("", ["untouched", "all_tokens", "more"]),
        ("against_all_tokens", ["all_tokens", "untouched", "more"]),
    ):
        summary = json.loads((folder / "results" / "full" / place / "summary.json").read_text())
        assert list(summary["arms"]) == arms
    assert all(one.fresh for one in execute.requests)
    assert [one.argv[-2:] for one in execute.requests].count(["--model.scope=all", "--seed_everything=2"]) == 1


def test_another_baseline_is_shown_first(folder, tmp_path):
    write(folder, baseline="retuned")
    comparison = run_experiment(folder, Executor(tmp_path / "runs"))
    assert list(comparison.arms) == ["retuned", "untouched"]
    assert comparison.arms["untouched"].results["test"].diff < 0


def test_further_arms_are_compared_with_beside_the_baseline(folder, tmp_path, capsys):
    write(folder, also_against=["retuned"])
    assert run_experiment(folder, Executor(tmp_path / "runs")).baseline == "untouched"
    results = folder / "results"
    found = [json.loads((place / "summary.json").read_text()) for place in (results, results / "against_retuned")]
    assert [one["baseline"] for one in found] == ["untouched", "retuned"]
    assert (results / "against_retuned" / "table.md").read_text().startswith("# nano_quiz, against retuned\n")
    assert capsys.readouterr().out.count("report.html") == 2
