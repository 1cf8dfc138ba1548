"""Two at once: the second is told who works there and changes nothing, whichever verbs the two are."""

import os
import shutil

from cases_endings import ROOT, TINY
from tiny import copied_run, litter, only_run, pause_before_call, says, wait_for

from moe_tune.base.locks import WorkLock
from moe_tune.faults.case import Case
from moe_tune.studies.sweep_file import load_sweep, sweep_folder

FRESH = ["fit", *TINY, "--fresh", "true"]
EXPERIMENT = (
    f"name: words\nclaim: none\nbase: [{ROOT}/configs/nano.yaml, {ROOT}/configs/debug/tiny.yaml, "
    f"{ROOT}/configs/logger/none.yaml]\nseeds: [0]\nbaseline: base\narms: {{base: [], same: []}}\n"
)
SWEEP = (
    "method: grid\nmetric: {name: validation/accuracy, goal: maximize}\n"
    "parameters: {optimizer.lr: {values: [0.1, 0.2]}}\n"
    f"command: [python, -m, moe_tune, fit, --config, {ROOT}/configs/nano.yaml, --test_after_fit=false, "
    "--config, '${args_json}']\n"
)
CONFIG = [*TINY, "--out", "out"]
REFUSED = "exit 2, holder named, nothing changed"


def _tree(folder):
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file() and ".locks" not in path.parts
    }


def _held(name, verb, folder, words):
    """Return the case of a verb whose folder this process holds; ``{run}`` in the words is a finished run."""

    def attempt(trial):
        run = copied_run(trial)
        (trial.folder / "words").mkdir()
        (trial.folder / "words" / "experiment.yaml").write_text(EXPERIMENT)
        (trial.folder / "sweep.yaml").write_text(SWEEP)
        place = folder(trial.folder, run)
        with WorkLock(place, "a folder"):
            before = _tree(trial.folder)
            ended = trial.run([verb, *(word.format(run=run) for word in words)])
            after = {key: one for key, one in _tree(trial.folder).items() if not key.endswith((".out", ".err"))}
        changed = {} if before == after else {key for key in {**before, **after} if before.get(key) != after.get(key)}
        return _told(ended, os.getpid(), changed)

    return Case("F29", f"{name}, another process in its folder", REFUSED, attempt)


def _told(ended, pid, changed):
    wrong = says(ended, f"process {pid} on")
    return (
        f"exit {ended.code}, holder named{wrong}, {f'changed {sorted(changed)[:4]}' if changed else 'nothing changed'}"
    )


def _out(folder, run):
    return folder / "out"


def _run(folder, run):
    return run


def _sweep(folder, run):
    return sweep_folder(load_sweep(folder / "sweep.yaml"), folder / "runs", 0, {})


HELD = [
    ("fit", "fit", _run, FRESH[1:]),
    ("fit --fresh beside an analysis of its run", "fit", lambda folder, run: run / "analysis" / "one", FRESH[1:]),
    ("validate RUN", "validate", _run, ["{run}"]),
    ("test RUN", "test", _run, ["{run}"]),
    ("predict RUN", "predict", _run, ["{run}"]),
    ("experiment", "experiment", lambda folder, run: folder / "runs" / "experiment-words", ["words"]),
    ("sweep", "sweep", _sweep, ["sweep.yaml"]),
    ("analyze --out", "analyze", _out, ["{run}", "--out", "out"]),
    ("compare --out", "compare", _out, ["{run}", "--out", "out"]),
    ("ablate --out", "ablate", _out, ["{run}", "--out", "out"]),
    ("prune --out", "prune", _out, [*CONFIG, "--criterion", "Frequency", "--share", "0.5"]),
    ("export --output", "export", _out, ["{run}", "--output", "out"]),
    ("export --fold --output", "export", _out, ["{run}", "--fold", "--output", "out"]),
    ("generate --out", "generate", _out, ["{run}", "A prompt", "--out", "out"]),
    ("trace --out", "trace", _out, ["{run}", "A prompt", "--out", "out"]),
    ("lm-eval --out", "lm-eval", _out, ["{run}", "--tasks", "arc_easy", "--out", "out"]),
]


def _pair(argv, second, place, prepare=None, unchanged=None):
    """Try two commands of which the first stands still at a place; it ends well when the second has been refused."""

    def attempt(trial):
        if prepare is not None:
            prepare(trial)
        first = trial.start(argv(trial), {"BREAK": f"{place}||1"}, pause_before_call)
        wait_for(trial.folder / "begun", first)
        kept = _tree(trial.folder / "runs")
        refused = trial.run(second(trial))
        told = _told(refused, first.pid, set() if _tree(trial.folder / "runs") == kept else {"runs"})
        (trial.folder / "go").touch()
        ended = first.ended()
        good = "the first ended well" if not ended.code else f"the first: {ended.err[-200:]}"
        return f"{told}, {good}{litter(trial.folder)}"

    return attempt


def _same(words):
    return lambda trial: words


def _experiment(trial):
    (trial.folder / "words").mkdir()
    (trial.folder / "words" / "experiment.yaml").write_text(EXPERIMENT)
    return ["experiment", "words"]


def _compare(trial):
    return ["compare", str(only_run(trial.folder / "runs")), "--out", "out"]


BOTH = f"{REFUSED}, the first ended well"
TRAINING, ENDING = (
    "moe_tune.callbacks.resource_watch:ResourceWatch.on_train_start",
    "moe_tune.settings.running:fit_ending",
)
RUNNING = [
    ("fit and fit", _same(["fit", *TINY]), _same(["fit", *TINY]), TRAINING, None),
    ("fit and fit --fresh, before its first checkpoint", _same(["fit", *TINY]), _same(FRESH), TRAINING, None),
    ("fit and fit --fresh, with its checkpoints", _same(["fit", *TINY]), _same(FRESH), ENDING, None),
    ("fit --fresh and test of the run", _same(FRESH), lambda trial: ["test", str(_named(trial))], ENDING, copied_run),
    ("experiment and experiment", _experiment, _same(["experiment", "words"]), TRAINING, None),
    ("compare and compare", _compare, _compare, "moe_tune.compare.pretrained:compare_with_pretrained", copied_run),
]


def _named(trial):
    # Not what a fit has put aside for as long as it makes its own.
    runs = [path for path in (trial.folder / "runs").iterdir() if ".old-" not in path.name]
    return next(path for path in runs if (path / "checkpoints").is_dir())


def _two_caches(trial):
    shared = [{"XDG_CACHE_HOME": str(trial.folder / "cache")} for _ in range(2)]
    words = ["cache", "build", *TINY, "--splits", "train", "validation"]
    both = [trial.start(words, env) for env in shared]
    codes = [one.ended().code for one in both]
    alone = trial.run(words, {"XDG_CACHE_HOME": str(trial.folder / "alone")})
    built = [_bytes(trial.folder / name) for name in ("cache", "alone")]
    left = [path.name for path in (trial.folder / "cache").rglob("*.building")]
    shutil.rmtree(trial.folder / "cache")
    same = "same bytes" if built[0] == built[1] and built[0] else "other bytes"
    told = f"{codes[0]}, {codes[1]}, {same}{f', litter {left}' if left else ''}"
    return told if not alone.code else f"{told}, alone: {alone.err[-200:]}"


def _bytes(folder):
    files = [
        path for path in folder.rglob("*") if path.suffix in (".bin", ".safetensors", ".npy") or "." not in path.name
    ]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if path.is_file()}


CASES = [
    *(_held(*one) for one in HELD),
    *(Case("F29", name, BOTH, _pair(argv, second, place, prepare)) for name, argv, second, place, prepare in RUNNING),
    Case("F30", "two processes build one prompt cache", "0, 0, same bytes", _two_caches),
]
