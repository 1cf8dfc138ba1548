"""Checkpoints that were damaged or only half written: told, never used, and the one before gone on from."""

import functools
import json
import shutil
import signal

import torch
from safetensors.torch import load_file, save_file

from moe_tune.base.checkpoint_folder import sha256_of
from moe_tune.faults.case import Case
from moe_tune.faults.same_run import only_run, unlike
from moe_tune.faults.stopped_fit import SMALL, stop_at_batch, undisturbed

ROUTER = "router.safetensors"
AT = stop_at_batch(signal.SIGKILL, 4)


def truncated(share):
    def damage(folder):
        file = folder / ROUTER
        file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])

    return damage


def flipped(folder):
    data = bytearray((folder / ROUTER).read_bytes())
    data[-100] ^= 4
    (folder / ROUTER).unlink()  # the checkpoint before it may hold the same file
    (folder / ROUTER).write_bytes(bytes(data))


def rehashed(folder):
    """Make the manifest say that what lies there is what was written."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["sha256"] = {name: sha256_of(folder / name) for name in manifest["sha256"]}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def garbage(folder):
    (folder / ROUTER).write_bytes(b"no tensors at all")
    rehashed(folder)


def of_tensors(change):
    def damage(folder):
        save_file({name: change(value) for name, value in load_file(folder / ROUTER).items()}, folder / ROUTER)
        rehashed(folder)

    return damage


def without_manifest(folder):
    (folder / "manifest.json").unlink()


def torn_state(folder):
    (folder / "state.json").write_text("{")
    rehashed(folder)


DAMAGE = {
    "F20": {f"cut at {share:.0%}": truncated(share) for share in (0, 0.01, 0.5, 0.99)}
    | {"no manifest": without_manifest},
    "F21": {
        "a bit is flipped": flipped,
        "garbage with right hashes": garbage,
        "state that is no JSON, with right hashes": torn_state,
        "NaN with right hashes": of_tensors(lambda value: torch.full_like(value, float("nan"))),
    },
}


def falls_back(damage, trial):
    trial.run(SMALL, before=AT)
    run = only_run(trial.folder / "runs")
    damage(run / "checkpoints" / "last.ckpt")
    again = trial.run(SMALL)
    said = again.out + again.err
    told = "last.ckpt corrupt" in said and "last-1.ckpt" in said
    off = unlike(run, undisturbed(SMALL)) if not again.code else [again.err[-300:]]
    return f"{again.code}, told {told}, {'same bits' if not off else f'unlike: {off}'}"


def named(damage, trial):
    """A checkpoint that is named by hand is refused, with none in its place."""
    shutil.copytree(undisturbed(SMALL).parent, trial.folder / "runs")
    folder = only_run(trial.folder / "runs") / "checkpoints" / "best.ckpt"
    damage(folder)
    codes = [trial.run([verb, "--ckpt_path", str(folder)]).code for verb in ("validate", "predict")]
    return f"{codes[0]}, {codes[1]}"


def both(trial):
    trial.run(SMALL, before=AT)
    run = only_run(trial.folder / "runs")
    for name in ("last.ckpt", "last-1.ckpt"):
        flipped(run / "checkpoints" / name)
    refused, afresh = trial.run(SMALL), trial.run([*SMALL, "--fresh=true"])
    off = unlike(run, undisturbed(SMALL))
    return f"{refused.code}, {'--fresh true' in refused.err}, {afresh.code}, {off or 'same bits'}"


def case(kind, name, expected, attempt, *args):
    return Case(kind, name, expected, functools.partial(attempt, *args))


CASES = [
    *(
        case(kind, f"last.ckpt: {name}", "0, told True, same bits", falls_back, damage)
        for kind, some in DAMAGE.items()
        for name, damage in some.items()
    ),
    case("F20", "named by hand: cut at 50 %", "4, 4", named, truncated(0.5)),
    case("F21", "named by hand: garbage with right hashes", "4, 4", named, garbage),
    case("F21", "named by hand: another dtype", "4, 4", named, of_tensors(torch.Tensor.double)),
    case("F21", "named by hand: tensors that are not finite", "4, 4", named, of_tensors(lambda one: one / 0)),
    case("F20", "both checkpoints damaged", "4, True, 0, same bits", both),
]
