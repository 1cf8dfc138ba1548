"""Checkpoints that were changed, cut or made by somebody else."""

import json
import os
from functools import partial
from pathlib import Path

import torch

from moe_tune.base.checkpoint_folder import CONFIG, MANIFEST, PICKLED, ROUTER, sha256_of
from moe_tune.base.published import write_json
from moe_tune.faults.breaks import import_from
from moe_tune.faults.case import Case
from moe_tune.faults.reference import as_undisturbed, finished, killed
from moe_tune.faults.same_run import only_run
from moe_tune.faults.tiny import LAST, TINY, told
from moe_tune.faults.trial import Trial


class _Gadget:
    """Makes a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = str(canary)

    def __reduce__(self) -> tuple[object, tuple[str, int]]:
        return os.open, (self.canary, os.O_CREAT | os.O_WRONLY)


def flip(file: Path, place: int = -9) -> None:
    """Flip a bit of a file, by the place of its byte."""
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


def _again(trial: Trial) -> str:
    again = trial.run(TINY)
    after = as_undisturbed(only_run(trial.folder / "runs")) if again.code == 0 else ""
    return f"{told(again.code, again.out + again.err, 'corrupt')}, {after}"


def _flipped(trial: Trial) -> str:
    flip(killed(trial) / LAST / ROUTER)
    return _again(trial)


def _cut(trial: Trial) -> str:
    file = killed(trial) / LAST / ROUTER
    os.truncate(file, file.stat().st_size // 2)
    return _again(trial)


def _named(trial: Trial) -> str:
    run = finished(trial)
    flip(run / LAST / ROUTER)
    ended = trial.run(["validate", "--ckpt_path", str(run / LAST)])
    return told(ended.code, ended.err, "corrupt", "sha256")


def _pickled(trial: Trial) -> str:
    run, canary = finished(trial), trial.folder / "canary"
    folder = run / LAST
    for file in folder.glob("state.*"):
        file.unlink()
    torch.save({"epoch": _Gadget(canary)}, folder / PICKLED)
    hashes = {name: sha256_of(folder / name) for name in (ROUTER, PICKLED, CONFIG)}
    write_json(folder / MANIFEST, {"format": 1, "sha256": hashes})
    ended = trial.run(["validate", "--ckpt_path", str(folder)])
    return f"{told(ended.code, ended.err, 'refused untrusted object')}, {_ran(canary)}"


def _foreign(trial: Trial) -> str:
    run, canary = finished(trial), trial.folder / "canary"
    (trial.folder / "foreign.py").write_text(f"open({str(canary)!r}, 'w')\nclass Head: pass\n", encoding="utf-8")
    folder = run / LAST
    config = (folder / CONFIG).read_text(encoding="utf-8")
    own = "moe_tune.heads.retuned.RetunedHead"
    if own not in config:
        return "no head in the configuration"
    (folder / CONFIG).write_text(config.replace(own, "foreign.Head"), encoding="utf-8")
    content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    content["sha256"][CONFIG] = sha256_of(folder / CONFIG)
    write_json(folder / MANIFEST, content)
    ended = trial.run(["validate", "--ckpt_path", str(folder)], before=partial(import_from, str(trial.folder)))
    named = ended.code in (2, 4) and "foreign.Head" in ended.err
    return f"{'refused' if named else told(ended.code, ended.err, 'foreign.Head')}, {_ran(canary)}"


def _ran(canary: Path) -> str:
    return f"code {'ran' if canary.exists() else 'did not run'}"


CASES = [
    Case("F21", "a bit flipped in the last checkpoint's router", "exit 0, bit for bit", _flipped),
    Case("F20", "the last checkpoint's router cut at 50 %", "exit 0, bit for bit", _cut),
    Case("F20", "a checkpoint that was changed, by --ckpt_path", "exit 4", _named),
    Case("F24", "a pickle that runs code in trainer.pt", "exit 4, code did not run", _pickled),
    Case("F24", "a foreign class in a checkpoint's configuration", "refused, code did not run", _foreign),
]
