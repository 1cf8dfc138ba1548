"""The command line: help is light, mistakes get one message and the right exit code."""

import inspect
import json
import re
import subprocess
import sys

import pytest

from moe_tune.cli.main import main
from moe_tune.cli.verbs import VERBS, command_of

NANO = ["--config", "configs/nano.yaml", "--config", "configs/debug/tiny.yaml"]


LIGHT = ("generate", "lm-eval", "experiment", "sweep", "compare", "export", "cache", "check", "list", "doctor")
OF_A_FIT = {"fit": "", "validate": "", "test": "", "predict": "", "analyze": "--shots", "grid": "--vary"}
OF_A_FIT |= {"estimate": "--prompt_tokens", "trace": "--prompt", "cache build": "--splits", "prune": "--criterion"}
OF_A_FIT |= {"ablate": "--intervention"}


def test_help_of_the_program_and_of_verbs_without_a_configuration_loads_no_library():
    code = """
import sys, moe_tune.cli.main as cli
cli.main(['--help'])
for verb in sys.argv[1:]:
    try:
        cli.main([verb, '--help'])
    except SystemExit as end:
        assert end.code == 0
sys.exit(', '.join({'torch', 'transformers', 'lightning', 'wandb'} & set(sys.modules)) or None)
"""
    done = subprocess.run([sys.executable, "-c", code, *LIGHT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, *others = done.stdout.split("usage: moe_tune ")
    assert [line.split()[0] for line in first.splitlines() if line.startswith("  ")][: len(VERBS)] == list(VERBS)
    assert [text.split()[0] for text in others] == list(LIGHT)


@pytest.mark.parametrize("verb", OF_A_FIT)
def test_a_verb_of_a_fit_shows_its_options_and_all_of_a_fits(verb, capsys):
    with pytest.raises(SystemExit) as end:
        main([*verb.split(), "--help"])
    text = capsys.readouterr().out
    assert end.value.code == 0
    assert text.startswith(f"usage: moe_tune {verb} [")
    assert [word for word in (OF_A_FIT[verb], "--model.layers", "--data.few_shot") if word not in text] == []


def test_help_has_two_levels_ours_first_and_lightnings_when_asked_for(capsys):
    texts = {}
    for word in ("--help", "--help-all"):
        with pytest.raises(SystemExit) as end:
            main(["fit", word])
        assert end.value.code == 0
        texts[word] = capsys.readouterr().out
    titles = [line[:-1] for line in texts["--help"].splitlines() if line.endswith(":") and line[:1].isalpha()]
    assert titles == ["options", "data", "model", "head", "losses", "optimizer", "learning rate", "runs"]
    short, whole = (set(re.findall(r"^  (--[\w.]+)", text, re.MULTILINE)) for text in texts.values())
    lightnings = {key for key in whole if key.startswith("--trainer")}
    assert short == whole - lightnings
    assert {"--trainer.max_epochs", "--trainer.precision"} <= lightnings
    assert "--help-all" in texts["--help"].splitlines()[-1]


def test_every_verb_is_in_the_table_and_has_the_same_form():
    assert {*LIGHT, *OF_A_FIT} - {"cache build"} == set(VERBS)
    for verb in VERBS:
        assert [*inspect.signature(command_of(verb)).parameters] == ["argv", "plugins"]


MISTAKES = {
    "unknown verb": (["fitt"], 2, "Did you mean fit?"),
    "unknown key": (["fit", *NANO, "--model.haed", "X"], 2, "Did you mean model.head?"),
    "unknown head": (["fit", *NANO, "--model.head", "TemperatureHaed"], 2, "Did you mean TemperatureHead?"),
    "unknown loss": (["fit", *NANO, "--model.losses.b", "LoadBalanceLos"], 2, "Did you mean LoadBalanceLoss?"),
    "unknown source": (["fit", *NANO, "--data.source", "NanoQuizz"], 2, "Did you mean NanoQuiz?"),
    "unknown option": (["fit", *NANO, "--model.head", "TemperatureHead", "--model.head.taux", "1"], 2, "taux"),
    "wrong type": (["fit", *NANO, "--trainer.max_epochs", "two"], 2, "expected a whole number but got 'two'"),
    "missing config": (["fit", "--config", "configs/nope.yaml"], 2, "configs/nope.yaml"),
    "unknown protocol": (["fit", *NANO, "--data.protocol", "lm_evil"], 2, "Did you mean lm_eval?"),
    "no such layer": (["fit", *NANO, "--model.layers", "[9]"], 2, "expected distinct MoE layers of [0, 1, 2, 3]"),
    "training on dev": (["fit", *NANO, "--data.train_split", "dev"], 2, "dev"),
    "training on test": (["fit", *NANO, "--data.train_split", "test"], 2, "test"),
    "prompt too long": (["fit", *NANO, "--data.max_length", "5"], 3, "5"),
    "negative rate": (["fit", *NANO, "--optimizer.lr", "-1"], 2, "learning rate"),
    "no GPU": (["fit", *NANO, "--trainer.accelerator", "gpu"], 2, "trainer"),
    **{
        strategy: (["fit", *NANO, f"--trainer.strategy={strategy}", *more], 2, "Hint: --trainer.strategy ddp")
        for strategy, *more in (
            *(["fsdp"], ["ddp_spawn"], ["deepspeed_stage_2", "--trainer.devices=2"]),
            ["lightning.pytorch.strategies.FSDPStrategy"],
        )
    },
    "half-precision heads": (["fit", *NANO, "--trainer.precision", "bf16-true"], 2, "model.base.dtype"),
    "empty batches": (["fit", *NANO, "--data.batch_size", "0"], 2, "at least 1"),
    "losses without training": (["fit", *NANO, "--model.head=IdentityHead", "--model.losses.z=ZLoss"], 2, "['z']"),
    "no such model": (["fit", *NANO, "--model.base.path", "no/such-model"], 2, "revision"),
    "unknown list": (["list", "haeds"], 2, "expected a known kind but got 'haeds' (list). Hint: Did you mean heads?"),
    "no list": (["list"], 2, "expected kind but got nothing (list). Hint: Available: criteria, families, heads,"),
    "unknown action": (["cache", "lst"], 2, "got 'lst' (cache). Hint: Did you mean list?"),
    "unknown own option": (
        ["list", "heads", "--formt=json"],
        2,
        "got '--formt=json' (list). Hint: Did you mean --format?",
    ),
    "one word too many": (["list", "heads", "extra"], 2, "got 'extra' (list). Hint: python -m moe_tune list [-h]"),
    "no number": (["sweep", "a.yaml", "--count", "a"], 2, "expected int but got 'a' (--count). Hint: "),
    "no value": (["sweep", "a.yaml", "--count"], 2, "expected one argument but got none (--count). Hint: "),
    "nothing to check": (
        ["check"],
        2,
        "expected FILE but got nothing (check). Hint: python -m moe_tune check [-h] FILE",
    ),
    "a key before files": (["check", "--config", "nano"], 2, "Hint: they stand alone: python -m moe_tune check nano"),
    "a configuration for a run": (["trace", "nano", "A"], 2, "Hint: python -m moe_tune trace --config nano ..."),
    "another folder of runs": (
        ["test", "nope", "--runs_root=elsewhere"],
        3,
        "neither nope nor elsewhere/nope. Hint: `python",
    ),
    "nothing to compare": (["compare", "runs/none", "runs/nothing"], 3, "runs/none"),
    "not an experiment": (["experiment", "configs"], 2, "experiment.yaml"),
    "no checkpoint": (["test", "--ckpt_path", "runs/none/checkpoints/last.ckpt"], 4, "checkpoint folder"),
    "missing plugin": (["--plugins", "no_such.py", "list", "heads"], 2, "no_such.py"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_get_one_message_and_an_exit_code(mistake, capsys, tmp_path):
    argv, code, words = MISTAKES[mistake]
    if argv[0] == "fit":
        argv = [*argv, "--runs_root", str(tmp_path / "runs")]
    came = main(argv)
    message = capsys.readouterr().err
    assert came == code, message
    assert words in message
    assert "Traceback" not in message
    assert "moe_tune: expected" in message
    assert not [*tmp_path.glob("runs/*")], "nothing half-written"


def test_a_duplicate_key_is_refused(tmp_path, capsys):
    file = tmp_path / "twice.yaml"
    file.write_text("trainer:\n  max_epochs: 1\n  max_epochs: 2\n")
    assert main(["fit", "--config", str(file)]) == 2
    assert "'max_epochs' twice" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["heads", "losses", "metrics", "families", "sources", "protocols"])
def test_list_names_everything_with_a_sentence(kind, capsys):
    assert main(["list", kind, "--format", "json"]) == 0
    entries = json.loads(capsys.readouterr().out)
    assert entries
    assert all(entry["name"] and entry["summary"].endswith(".") for entry in entries)


def test_list_prints_text_for_people(capsys):
    assert main(["list", "heads"]) == 0
    assert "RetunedHead" in capsys.readouterr().out
