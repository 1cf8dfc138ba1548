"""A fit ends with what it gained: the pretrained router on the same questions, kept, told, asked once."""

import json
import re

import pandas as pd
import pytest
from tiny_runs import TINY, answers, history, only_run, openings, routing

from moe_tune.callbacks import base_answers
from moe_tune.cli.main import main
from moe_tune.settings.ending import fit_ending
from moe_tune.settings.running import run
from moe_tune.settings.workbench import Workbench

SPLITS = ("validation", "test", "test_nano_textbook")
FIRST = {"monitor": "epoch", "mode": "min", "filename": "best", "enable_version_counter": False}
LAST = {"filename": "last", "enable_version_counter": False}
FIRST_IS_BEST = json.dumps([{"class_path": "ModelCheckpoint", "init_args": one} for one in (FIRST, LAST)])


@pytest.fixture(scope="module")
def first_is_best(tmp_path_factory):
    """Give the run directory of a fit whose first epoch counts as the best, and what it printed."""
    root = tmp_path_factory.mktemp("first")
    with pytest.MonkeyPatch.context() as patch:
        said = []
        for module in ("settings.ending", "callbacks.epoch_line"):
            patch.setattr(f"moe_tune.{module}.rank_zero_info", said.append)
        words = ["--trainer.max_epochs=2", "--optimizer.lr=0.1", f"--trainer.callbacks={FIRST_IS_BEST}"]
        assert main(["fit", *TINY, *words, "--runs_root", str(root)]) == 0
    (path,) = (path for path in root.iterdir() if path.is_dir())
    return path, said


def accuracy(frame):
    return (frame["gold"] == frame["prediction"]).mean()


def test_the_pretrained_routers_answers_are_those_of_a_run_without_a_head(finished, untouched):
    for split in SPLITS:
        for one in (finished, untouched):
            pd.testing.assert_frame_equal(answers(one, f"{split}.base"), answers(untouched, split))
    for split in SPLITS[1:]:
        pd.testing.assert_frame_equal(routing(finished, f"{split}.base"), routing(untouched, split))


def test_validation_is_that_of_the_checkpoint_that_is_tested(first_is_best):
    path, _ = first_is_best
    validated = [line["validation/accuracy"] for line in history(path) if "validation/accuracy" in line]
    assert accuracy(answers(path, "validation")) == pytest.approx(validated[-1])
    kept = answers(path, "validation.best")
    assert accuracy(kept) == pytest.approx(validated[0])
    assert main(["validate", str(path)]) == 0
    pd.testing.assert_frame_equal(kept, answers(path, "validation"))


def test_each_epoch_has_one_line_and_the_fit_ends_with_differences_the_run_and_what_comes_next(first_is_best):
    path, said = first_is_best
    epochs = [line for line in said if line.startswith("epoch")]
    before = 100 * accuracy(answers(path, "validation.base"))
    form = rf"loss \d+\.\d\d  accuracy \d+\.\d % \(pretrained {before:.1f}\)"
    assert [bool(re.fullmatch(f"epoch {one}/2  {form}", line)) for one, line in enumerate(epochs, 1)] == [True, True]
    ending = said[len(epochs) :]
    assert ending == fit_ending(path, trained=True, tests=SPLITS[1:])
    assert ending[0].startswith(f"validation: accuracy {100 * accuracy(answers(path, 'validation.best')):.1f} %")
    for split, line in zip(SPLITS, ending[1:4], strict=True):
        both = (accuracy(answers(path, f"{split}{of}")) for of in (".best" if split == "validation" else "", ".base"))
        tuned, base = (100 * one for one in both)
        assert line.startswith(f"{split} against the pretrained router's {base:.1f} %: {tuned - base:+.1f} points [")
    assert ending[4:] == [f"run: {path}", f"next: python -m moe_tune compare {path}"]


def test_a_test_split_is_opened_once(first_is_best):
    path, _ = first_is_best
    assert [one["split"] for one in openings(path)] == ["test", "test_nano_textbook"]


def test_runs_of_one_bench_ask_the_pretrained_router_once(tmp_path, monkeypatch):
    asked, ask = [], base_answers._asked
    monkeypatch.setattr(base_answers, "_asked", lambda *args: (asked.append(args[2]), ask(*args))[1])
    bench = Workbench()
    heads = ("configs/head/retuned.yaml", "configs/head/temperature.yaml", "configs/head/scale_bias.yaml")
    for place, head in enumerate(heads):
        words = ["fit", *TINY, "--config", head, f"--seed_everything={place}", f"--runs_root={tmp_path / str(place)}"]
        run(words, workbench=bench)
        for split in SPLITS:
            wanted = answers(only_run(tmp_path / "0"), f"{split}.base")
            pd.testing.assert_frame_equal(answers(only_run(tmp_path / str(place)), f"{split}.base"), wanted)
    assert asked == list(SPLITS)


def test_a_run_is_named_by_what_the_command_says_and_found_from_its_own_configuration(first_is_best, capsys):
    path, _ = first_is_best
    assert re.fullmatch(r"nano-RetunedHead-epochs2-lr0\.1-s0-[0-9a-f]{8}", path.name)
    assert main(["fit", "--config", str(path / "config.yaml"), "--runs_root", str(path.parent)]) == 0
    assert f"already complete: {path}." in capsys.readouterr().out


def test_a_runs_bare_name_will_do(first_is_best):
    path, _ = first_is_best
    assert main(["predict", path.name]) == 3  # there is no such run in the folder runs
    for root in ([f"--runs_root={path.parent}"], ["--runs_root", str(path.parent)]):
        assert main(["predict", path.name, *root]) == 0
        (path / "predictions.parquet").unlink()
