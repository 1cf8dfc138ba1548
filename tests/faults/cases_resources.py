"""Disk, memory and descriptors that run out, and places that cannot be written to: code 6 or 2, and what is kept."""

import os
import resource
import shutil
import subprocess
from pathlib import Path

import torch
from cases_endings import TINY
from tiny import FILLER, before_call, copied_run, full_before_call, litter, no_room, only_run, says, small_disk

from moe_tune.base.checkpoint_folder import checked_folder
from moe_tune.base.errors import ModelError
from moe_tune.callbacks import resource_watch
from moe_tune.faults.case import Case

TWO_EPOCHS = ["fit", *TINY, "--trainer.max_epochs", "2"]
FULL = "exit 6 with path and free bytes, no litter"


EXPORTS = ("a router card", "a folded model", "a pruned model")


def _disk_full(name, words, place, kept=(), of_run=False):
    """Return the case of a writer that meets a full disk, on the real library's own error.

    Args:
        name: What is written.
        words: Arguments; ``{run}`` is a finished run on that disk.
        place: The call before which the disk is full, as ``before_call`` takes it.
        kept: What must be there and whole afterwards, below the disk.
        of_run: Whether the run is made before.
    """

    def attempt(trial):
        disk = trial.folder / "disk"
        with small_disk(disk) as mounted:
            run = copied_run(trial) if of_run else None
            env = {"BREAK": place, "SMALL_DISK": str(disk) if mounted else "", "XDG_CACHE_HOME": str(disk / "cache")}
            ended = trial.run([word.format(run=run) for word in words], env, full_before_call)
            (disk / FILLER).unlink(missing_ok=True)
            told = says(ended, "bytes are free" if "Errno 27" not in ended.err else "", "disk")
            lost = [one for one in kept if not _whole(disk, one)]
            left = litter(trial.folder) or ", no litter"
            return f"exit {ended.code} with path and free bytes{told}{left}{f', lost {lost}' if lost else ''}"

    return Case("F18" if name in EXPORTS else "F16", f"full disk: {name}", FULL, attempt)


def _whole(disk, pattern):
    found = list(disk.glob(pattern))
    try:
        return bool(found) and all(checked_folder(one) for one in found if one.suffix == ".ckpt")
    except ModelError:
        return False


ON_DISK = ["--runs_root", "disk/runs"]
RUN = "moe_tune.runs.checkpoint:"
DISK_FULL = [
    (
        "a later checkpoint's heads (safetensors)", [*TWO_EPOCHS, *ON_DISK], f"{RUN}save_file||3",
        ["runs/*/checkpoints/*.ckpt"],
    ),
    (
        "a later checkpoint's state (safetensors)", [*TWO_EPOCHS, *ON_DISK], f"{RUN}save_state||3",
        ["runs/*/checkpoints/*.ckpt"],
    ),
    ("the first checkpoint", [*TWO_EPOCHS, *ON_DISK], f"{RUN}save_file||1", ["runs/*/metrics.jsonl"]),
    ("questions (parquet)", [*TWO_EPOCHS, *ON_DISK], "pandas:DataFrame.to_parquet|questions|1", ["runs/*/config.yaml"]),
    (
        "metrics.jsonl", [*TWO_EPOCHS, *ON_DISK], "moe_tune.runs.metrics_file:MetricsFile.log_metrics||3",
        ["runs/*/config.yaml"],
    ),
    ("config.yaml", ["fit", *TINY, *ON_DISK], "moe_tune.runs.directory:RunDirectory.write_config||1", []),
    ("a prompt cache", ["cache", "build", *TINY], "moe_tune.answer_path.store_writer:StoreWriter.commit||1", []),
    ("an analysis (parquet)", ["analyze", "{run}", "--out", "disk/out"], "pandas:DataFrame.to_parquet|disk/out|2", []),
    ("an analysis (page)", ["analyze", "{run}", "--out", "disk/out"], "pathlib:Path.write_text|<html|1", []),
    ("a comparison", ["compare", "{run}", "--out", "disk/out"], "pathlib:Path.write_text|<html|1", []),
    (
        "figures of a trace (matplotlib)", ["trace", "{run}", "A prompt", "--out", "disk/out"],
        "matplotlib.figure:Figure.savefig||1", [],
    ),
    ("a router card", ["export", "{run}", "--output", "disk/out"], "moe_tune.export.card:save_file||1", []),
    (
        "a folded model", ["export", "{run}", "--fold", "--output", "disk/out"],
        "moe_tune.export.stock_folder:save_file||1", [],
    ),
    (
        "a pruned model", ["prune", *TINY, "--criterion", "Frequency", "--share", "0.5", "--out", "disk/out"],
        "transformers:PreTrainedModel.save_pretrained||1", [],
    ),
]  # fmt: skip


def _resumes(trial):
    disk = trial.folder / "disk"
    with small_disk(disk) as mounted:
        env = {
            "BREAK": f"{RUN}save_file||3",
            "SMALL_DISK": str(disk) if mounted else "",
            "XDG_CACHE_HOME": str(disk / "cache"),
        }
        first = trial.run([*TWO_EPOCHS, *ON_DISK], env, full_before_call)
        (disk / FILLER).unlink(missing_ok=True)
        again = trial.run([*TWO_EPOCHS, *ON_DISK], {"XDG_CACHE_HOME": str(disk / "cache")})
        return f"{first.code}, {again.code} {'resumed' if 'resuming' in again.err else again.err[-200:]}"


def _little_room():
    left = int(os.environ["LEFT"])
    resource_watch.free_bytes = lambda path: left


def _room(left, expected, words):
    def attempt(trial):
        ended = trial.run(["fit", *TINY], {"LEFT": str(left)}, _little_room)
        return f"exit {ended.code}, told{says(ended, *words)}"

    return Case("F16", f"{left:,} bytes are free before the first checkpoint", expected, attempt)


def _full_tmpdir(trial):
    disk = trial.folder / "disk"
    with small_disk(disk, "1m") as mounted:
        if not mounted:
            (disk / "gone").touch()
        elsewhere = {"TMPDIR": str(disk if mounted else disk / "gone")}
        ended = trial.run(["fit", *TINY], elsewhere, _filled_tmpdir if mounted else None)
    return f"exit {ended.code}{'' if not ended.code else ended.err[-300:]}"


def _filled_tmpdir():
    os.environ["SMALL_DISK"] = os.environ["TMPDIR"]
    no_room()


def _raise(fault):
    raise fault


FAULTS = {
    "cuda": lambda: _raise(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")),
    "torch": lambda: torch.empty(1 << 60),  # the allocator's own words
    "memory": lambda: _raise(MemoryError()),
    "handles": lambda: (_no_handles(), open(os.devnull)),  # noqa: SIM115
}


def _no_handles():
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) - 1, 4096))


def broken_before_call():
    """Lack what ``FAULT`` names from a call on."""
    before_call(FAULTS[os.environ["FAULT"]])


TUNER = "moe_tune.tuner.router_tuner:RouterTuner."
LACKS = [
    ("F14", "CUDA out of memory, forward", "cuda", f"{TUNER}training_step||5", ["prompts, the longest of", "tokens"]),
    ("F14", "CUDA out of memory, backward", "cuda", "torch:Tensor.backward||5", ["prompts, the longest of", "tokens"]),
    (
        "F14", "CUDA out of memory, validation", "cuda", f"{TUNER}validation_step||2", ["prompts, the longest of",
        "tokens"],
    ),
    ("F14", "the host's allocator, forward", "torch", f"{TUNER}training_step||5", ["prompts, the longest of", "bytes"]),
    ("F15", "MemoryError while a checkpoint is written", "memory", f"{RUN}save_state||2", ["memory", "bytes"]),
    (
        "F15", "no file descriptors while a checkpoint is written", "handles", f"{RUN}save_file||2",
        ["Too many open files"],
    ),
]  # fmt: skip


def _lack(kind, name, fault, place, words):
    def attempt(trial):
        ended = trial.run(TWO_EPOCHS, {"BREAK": place, "FAULT": fault}, broken_before_call)
        run = only_run(trial.folder / "runs")
        kept = all(checked_folder(one) for one in run.glob("checkpoints/*.ckpt"))
        told = f"exit {ended.code}, told{says(ended, *words)}, {'kept' if kept else 'lost'}"
        return f"{told}, then {trial.run(TWO_EPOCHS).code}{litter(trial.folder)}"

    return Case(kind, name, "exit 6, told, kept, then 0", attempt)


def _file(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("a file")


def _read_only(path):
    """Let a folder be read-only, for root too as it is a mount; who may not mount gets a file in its place."""
    path.mkdir(parents=True)
    bound = [["mount", "--bind", path, path], ["mount", "-o", "remount,ro,bind", path]]
    if any(subprocess.run(one, capture_output=True, check=False).returncode for one in bound):
        path.rmdir()
        _file(path)


PLACES = [
    ("runs_root is a file", _file, "there", ["fit", *TINY, "--runs_root", "there"], []),
    ("runs_root lies below a file", _file, "there", ["fit", *TINY, "--runs_root", "there/runs"], []),
    ("runs_root is read-only", _read_only, "there", ["fit", *TINY, "--runs_root", "there"], []),
    ("--out is a file", _file, "there", ["compare", "{run}", "--out", "there"], []),
    ("--out is read-only", _read_only, "there", ["compare", "{run}", "--out", "there"], []),
    ("--output is a file", _file, "there", ["export", "{run}", "--output", "there"], []),
    ("the cache folder is a file", _file, "there", ["cache", "build", *TINY], ["XDG_CACHE_HOME"]),
    ("the cache folder is read-only", _read_only, "there", ["cache", "build", *TINY], ["XDG_CACHE_HOME"]),
]


def _place(name, prepare, path, words, variables):
    def attempt(trial):
        run, place = copied_run(trial) if "{run}" in words else None, trial.folder / path
        prepare(place)
        try:
            ended = trial.run([word.format(run=run) for word in words], {one: str(place) for one in variables})
        finally:
            subprocess.run(["umount", "-l", place], capture_output=True, check=False)
        return f"exit {ended.code}, path named{says(ended, path)}"

    return Case("F19", name, "exit 2, path named", attempt)


def _home_is_a_file(trial):
    _file(trial.folder / "there")
    ended = trial.run(["fit", *TINY], {"HOME": "there", "XDG_CACHE_HOME": ""})
    return f"exit {ended.code}, path named{says(ended, 'there')}"


def _vanish():
    shutil.rmtree(only_run(Path("runs")))


def _vanishes(trial):
    ended = trial.run(TWO_EPOCHS, {"BREAK": f"{TUNER}training_step||5"}, vanish_before_call)
    runs = trial.folder / "runs"
    left = [one.name for one in runs.iterdir() if one.is_dir() and one.name != ".locks"]
    return f"exit {ended.code}, path named{says(ended, 'runs/', 'gone')}, {left or 'no part of a run'}"


def vanish_before_call():
    """Take the run directory away before a call."""
    before_call(_vanish)


CASES = [
    *(_disk_full(*one[:4], of_run="{run}" in one[1]) for one in DISK_FULL),
    Case("F16", "full disk during a checkpoint, then room again", "6, 0 resumed", _resumes),
    _room(1000, "exit 6, told", ["disk space for a checkpoint", "1,000 bytes are free", "runs"]),
    _room(600_000, "exit 0, told", ["few have room", "600,000 bytes are free"]),
    Case("F17", "full disk in TMPDIR alone", "exit 0", _full_tmpdir),
    *(_lack(*one) for one in LACKS),
    *(_place(*one) for one in PLACES),
    Case("F19", "HOME is a file", "exit 2, path named", _home_is_a_file),
    Case("F19", "the run directory vanishes", "exit 2, path named, no part of a run", _vanishes),
]
