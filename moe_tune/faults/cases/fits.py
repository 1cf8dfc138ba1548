"""How a fit ends, and what the same command makes of it afterwards."""

import os
import signal
from functools import partial
from pathlib import Path

import pandas as pd

from moe_tune.faults.breaks import nan_at, signal_at, small_files, wait_at
from moe_tune.faults.case import Case
from moe_tune.faults.reference import as_undisturbed
from moe_tune.faults.same_run import only_run
from moe_tune.faults.stopped_fit import undisturbed
from moe_tune.faults.tiny import KILLED_AT, QUESTIONS, STEPS, TINY, manifest, told
from moe_tune.faults.trial import Ended, Trial

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
SMALL = 40_000
"""Bytes: a tiny fit's table fits in, its checkpoint does not."""


def _finished(trial: Trial) -> str:
    first, again = trial.run(TINY), trial.run(TINY)
    run = only_run(trial.folder / "runs")
    answers = pd.read_parquet(run / "questions" / "test.parquet")["id"].nunique()
    ended = f"{told(first.code, first.out + first.err, 'test: accuracy')}, {manifest(run).get('status')}"
    more = f"{told(again.code, again.out, 'already complete')}, {as_undisturbed(run)}"
    return f"{ended}, {answers} answers, {more}"


def _resumed(trial: Trial, stopped: Ended, *words: str) -> str:
    again = trial.run(TINY)
    after = as_undisturbed(only_run(trial.folder / "runs")) if again.code == 0 else again.err[-200:]
    return f"{told(stopped.code, stopped.err + stopped.out, *words)}, exit {again.code}, {after}"


def _killed(trial: Trial) -> str:
    return _resumed(trial, trial.run(TINY, before=partial(signal_at, KILLED_AT)))


def _terminated(trial: Trial) -> str:
    return _resumed(trial, trial.run(TINY, before=partial(signal_at, KILLED_AT, signal.SIGTERM)), "pre-empted at step")


def _not_a_number(trial: Trial) -> str:
    ended = trial.run(TINY, before=partial(nan_at, STEPS - 1))
    last = (only_run(trial.folder / "runs") / "checkpoints" / "last.ckpt").is_dir()
    kept = "kept" if last and manifest(only_run(trial.folder / "runs")).get("status") == "failed" else "not kept"
    return f"{told(ended.code, ended.err, f'step {STEPS - 1}')}, {kept}"


def _full(trial: Trial) -> str:
    ended = trial.run(TINY, before=partial(small_files, SMALL))
    drafts = [path.name for path in trial.folder.rglob("*.tmp-*")]
    return f"{told(ended.code, ended.err, 'disk')}, {'left ' + drafts[0] if drafts else 'nothing left behind'}"


def _at_once(trial: Trial) -> str:
    there, on = str(trial.folder / "there"), str(trial.folder / "on")
    first = trial.start(TINY, before=partial(wait_at, 2, there, on))
    while not os.path.exists(there) and first.process.is_alive():
        first.process.join(0.05)
    second = trial.run(TINY)
    Path(on).touch()
    ended = first.ended()
    after = as_undisturbed(only_run(trial.folder / "runs"))
    return f"{told(second.code, second.err, f'process {first.pid}')}, exit {ended.code}, {after}"


def _ascii(trial: Trial) -> str:
    undisturbed(TINY)
    ended = trial.fresh(TINY, env=ASCII)
    return f"{told(ended.code, ended.err)}, {as_undisturbed(only_run(trial.folder / 'runs'))}"


CASES = [
    Case(
        "F31", "a fit to its end, and again", f"exit 0, finished, {QUESTIONS} answers, exit 0, bit for bit", _finished
    ),
    Case("F1", "SIGKILL in a step, the same command", "exit 137, exit 0, bit for bit", _killed),
    Case("F4", "SIGTERM in a step, the same command", "exit 75, exit 0, bit for bit", _terminated),
    Case("F11", "the loss of the last step is NaN", "exit 5, kept", _not_a_number),
    Case("F16", f"no file beyond {SMALL:,} bytes", "exit 6, nothing left behind", _full),
    Case("F29", "the same fit at once", "exit 2, exit 0, bit for bit", _at_once),
    Case("F34", "ASCII locale and streams", "exit 0, bit for bit", _ascii),
]
