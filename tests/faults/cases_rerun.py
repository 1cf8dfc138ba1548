"""Checkpoints that belong to something else, commands that changed, and verbs that are killed and run again."""

import json
import os
import shutil
import signal
from functools import partial
from pathlib import Path

from cases_same_bits import prepared, written
from safetensors.torch import load_file, save_file

import moe_tune
from moe_tune.base.checkpoint_folder import MANIFEST, ROUTER, sha256_of
from moe_tune.faults.case import Case
from moe_tune.faults.reference import as_undisturbed, finished
from moe_tune.faults.tiny import LAST, TINY, told
from moe_tune.faults.trial import Trial

NANO = Path(moe_tune.__file__).parent / "models" / "nano"
GATE = "model.layers.1.mlp.gate.weight"
KILLED = ("compare", "prune", "export", "export --fold")


def rewritten(file, change):
    """Change the tensors of a file."""
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def other_head(trial):
    run = finished(trial)
    argv = ["test", "--ckpt_path", str(run / LAST), "--model.head", "TemperatureHead", "--model.head.mode", "learned"]
    ended = trial.run(argv)
    return told(ended.code, ended.err, "missing ['layers.0.theta'")


def other_layers(trial):
    run = finished(trial)
    ended = trial.run(["test", "--ckpt_path", str(run / LAST), "--model.layers", "last-2"])
    return told(ended.code, ended.err, "layers.0", "unknown")


def other_base(trial):
    run, base = finished(trial), trial.folder / "base"
    shutil.copytree(NANO, base)
    rewritten(base / "model.safetensors", lambda kept: kept["model.norm.weight"].mul_(1.001))
    ended = trial.run(["test", "--ckpt_path", str(run / LAST), "--model.base.path", str(base)])
    return told(ended.code, ended.err, "fingerprint")


def changed_keys(act, word, trial):
    """Change the names of a checkpoint's tensors, with right hashes."""
    folder = finished(trial) / LAST
    rewritten(folder / ROUTER, act)
    content = json.loads((folder / MANIFEST).read_text())
    content["sha256"][ROUTER] = sha256_of(folder / ROUTER)
    (folder / MANIFEST).write_text(json.dumps(content))
    ended = trial.run(["validate", "--ckpt_path", str(folder)])
    return told(ended.code, ended.err, word)


def lacking(tensors):
    del tensors[min(tensors)]


def further(tensors):
    tensors["layers.77.weight"] = next(iter(tensors.values())).clone()


def base_without(trial):
    base = trial.folder / "base"
    shutil.copytree(NANO, base)
    rewritten(base / "model.safetensors", lambda kept: kept.pop(GATE))
    ended = trial.run([*TINY, f"--model.base.path={base}"])
    return told(ended.code, ended.err, GATE)


def changed(words, trial):
    """Run the command of a finished fit with something changed: another run, and the first one as it was."""
    run = finished(trial)
    ended = trial.run([*TINY, *words])
    runs = [path for path in (trial.folder / "runs").glob("*-s*-*") if path.is_dir()]
    return f"exit {ended.code}, {len(runs)} runs, the first {as_undisturbed(run)}"


def kill_at_last_file():
    """Kill the process when it is about to publish the file that says that all is there."""
    stock = os.replace
    count = []

    def replace(source, target, **options):
        count.append(target)
        if len(count) == 2 or Path(target).name in ("out", "before_after.json"):
            os.kill(os.getpid(), signal.SIGKILL)
        return stock(source, target, **options)

    os.replace = replace


def killed_and_again(verb, trial):
    came = []
    for name in ("cut", "whole"):
        one = Trial(trial.folder / name)
        one.folder.mkdir()
        words, around = prepared(one, verb), {"XDG_STATE_HOME": str(one.folder / ".state")}
        codes = [
            one.run(words, around, before).code for before in ((kill_at_last_file, None) if name == "cut" else (None,))
        ]
        came.append((codes, written(one.folder)))
    (codes, ours), (_, theirs) = came
    off = sorted(ours.keys() ^ theirs.keys()) + [
        path for path in ours.keys() & theirs.keys() if ours[path] != theirs[path]
    ]
    return f"{', then '.join(map(str, codes))}: {f'{len(off)} files differ, {off[0]}' if off else 'the same'}"


CASES = [
    Case("F22", "a checkpoint of another head", "exit 4", other_head),
    Case("F22", "a checkpoint of other layers", "exit 4", other_layers),
    Case("F22", "a checkpoint of another base model", "exit 4", other_base),
    Case("F23", "a router tensor is missing", "exit 4", partial(changed_keys, lacking, "missing")),
    Case("F23", "a router tensor too many", "exit 4", partial(changed_keys, further, "layers.77.weight")),
    Case("F23", "the base model lacks a gate", "exit 4", base_without),
    *(
        Case(
            "F32", f"the same folder, another {word}", "exit 0, 2 runs, the first bit for bit", partial(changed, [word])
        )
        for word in ("--optimizer.lr=0.01", "--seed_everything=1", "--data.batch_size=8")
    ),
    *(
        Case("F35", f"kill -9 in {verb}, again", "137, then 0: the same", partial(killed_and_again, verb))
        for verb in KILLED
    ),
]
