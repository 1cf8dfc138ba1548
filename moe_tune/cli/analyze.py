"""The verb ``analyze``: the routing evidence of a model or a run."""

import argparse
import os
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from lightning.pytorch import seed_everything
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from rich.console import Console

from moe_tune.analysis.files import write_analysis
from moe_tune.analysis.gather import Manner, gather, question_table
from moe_tune.analysis.passes import AnalysedModel, QuizPass, run_pass
from moe_tune.analysis.perturbations import CHANGES, unchanged
from moe_tune.analysis.sensitivity import measure_sensitivity
from moe_tune.analysis.terminal import render_terminal
from moe_tune.base.errors import ConfigError, DataError
from moe_tune.base.published import write_parquet
from moe_tune.routing import PARTS
from moe_tune.runs.checkpoint import CONFIG, RouterCheckpointIO, checked_folder
from moe_tune.runs.directory import RunDirectory
from moe_tune.settings.config_files import config_label
from moe_tune.settings.quiet import quieten
from moe_tune.settings.settings_cli import SettingsCLI

SCOPES = ("answer", "all", *PARTS)
SENSITIVITY = 256
"""Questions the sensitivity is measured on, unless told otherwise."""


@dataclass(frozen=True, slots=True)
class Target:
    """What is analysed.

    Args:
        name: Short name.
        argv: A fit's arguments that describe it.
        checkpoint: The trained heads; ``None`` takes the configured ones.
        home: The directory whose ledger records that a test split was read.
        out: Where the results go, unless told otherwise.
    """

    name: str
    argv: list[str]
    checkpoint: str | None
    home: Path
    out: Path


def main(argv: list[str], plugins: dict[str, str] | None = None) -> int:
    """Analyse a model or a run, write the results, print one screen and return 0.

    Args:
        argv: Arguments after the verb; what is not the verb's own is a fit's.
        plugins: sha256 of the user's plug-in files, by path.
    """
    given, target, host = _asked(argv, plugins)
    out = given.out or target.out
    began = time.monotonic()
    model = AnalysedModel(host.model, given.scopes)
    passes: list[QuizPass] = []
    notes: list[str] = []
    for shots in _shots(given, host):
        settings = SettingsCLI([*target.argv, f"--data.few_shot={shots}"], plugins)
        seed_everything(settings.settings.seed_everything, verbose=False)  # no pass hangs on what one before it drew
        trainer = settings.trainer_for(
            devices=1,
            num_nodes=1,  # a pass for each number of examples: processes of one pass could not be used for the next
            enable_progress_bar=sys.stderr.isatty(),
            plugins=[RouterCheckpointIO()],
        )
        try:
            passes.append(run_pass(model, settings.datamodule, given.split, trainer, target.checkpoint))
        except (ConfigError, DataError) as fault:
            if given.shots or not passes:
                raise
            notes.append(f"No pass with {shots} worked examples: {fault}")
            rank_zero_info(notes[-1])
            continue
        _record(target, given.split, passes[-1], shots)
    sensitivity = pd.DataFrame()
    if given.sensitivity and "answer" in given.scopes:
        sensitivity = _sensitivity(passes, given.split, given.sensitivity)
    elif given.sensitivity:
        notes.append("Sensitivity was not measured: it is of the answer token, which is not among the scopes.")
        rank_zero_info(notes[-1])
    seed = host.settings.seed_everything
    manner = Manner(target.name, given.split, target.checkpoint is not None, given.draws, seed)
    cost = {"seconds": round(time.monotonic() - began, 1), "peak_memory_gib": round(peak_memory(), 2)}
    analysis = gather(model, passes, manner, sensitivity, notes, cost)
    write_analysis(analysis, out)
    write_parquet(pd.concat([question_table(one, given.split) for one in passes]), out / "questions.parquet")
    console = Console()
    console.print(render_terminal(analysis, out))
    console.print(f"{time.monotonic() - began:.0f} s, at most {peak_memory():.2f} GiB of memory", style="dim")
    return 0


def _asked(argv: list[str], plugins: dict[str, str] | None) -> tuple[argparse.Namespace, Target, SettingsCLI]:
    """Return what was asked for, checked before anything is computed."""
    parser = argparse.ArgumentParser(
        prog="moe_tune analyze",
        usage="moe_tune analyze (RUN | --config FILE) [options] [a fit's arguments]",
        description="Which experts a model uses, how sure its gate is, and how well its experts do: tables, one HTML "
        "report, and which of the published claims hold here. RUN is a run directory or a checkpoint.",
        allow_abbrev=False,
    )
    parser.add_argument("--split", default="test", help="questions read; each reading of a test split is recorded")
    parser.add_argument(
        "--shots", nargs="+", type=int, help="worked examples per pass (0, the configured, 5 if there are)"
    )
    parser.add_argument("--scopes", nargs="+", choices=SCOPES, default=list(SCOPES), help="which tokens count")
    parser.add_argument("--sensitivity", type=int, default=SENSITIVITY, metavar="N", help="questions; 0 leaves it out")
    parser.add_argument("--draws", type=int, default=1000, help="permutations of the null, at least 40 per layer")
    parser.add_argument("--out", type=Path, help="folder of the results")
    path = argv[0] if argv and not argv[0].startswith("-") else None
    given, rest = parser.parse_known_args(argv if path is None else argv[1:])
    if given.sensitivity < 0 or given.draws < 100 or any(shots < 0 for shots in given.shots or ()):
        raise ConfigError(
            f"expected shots and sensitivity of 0 or more and at least 100 draws but got {given.shots}, "
            f"{given.sensitivity} and {given.draws} (analyze). Hint: the defaults are 0 5, {SENSITIVITY} and 1000."
        )
    words = {word.partition("=")[0] for word in rest}
    if path is None and "--config" not in words:
        raise ConfigError(
            f"expected a run directory first, or --config FILE, but got {' '.join(argv) or 'nothing'} (analyze). "
            "Hint: python -m moe_tune analyze --config configs/nano.yaml"
        )
    if "--data.few_shot" in words:
        raise ConfigError("expected --shots but got --data.few_shot (analyze). Hint: --shots 0 5 makes two passes.")
    if given.split == "dev" and given.shots != [0]:
        raise ConfigError(
            "expected no worked examples for their own split, as every question would show its answer, "
            f"but got {given.shots or 'the default'} (--shots). Hint: --split dev --shots 0."
        )
    if set(given.scopes) == {"examples"} and given.shots and not any(given.shots):
        raise ConfigError("expected worked examples for the scope examples but got --shots 0. Hint: --shots 5.")
    quieten()
    if path is None:
        host = SettingsCLI(rest, plugins)
        label = config_label(["fit", *rest])
        out = Path(host.settings.runs_root) / f"{label}-analysis"
        target = Target(label, rest, None, out, out)
    else:
        target = _run(Path(path), rest)
        host = SettingsCLI(target.argv, plugins)
    out = given.out or target.out
    standing = next(one for one in [out, *out.absolute().parents] if one.exists())
    if not standing.is_dir() or not os.access(standing, os.W_OK):
        raise ConfigError(f"expected a folder to write to but got {str(out)!r} (--out). Hint: --out FOLDER.")
    return given, target, host


def _shots(given: argparse.Namespace, host: SettingsCLI) -> list[int]:
    """Return the numbers of worked examples, each once: those asked for, or 0, 5 and what the configuration says."""
    configured = host.settings.data.few_shot
    least = [] if set(given.scopes) == {"examples"} else [0]
    return list(dict.fromkeys(given.shots or sorted({*least, 5, *([configured] if configured else [])})))


def peak_memory() -> float:
    """Return the most memory this process has held, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _run(path: Path, argv: list[str]) -> Target:
    if not path.is_dir():
        raise DataError(
            f"expected a run directory or a checkpoint but got {str(path)!r} (analyze). "
            "Hint: `python -m moe_tune fit` prints where it wrote its run; --config FILE analyses a model."
        )
    checkpoints = [path / "checkpoints" / name for name in ("best.ckpt", "last.ckpt")]
    folder = checked_folder(next((one for one in checkpoints if one.is_dir()), path))
    home = folder.parent.parent if folder.parent.name == "checkpoints" else folder
    words = ["--config", str(folder / CONFIG), *argv]
    return Target(home.name, words, str(folder), home, home / "analysis")


def _sensitivity(passes: list[QuizPass], split: str, questions: int) -> pd.DataFrame:
    """Change the prompts of the first pass, and the order of the examples where there are most of them."""
    most = max(passes, key=lambda one: one.shots)
    ordered = [change for change in CHANGES if change.examples is not unchanged]
    kinds = [(passes[0], [change for change in CHANGES if change not in ordered])]
    frames = []
    for one, changes in kinds + ([(most, ordered)] if most.shots > 1 else []):
        frame = measure_sensitivity(one.examiner, split, questions, changes)
        frame.insert(0, "scope", "answer")
        frame.insert(0, "shots", one.shots)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def _record(target: Target, split: str, one: QuizPass, shots: int) -> None:
    questions = len(one.predictions_Q)
    if split.startswith("test"):
        RunDirectory(target.home).record_opening(f"{split} (analyze, {shots}-shot)", questions)
    rank_zero_info(f"{split}, {shots}-shot: {questions:,} questions read")
