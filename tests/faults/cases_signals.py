"""Signals in every stage: the exit code, what is said, and the same bits after the same command."""

import functools
import os
import signal
import stat
import time
from pathlib import Path

from cases_endings import stop

from moe_tune.faults.case import Case
from moe_tune.faults.same_run import only_run, unlike
from moe_tune.faults.stopped_fit import SMALL, stop_at_batch, stopped_and_again, undisturbed

TERM, INT, USR1 = signal.SIGTERM, signal.SIGINT, signal.SIGUSR1


def slow_steps():
    """Let every step of a fit take a while, and say that training has begun."""
    from moe_tune.tuner.router_tuner import RouterTuner

    step = RouterTuner.training_step

    def slow(self, batch, index):
        Path("training").touch()
        time.sleep(1.0)
        return step(self, batch, index)

    RouterTuner.training_step = slow


def wait_for(file, patience=90):
    for _ in range(patience * 20):
        if file.exists():
            return
        time.sleep(0.05)
    raise TimeoutError(f"{file.name} did not come")


def twice(number, trial):
    started = trial.start(SMALL, before=slow_steps)
    wait_for(trial.folder / "training")
    started.send(number)
    time.sleep(0.2)
    started.send(number)
    first, again = started.ended(), trial.run(SMALL)
    off = unlike(only_run(trial.folder / "runs"), undisturbed(SMALL))
    return f"{first.code}, {again.code}, {'same bits' if not off else f'unlike: {off}'}"


def at_stage(number, hook, trial, argv=SMALL):
    """Stop at the first batch of a stage outside of training."""
    first, again, off = stopped_and_again(trial, argv, stop_at_batch(number, 0, 0, hook))
    if "pre-empted" not in first.err:
        return f"{first.code} {first.err[-300:]}"
    return f"{first.code}, {again.code}, {'same bits' if not off else f'unlike: {off}'}"


def of_test_stage(trial):
    first, again, off = stopped_and_again(trial, SMALL, functools.partial(at_test, TERM))
    openings = (only_run(trial.folder / "runs") / "openings.jsonl").read_text().splitlines()
    return f"{first.code}, {again.code}, {'same bits' if not off else f'unlike: {off}'}, {len(openings)} openings"


def at_test(number):
    from moe_tune.tuner.router_tuner import RouterTuner

    step = RouterTuner.test_step

    def killed(self, *args):
        if not Path("stopped").exists():
            Path("stopped").touch()
            os.kill(os.getpid(), number)
        return step(self, *args)

    RouterTuner.test_step = killed


def at_function(number, name):
    """Send a signal when a function of the package is called first: ``module:Class.function``."""
    import importlib

    module, _, path = name.partition(":")
    owner = importlib.import_module(module)
    *classes, last = path.split(".")
    for one in classes:
        owner = getattr(owner, one)
    function = getattr(owner, last)

    def killed(*args, **kwargs):
        if not Path("stopped").exists():
            Path("stopped").touch()
            os.kill(os.getpid(), number)
        return function(*args, **kwargs)

    setattr(owner, last, killed)


def verb_at(argv, name, trial):
    env = {"XDG_CACHE_HOME": str(trial.folder / "cache")}
    first = trial.run(argv, env=env, before=functools.partial(at_function, TERM, name))
    again = trial.run(argv, env=env)
    left = [path.name for path in trial.folder.rglob("*.tmp-*")]
    told = "pre-empted" in first.err and "(SIGTERM)" in first.err
    return f"{first.code}, {again.code}, told {told}, left {left}" + ("" if told else first.err[-300:])


def requeued(script, said, trial):
    folder = trial.folder / "bin"
    folder.mkdir()
    if script is not None:
        file = folder / "scontrol"
        file.write_text(f"#!/bin/sh\necho $@ > {trial.folder}/asked\n{script}\n")
        file.chmod(file.stat().st_mode | stat.S_IEXEC)
    env = {"SLURM_JOB_ID": "77", "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    ended = trial.run(SMALL, env=env, before=stop_at_batch(USR1, 2))
    asked = (trial.folder / "asked").read_text().strip() if script is not None else "requeue 77"
    return f"{ended.code}, {asked}, told {said in ended.out + ended.err}"


def exits_in_callback():
    from moe_tune.callbacks.epoch_line import EpochLine

    def leave(self, *args):
        raise SystemExit(3)

    EpochLine.on_train_epoch_end = leave


def sys_exit(trial):
    first, again = trial.run(SMALL, before=exits_in_callback), trial.run(SMALL)
    told = "something called sys.exit(3)" in first.err
    off = unlike(only_run(trial.folder / "runs"), undisturbed(SMALL))
    return f"{first.code}, told {told}, {again.code}, {'same bits' if not off else f'unlike: {off}'}"


HALVES = (*SMALL, "--trainer.val_check_interval=0.5")
NANO = ("--config", "nano", "--config", "debug/tiny", "--config", "logger/none")
OUT = ("--config", "nano", "--data.limit_validation=32", "--data.limit_test=32", "--out=out")
ANSWER = "moe_tune.tuner.examiner:Examiner.answer_batch"


ENCODING = "moe_tune.data.encoding:PromptEncoder.encode"
CACHING = "moe_tune.answer_path.build:_fill"


def case(kind, name, expected, attempt, *args, **kwargs):
    return Case(kind, name, expected, functools.partial(attempt, *args, **kwargs))


SAME, TOLD, ASKED = "75, 0, same bits", "75, 0, told True, left []", "75, requeue 77, told True"
AT_BATCH = "on_train_batch_start"
VALIDATING = "on_validation_batch_start"
CASES = [
    case("F5", "SIGTERM in validation", SAME, at_stage, TERM, VALIDATING),
    case("F5", "SIGTERM in a validation within the epoch", SAME, at_stage, TERM, VALIDATING, argv=HALVES),
    case("F5", "SIGTERM as a validation within the epoch ends", SAME, at_stage, TERM, "on_validation_end", argv=HALVES),
    case("F5", "SIGTERM in the test after a fit", f"{SAME}, 2 openings", of_test_stage),
    case("F6", "SIGTERM twice", SAME, twice, TERM),
    case("F7", "SIGUSR1 without a batch system", SAME, stop, "workers 0", USR1, 1, 1, AT_BATCH),
    case("F7", "SIGUSR1, scontrol answers", ASKED, requeued, "exit 0", "requeue 77: done"),
    case("F7", "SIGUSR1, scontrol fails", ASKED, requeued, "exit 1", "requeue 77: code 1"),
    case("F7", "SIGUSR1, no scontrol", ASKED, requeued, None, "requeue 77: not done"),
    case("F8", "SIGINT once", SAME, stop, "workers 0", INT, 4, 0, AT_BATCH),
    case("F8", "SIGINT twice", "130, 0, same bits", twice, INT),
    case(
        "F5", "SIGTERM while a prompt cache is built", TOLD, verb_at, ("fit", *NANO), "moe_tune.answer_path.build:_fill"
    ),
    case(
        "F5",
        "SIGTERM while questions are encoded",
        TOLD,
        verb_at,
        ("fit", *NANO),
        "moe_tune.data.encoding:PromptEncoder.encode",
    ),
    case(
        "F5",
        "SIGTERM in an ablation",
        TOLD,
        verb_at,
        ("ablate", *OUT, "--layers", "2", "--experts", "3"),
        "moe_tune.interventions.walk:AnswerWalk.open",
    ),
    case("F5", "SIGTERM in an analysis", TOLD, verb_at, ("analyze", *OUT), ANSWER),
    case("F5", "SIGTERM in validate", TOLD, verb_at, ("validate", *NANO), ANSWER),
    case("F5", "a callback calls sys.exit", "1, told True, 0, same bits", sys_exit),
]
