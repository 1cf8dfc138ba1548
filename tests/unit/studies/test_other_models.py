"""Other models of an experiment: overlays after the base, results of their own, and models that are made first."""

import json

import pytest
from made_up_experiment import Executor, write

from moe_tune.base.errors import ConfigError, ModelError
from moe_tune.models.base_model import BaseModel
from moe_tune.studies.experiment import run_experiment
from moe_tune.studies.experiment_file import load_experiment
from moe_tune.studies.other_models import made_name

SCRIPT = """
import sys
from pathlib import Path
out = Path(sys.argv[sys.argv.index("--out") + 1])
out.mkdir()
if "--fail" in sys.argv:
    sys.exit(3)
(out / ("other.json" if "--empty" in sys.argv else "config.json")).write_text(" ".join(sys.argv[1:3]))
"""


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.slow
def test_full_runs_everything_on_the_other_models_too(folder, tmp_path):
    write(folder, models={"b": ["model.base.path=elsewhere", "three.yaml"]}, also_against=["retuned"])
    execute = Executor(tmp_path / "runs")
    comparison = run_experiment(folder, execute, full=True)
    assert list(comparison.arms) == ["untouched", "retuned"]
    names = [one.name for one in execute.requests]
    assert names[5:] == [name.replace("nano_quiz", "nano_quiz-b") for name in names[:5]]
    first = ["--config", str(folder / "base.yaml")]
    other = [*first, "--model.base.path=elsewhere", "--config", str(folder / "three.yaml")]
    assert execute.requests[0].argv == [*first, "--seed_everything=1"]
    assert execute.requests[5].argv == [*other, "--seed_everything=1"]
    assert execute.requests[9].argv == [*other, "--model.scope=all", "--seed_everything=2"]
    results = folder / "results"
    assert {path.name for path in (results / "b").iterdir()} == {
        path.name for path in results.iterdir() if path.name != "b"
    }
    assert json.loads((results / "b" / "summary.json").read_text())["experiment"] == "nano_quiz-b"
    assert json.loads((results / "summary.json").read_text())["experiment"] == "nano_quiz"
    assert not (results / "b" / "b").exists()


def test_without_full_no_other_model_runs_or_is_made(folder, tmp_path):
    (folder / "make.py").write_text(SCRIPT)
    write(folder, models={"b": {"make": "make.py"}})
    execute = Executor(tmp_path / "runs")
    run_experiment(folder, execute)
    assert len(execute.requests) == 3
    assert not (tmp_path / "cache").exists()


def test_a_model_is_made_once_in_the_cache(folder, tmp_path):
    (folder / "make.py").write_text(SCRIPT)
    write(folder, models={"b": {"make": "make.py --seed 2", "overlays": ["model.base.dtype=bfloat16"]}})
    execute = Executor(tmp_path / "runs")
    run_experiment(folder, execute, full=True)
    name = made_name("b", "make.py --seed 2")
    made = tmp_path / "cache" / "moe_tune" / "models" / name
    assert BaseModel(f"made:{name}").source == str(made)
    assert (made / "config.json").read_text() == "--seed 2"
    assert execute.requests[-1].argv[2:4] == [f"--model.base.path=made:{name}", "--model.base.dtype=bfloat16"]
    (folder / "make.py").write_text("raise SystemExit(1)")
    load_experiment(folder).models["b"].made()
    assert made_name("b", "make.py --seed 3") != name
    for file in (folder / "results" / "b").rglob("*.*"):
        assert str(tmp_path) not in file.read_text(), f"a machine path in {file.name}"


@pytest.mark.parametrize(("word", "message"), [("--fail", "exit code 3"), ("--empty", "no config.json")])
def test_what_is_half_made_is_not_kept(folder, tmp_path, word, message):
    (folder / "make.py").write_text(SCRIPT)
    write(folder, models={"b": {"make": f"make.py {word}"}})
    with pytest.raises(ModelError, match=message):
        run_experiment(folder, Executor(tmp_path / "runs"), full=True)
    assert list((tmp_path / "cache" / "moe_tune" / "models").iterdir()) == []


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (["b"], "names with overlays for 'models'"),
        ({"b/c": ["model.base.path=x"]}, "letters, digits"),
        ({"against_b": ["model.base.path=x"]}, "no folder in results/"),
        ({"b": []}, "what makes models.b another model"),
        ({"b": {"overlay": ["three.yaml"]}}, "Did you mean overlays"),
        ({"b": ["thre.yaml"]}, "Did you mean three.yaml"),
        ({"b": [3]}, "a list of texts for models.b"),
        ({"b": {"make": "pretrain"}}, "a script and its arguments for models.b.make"),
        ({"b": {"make": "make.py 'x"}}, "No closing quotation"),
        ({"b": {"make": "mak.py"}}, "Did you mean make.py"),
        ({"b": {"make": "make.py --out=here"}}, "no --out in models.b.make"),
    ],
)
def test_faults_are_named(folder, models, message):
    (folder / "make.py").write_text(SCRIPT)
    write(folder, models=models)
    with pytest.raises(ConfigError, match=message):
        load_experiment(folder)


def test_arms_are_read_on_every_model_before_one_runs(folder):
    write(folder, models={"b": ["model.haed=IdentityHead"]})
    with pytest.raises(ConfigError, match=r"arm untouched: .*model\.haed"):
        run_experiment(folder, lambda request: pytest.fail("ran"), full=True)
