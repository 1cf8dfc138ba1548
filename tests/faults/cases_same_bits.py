"""Every verb twice, in two folders and two processes: what it wrote and said is the same, times and places apart."""

import hashlib
import json
import re
import shutil
from functools import partial
from pathlib import Path

import pandas as pd
import yaml
from golden.golden_files import COST, MOMENT
from golden.golden_files import VARYING as TIMED

from moe_tune.faults.case import Case
from moe_tune.faults.same_run import only_run
from moe_tune.faults.stopped_fit import undisturbed
from moe_tune.faults.tiny import NAMES, TINY
from moe_tune.faults.trial import Trial
from moe_tune.settings.shipped import found_config

VARYING = re.compile(rf"{TIMED.pattern}|.*_per_second")
NOT_COMPARED = re.compile(r"\d+\.(out|err)|.*\.lock|\.locks|.*\.traceback")
SHOWN = re.compile(r"<dt>(seconds|peak memory gib)</dt><dd>[^<]*</dd>")
CLOCK = re.compile(r" *\d+(\.\d+)? ?(s|ms|min|seconds|minutes|MiB|GiB|it/s|tokens/s|tokens per second|B free)\b")
PLAIN = TINY[1:]
EVALUATED = ["--ckpt_path", "{run}/checkpoints/last.ckpt"]
SWEEP = {
    "method": "random",
    "metric": {"name": "validation/accuracy", "goal": "maximize"},
    "parameters": {"optimizer.lr": {"distribution": "log_uniform_values", "min": 0.001, "max": 0.1}},
    "command": ["${env}", "python", "-m", "moe_tune", *TINY, "--test_after_fit=false", "--config", "${args_json}"],
}


def shipped(name):
    return str(Path(found_config(name)).resolve())


STUDY = {
    "name": "study",
    "claim": "Nothing; two processes do the same.",
    "base": [*map(shipped, NAMES), *(word.removeprefix("--") for word in TINY if word.startswith("--data"))],
    "seeds": [0],
    "baseline": "identity",
    "splits": {"test": "quiz layout"},
    "arms": {
        "identity": [shipped("head/identity"), "trainer.max_epochs=1"],
        "retuned": [shipped("head/retuned"), "trainer.max_epochs=1"],
    },
}
ANALYSIS = ["--split=validation", "--draws=100", "--sensitivity=0", "--regret=0", "--shots", "0"]
VERBS = {
    "validate": ["validate", *EVALUATED],
    "test": ["test", *EVALUATED],
    "predict": ["predict", *EVALUATED],
    "analyze": ["analyze", "{run}", *ANALYSIS, "--out", "out"],
    "compare": ["compare", "{run}", "--out", "out"],
    "grid": ["grid", *PLAIN, "--config", "head/temperature", "--vary", "model.head.tau=0.5,2"],
    "ablate": ["ablate", "{run}", "--layers", "2", "--experts", "0", "1", "--out", "out"],
    "prune": ["prune", *PLAIN, "--criterion", "Frequency", "--share", "0.25", "--out", "out"],
    "export": ["export", "{run}", "--output", "out"],
    "export --fold": ["export", "{run}", "--fold", "--output", "out"],
    "trace": ["trace", "{run}", "The capital of France is", "--out", "out"],
    "generate": ["generate", "{run}", "The capital of France is", "--out", "out"],
    "estimate": ["estimate", *PLAIN],
    "check": ["check", "nano", "olmoe_mmlu"],
    "cache": ["cache", "build", *PLAIN, "--model.answer_path.folder", "cache"],
    "list": ["list", "runs", "--runs_root", "runs"],
    "sweep": ["sweep", "sweep.yaml", "--count", "2", "--runs_root", "runs"],
    "experiment": ["experiment", "study", "--runs_root", "runs"],
}
WITHOUT_RUN = ("sweep", "experiment", "estimate", "check", "cache", "grid", "prune")


def prepared(trial, verb):
    """Lay in a folder what a verb wants, and return its arguments."""
    words = VERBS[verb]
    if verb not in WITHOUT_RUN:
        shutil.copytree(undisturbed(TINY).parent, trial.folder / "runs")
        words = [word.format(run=f"runs/{only_run(trial.folder / 'runs').name}") for word in words]
    if verb == "sweep":
        (trial.folder / "sweep.yaml").write_text(yaml.safe_dump(SWEEP))
    if verb == "experiment":
        (trial.folder / "study").mkdir()
        (trial.folder / "study" / "experiment.yaml").write_text(yaml.safe_dump(STUDY))
    return words


def varying_apart(value):
    if isinstance(value, dict):
        return {key: varying_apart(one) for key, one in value.items() if not VARYING.fullmatch(str(key))}
    return [varying_apart(one) for one in value] if isinstance(value, list) else value


SPEED = re.compile(r"^[^\n]*(tokens/s|seconds of)[^\n]*\n", re.MULTILINE)
"""Rows of tables that say how fast something was."""


def masked(text, folder):
    text = text.replace(str(folder), "<folder>")
    text = SPEED.sub("", text)
    text = CLOCK.sub("<cost>", COST.sub("<cost>", MOMENT.sub("<moment>", SHOWN.sub("<cost>", text))))
    return re.sub(" +", " ", text)  # a column is as wide as the cost that stands in it


def content(file, folder):
    """Return what a file holds, without times, places and hashes of files that hold times."""
    if file.suffix == ".parquet":
        frame = pd.read_parquet(file)
        return {name: frame[name].astype(str).tolist() for name in frame if not VARYING.fullmatch(str(name))}
    if file.suffix in (".json", ".jsonl"):
        rows = [json.loads(one) for one in ([file.read_text()] if file.suffix == ".json" else file.open())]
        return masked(repr([varying_apart(one) for one in rows]), folder)
    if file.suffix in (".safetensors", ".png", ".bin"):
        return hashlib.sha256(file.read_bytes()).hexdigest()
    return masked(file.read_text(errors="replace"), folder)


def written(folder):
    """Return what lies below a folder, by path."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    kept = [file for file in files if not any(map(NOT_COMPARED.fullmatch, file.relative_to(folder).parts))]
    return {file.relative_to(folder).as_posix(): content(file, folder) for file in kept}


def first_apart(one, other):
    for place, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return f"{one[max(0, place - 40) : place + 40]!r} | {other[max(0, place - 40) : place + 40]!r}"
    return f"{len(one)} | {len(other)}"


def twice(verb, trial):
    came = []
    for name in ("one", "two"):
        one = Trial(trial.folder / name)
        one.folder.mkdir()
        ended = one.run(prepared(one, verb), env={"XDG_STATE_HOME": str(one.folder / ".state")})
        if ended.code:
            return f"exit {ended.code} {ended.err[-300:]}"
        came.append(written(one.folder) | {"said": masked(ended.out, one.folder)})
    one, two = came
    off = sorted(one.keys() ^ two.keys()) + [path for path in one.keys() & two.keys() if one[path] != two[path]]
    told = f": {first_apart(str(one[off[0]]), str(two[off[0]]))}" if off and off[0] in one and off[0] in two else ""
    return f"{len(off)} of {len(one)} files differ, {off[0]}{told}" if off else "the same"


CASES = [Case("same bits", verb, "the same", partial(twice, verb)) for verb in VERBS]
