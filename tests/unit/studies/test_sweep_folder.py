"""A sweep's folder: one for everything its points depend on; and the command of its best point."""

import hashlib
import shlex
from pathlib import Path

import pytest

from moe_tune.base.errors import ConfigError
from moe_tune.studies.sweep_file import fit_words, sweep_folder
from moe_tune.studies.sweep_points import SweepPoint, save_points
from moe_tune.studies.sweep_terminal import run_and_show

TAU = {"model.head.tau": {"values": [0.5, 1.0]}}


def with_words(sweep_of, *words, **more):
    command = ["${env}", "python", "-m", "moe_tune", "fit", *map(str, words), "--config", "${args_json}"]
    return sweep_of("grid", TAU, command=command, **more)


def test_a_changed_base_or_plug_in_is_another_sweep_and_more_points_are_not(sweep_of, tmp_path):
    base = tmp_path / "base.yaml"

    def folder(content, plugins=(), seed=0, **more):
        base.write_text(content)
        sweep = with_words(sweep_of, "--config", base, "--config", "{seed_everything: 1}", **more)
        return sweep_folder(sweep, tmp_path, seed, dict(plugins))

    first = folder("seed_everything: 0")
    assert folder("seed_everything:   0  # the same") == first
    assert folder("seed_everything: 0", run_cap=5, name="other") == first
    others = [folder("seed_everything: 1"), folder("seed_everything: 0", {"a.py": "00ff"})]
    others += [folder("seed_everything: 0", seed=1), folder("seed_everything: 0", metric={"name": "validation/loss"})]
    assert len({first, *others}) == 5


@pytest.mark.parametrize(
    "switch", [["--test_after_fit=false"], ["--test_after_fit", "false"], ["--test_after_fit"], []]
)
def test_the_best_command_keeps_every_word_but_the_switch_of_the_test_split(sweep_of, switch):
    kept = ["--config", "configs/my nano.yaml", "--data.few_shot=2", "--model.layers=[1, 2]"]
    sweep = with_words(sweep_of, *kept[:2], *switch, *kept[2:])
    overlay = Path("my runs/best.yaml")
    words = shlex.split(sweep.best_command(overlay, []))
    assert words == ["python", "-m", "moe_tune", "fit", *kept, "--config", str(overlay)]


@pytest.mark.parametrize("where", [["--plugins", "{}", "fit"], ["fit", "--plugins={}"]])
def test_plug_in_files_of_a_sweeps_command_are_loaded_and_no_part_of_a_points_arguments(sweep_of, tmp_path, where):
    file = tmp_path / "no_class.py"
    file.write_text("")
    before = ["${env}", "python", "-m", "moe_tune", *(word.format(file) for word in where)]
    sweep = sweep_of("grid", TAU, command=[*before, "--config", "configs/nano.yaml", "--config", "${args_json}"])
    assert sweep.base == ["--config", "configs/nano.yaml"]
    plugins = sweep.with_plugins({"given.py": "00ff"})
    assert plugins == {"given.py": "00ff", str(file): hashlib.sha256(b"").hexdigest()}
    command = shlex.split(sweep.best_command(Path("best.yaml"), plugins))
    assert command[3:8] == ["--plugins", "given.py", "--plugins", str(file), "fit"]
    assert sweep_folder(sweep, tmp_path, 0, plugins) != sweep_folder(sweep, tmp_path, 0, {})
    file.unlink()
    with pytest.raises(ConfigError, match=r"no_class\.py"):
        sweep.with_plugins({})


def test_one_plug_in_under_two_spellings_is_one(sweep_of, tmp_path):
    (tmp_path / "a").mkdir()
    file = tmp_path / "mine.py"
    file.write_text("")
    sweep = sweep_of("grid", TAU, command=["python", "-m", "moe_tune", "--plugins", str(file), "fit", *"bc"])
    given = {str(tmp_path / "a" / ".." / "mine.py"): "00ff"}
    assert sweep.with_plugins(given) == given


def test_what_stands_between_the_program_and_its_verb_is_refused(sweep_of):
    command = ["python", "-m", "moe_tune", "--plugin", "mine.py", "fit", "--config", "${args_json}"]
    with pytest.raises(ConfigError, match="runs moe_tune fit"):
        fit_words(sweep_of("grid", TAU, command=command).config)


def test_a_retry_of_a_sweep_that_is_another_one_says_so_and_runs_nothing(sweep_of, tmp_path):
    sweep = with_words(sweep_of)
    folder = sweep_folder(sweep, tmp_path, 0, {"mine.py": "00ff"})
    folder.mkdir()
    save_points(folder, [SweepPoint(0, {}, "failed")])
    given = {"count": None, "seed": 0, "workers": 1, "retry": True, "retry_command": ""}
    with pytest.raises(ConfigError, match=f"points failed in {folder}, a sweep of other content"):
        run_and_show(sweep, tmp_path, plugins={"mine.py": "ff00"}, **given)
