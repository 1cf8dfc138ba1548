"""Random faults on small fits, two at a time: ``python tests/faults/soak.py [--minutes 60] [--seed N]``.

A trial is one fit with its own folder and prompt cache. Faults strike it, one after the other, and the same command
follows each; at last it runs in peace, and has to leave what a fit left that nothing disturbed.
"""

import argparse
import functools
import itertools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
from cases_checkpoints import flipped
from cases_numerics import loss_nan
from cases_saves import SAVES, SECONDS, after

from moe_tune.faults.breaks import small_files
from moe_tune.faults.same_run import unlike
from moe_tune.faults.stopped_fit import SMALL, undisturbed
from moe_tune.faults.surroundings import alone
from moe_tune.faults.trial import HANGS, Trial

AT_ONCE = 2
FULL = "--model.answer_path.use=never"
FORMS = {
    "plain": (),
    "saves every 3 steps": ("--checkpoint_every.steps=3",),
    "accumulation 4": ("--trainer.accumulate_grad_batches=4",),
    "workers 2": ("--data.num_workers=2", FULL),
    "workers 2, accumulation 4": ("--data.num_workers=2", FULL, "--trainer.accumulate_grad_batches=4"),
    "validation twice an epoch": ("--trainer.val_check_interval=0.5",),
    "load balance": ("--model.losses.balance=LoadBalanceLoss", "--model.losses.balance.weight=0.01"),
    "dense adapter": ("--config", "head/low_rank"),
    "text": ("--config", "task/next_token", "--data.text.source.documents=60"),
}
SIGNALS = {
    signal.SIGKILL: {137},
    signal.SIGTERM: {75, 143},
    signal.SIGUSR1: {75, 138},
    signal.SIGINT: {75, 130},
}
"""Codes of what they end; the second where they come before the program has begun to listen."""
LONGEST = 6.0
"""Seconds after its start in which a fault by time strikes."""
SMALLEST, LARGEST = 200, 60_000
"""Bytes of the files that a full disk still takes."""


class Wrong(Exception):
    """Something came of a fault that must not."""


class Soaked:
    """One trial: a fit, its faults, and what is wrong with what it leaves."""

    def __init__(self, folder, drawn):
        self.trial, self.drawn, self.struck = Trial(folder), drawn, []
        self.form = drawn.choice(sorted(FORMS))
        self.argv = [*SMALL, *FORMS[self.form]]
        self.env = {"XDG_CACHE_HOME": str(folder / "cache")}

    def strike(self):
        """Let up to four faults strike, and note what they were."""
        faults = [self.by_time, self.in_save, self.not_finite, self.full_disk, self.twice, self.damaged, self.uncached]
        for fault in self.drawn.choices(faults, [6, 4, 1, 1, 1, 2, 1], k=self.drawn.randint(1, 4)):
            fault()

    def by_time(self):
        number, wait = self.drawn.choice(sorted(SIGNALS)), self.drawn.uniform(0, LONGEST)
        self.struck.append(f"{number.name} after {wait:.1f} s")
        started = self.trial.start(self.argv, self.env)
        started.process.join(wait)
        if started.process.exitcode is None:
            started.send(number)
        self.require(started.ended(), {0, *SIGNALS[number]}, number.name)

    def in_save(self):
        (self.trial.folder / "stopped").unlink(missing_ok=True)
        save, wait = self.drawn.randrange(SAVES), self.drawn.uniform(0, SECONDS)
        self.struck.append(f"SIGKILL {1000 * wait:.1f} ms into save {save}")
        self.run(functools.partial(after, save, wait), {0, 137}, "SIGKILL in a save")

    def not_finite(self):
        self.struck.append("NaN")
        self.run(loss_nan, {0, 5}, "NaN")

    def full_disk(self):
        size = self.drawn.randint(SMALLEST, LARGEST)
        self.struck.append(f"files up to {size} bytes")
        self.run(functools.partial(small_files, size), {0, 6}, "full disk")

    def twice(self):
        self.struck.append("two at once")
        started = [self.trial.start(self.argv, self.env) for _ in range(2)]
        codes = sorted(one.ended().code for one in started)
        if codes not in ([0, 0], [0, 2]):
            raise Wrong(f"two at once ended with {codes}: {self.last_words()}")

    def damaged(self):
        self.struck.append("a bit of the last checkpoint")
        for last in self.trial.folder.glob("runs/*/checkpoints/last.ckpt"):
            finished = json.loads((last.parents[1] / "manifest.json").read_text()).get("status") == "finished"
            if last.with_name("last-1.ckpt").is_dir() and not finished:
                flipped(last)

    def uncached(self):
        self.struck.append("no prompt cache")
        shutil.rmtree(self.trial.folder / "cache", ignore_errors=True)

    def run(self, before, codes, name):
        self.require(self.trial.run(self.argv, self.env, before), codes, name)

    def require(self, ended, codes, name):
        if ended.code not in codes or "Traceback" in ended.err:
            raise Wrong(f"{name} ended with {ended.code}, expected {sorted(codes)}: {ended.err[-3000:]}")

    def last_words(self):
        return " ".join(file.read_text(errors="replace")[-300:] for file in self.trial.folder.glob("*.err"))

    def end(self):
        """Run the fit in peace; return how many questions are lost, what is wrong, and what is left behind."""
        ended = self.trial.run(self.argv, self.env)
        self.require(ended, {0}, "the fit in peace")
        runs = [path.parent for path in self.trial.folder.glob("runs/*/manifest.json")]
        if len(runs) != 1:
            raise Wrong(f"{len(runs)} runs")
        usual = undisturbed(self.argv)
        lost = sum(
            len(answered(usual / table) - answered(runs[0] / table))
            for table in (file.relative_to(usual) for file in usual.glob("questions/*.parquet"))
        )
        drafts = [path for path in self.trial.folder.rglob("*") if ".tmp-" in path.name or ".old-" in path.name]
        return lost, unlike(runs[0], usual), [*map(str, drafts), *working_in(self.trial.folder)]


def answered(table):
    """Return the ids of the questions of a table; none where there is no table."""
    return set(pd.read_parquet(table)["id"]) if table.is_file() else set()


def working_in(folder):
    """Return the processes that still work in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            here, state = os.readlink(process / "cwd"), (process / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if Path(here).is_relative_to(folder) and state != "Z":
            found.append(f"process {process.name}")
    return found


def soak(minutes, seed):
    """Try fits until the time is over, print a line for each, and return whether all is well."""
    until, numbers, count, printing = time.monotonic() + 60 * minutes, itertools.count(), Counter(), threading.Lock()

    def try_on():
        while time.monotonic() < until:
            number = next(numbers)
            with tempfile.TemporaryDirectory(prefix="moe_tune-soak-", ignore_cleanup_errors=True) as folder:
                one, begun = Soaked(Path(folder).resolve(), random.Random(f"{seed}-{number}")), time.monotonic()
                lost, wrong, left = 0, [], []
                try:
                    one.strike()
                    lost, wrong, left = one.end()
                except TimeoutError as fault:
                    wrong = [str(fault)]
                    count["hangs"] += HANGS in str(fault)
                except Exception as fault:  # is counted and told, and the soak goes on
                    wrong = [f"{type(fault).__name__} {fault}"]
            with printing:
                count.update(trials=1, faults=len(one.struck), lost=lost, wrong=bool(wrong), leftovers=len(left))
                came = f"lost {lost}, wrong {wrong}, left {left}" if lost or wrong or left else "as undisturbed"
                seconds = time.monotonic() - begun
                print(f"{number:<5} {seconds:4.0f} s  {one.form:<26} {', '.join(one.struck)} | {came}", flush=True)

    print(f"seed {seed}, {minutes:g} minutes, {AT_ONCE} at a time", flush=True)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for future in [pool.submit(try_on) for _ in range(AT_ONCE)]:
            future.result()
    found = ", ".join(f"{count[name]} {name}" for name in ("lost", "wrong", "hangs", "leftovers"))
    print(f"soak: {count['faults']} faults in {count['trials']} fits, {found}")
    return not any(count[name] for name in ("lost", "wrong", "hangs", "leftovers"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    asked = parser.parse_args()
    with alone():
        sys.exit(0 if soak(asked.minutes, asked.seed) else 1)
