"""Two ranks of which one is lost, and workers that die, raise or hang."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

from moe_tune.faults.case import Case
from moe_tune.faults.same_run import only_run
from moe_tune.faults.tiny import LAST, TINY, told

WATCHED = """
import os
from pathlib import Path
from lightning.pytorch import Callback

class Watched(Callback):
    def on_train_batch_start(self, trainer, tuner, batch, batch_index):
        if trainer.global_step == 2:
            Path(f"pid{trainer.global_rank}").write_text(str(os.getpid()))
"""
ENDLESS = ["--trainer.max_epochs=1000", "--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.accelerator=cpu"]
FULL = ["--data.num_workers=1", "--model.answer_path.use=never"]
"""Full prompts, which workers collate."""
WAIT = 60.0
"""Seconds in which both ranks have to have begun; they end in 30 and in 60."""

GONE = 10.0
"""Seconds after the end of the one that was started in which the others have to be gone."""


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def lost(number, rank, limit, words, trial):
    """Send one of two ranks a signal, and return how the job ended and whether one of them is left."""
    (trial.folder / "watched.py").write_text(WATCHED)
    around = {**os.environ, "PYTHONPATH": os.pathsep.join([str(trial.folder), *sys.path])}
    command = [sys.executable, "-m", "moe_tune", *TINY, *ENDLESS, "--trainer.callbacks+", "watched.Watched"]
    said, files = trial.folder / "said", [trial.folder / f"pid{one}" for one in (0, 1)]
    with said.open("w") as handle:
        process = subprocess.Popen(
            command, cwd=trial.folder, env=around, stdout=handle, stderr=handle, start_new_session=True
        )
        try:
            end = time.monotonic() + 2 * WAIT
            while not all(file.is_file() and file.read_text() for file in files):
                if process.poll() is not None or time.monotonic() > end:
                    return f"did not begin: {said.read_text()[-300:]}"
                time.sleep(0.1)
            pids = [int(file.read_text()) for file in files]
            os.kill(pids[rank], number)
            try:
                code = process.wait(limit)
            except subprocess.TimeoutExpired:
                return f"hangs: {limit} s"
            end = time.monotonic() + GONE
            while (left := sum(map(is_running, pids))) and time.monotonic() < end:
                time.sleep(0.1)
            code = 128 - code if code < 0 else code
            return f"{told(code, said.read_text(), *words)}, {left} left"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def killed(trial):
    came = lost(signal.SIGKILL, 1, WAIT, ("rank 1 lost",), trial)
    return came.replace(came.split(",")[0], "not 0", 1) if came.startswith("exit ") and came[5] != "0" else came


def in_worker(act, patience=None):
    """Let a worker do something once there is a checkpoint, and count as hanging after so many seconds."""
    from moe_tune.data import batching, patient_loader

    multiprocessing.set_start_method("fork", force=True)  # as in a run of its own; a trial's process would start others
    if patience is not None:
        patient_loader.PATIENCE = patience
    stock, main = batching.PromptDataset.__getitem__, os.getpid()

    def broken(dataset, indices):
        if os.getpid() != main and any(Path("runs").glob(f"*/{LAST}")):
            act()
        return stock(dataset, indices)

    batching.PromptDataset.__getitem__ = broken


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def fail():
    raise ArithmeticError("planted")


def hang():
    time.sleep(300)


def worker(act, patience, words, trial):
    ended = trial.run([*TINY, *FULL], before=partial(in_worker, act, patience))
    kept = (only_run(trial.folder / "runs") / LAST).is_dir()
    return f"{told(ended.code, ended.err, *words)}, {'kept' if kept else 'nothing kept'}"


def masked(trial):
    experts = '{"2": [' + ", ".join(map(str, range(60))) + "]}"
    ended = trial.run([*TINY, "--config", "head/masked_experts", f"--model.head.experts={experts}"])
    return told(ended.code, ended.err, "layer 2", "4", "8")


CASES = [
    Case("F9", "SIGTERM to rank 1 of 2", "exit 75, 0 left", partial(lost, signal.SIGTERM, 1, 30.0, ("pre-empted",))),
    Case("F10", "SIGKILL to rank 1 of 2", "not 0, 0 left", killed),
    Case("F33", "a worker is killed", "exit 1, kept", partial(worker, die, None, ("worker",))),
    Case("F33", "a worker raises", "exit 1, kept", partial(worker, fail, None, ("ArithmeticError",))),
    Case("F33", "a worker hangs", "exit 6, kept", partial(worker, hang, 15.0, ("within 15 s",))),
    Case("F13", "fewer experts left than a token needs", "exit 2", masked),
]
