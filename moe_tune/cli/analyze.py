"""The verb ``analyze``: the routing evidence of a model or a run."""

import argparse
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from rich.console import Console

from moe_tune.analysis.files import write_analysis
from moe_tune.analysis.gather import Manner, gather, pass_part
from moe_tune.analysis.kept import Part, keep, kept
from moe_tune.analysis.passes import AnalysedModel, run_pass
from moe_tune.analysis.perturbations import CHANGES, unchanged
from moe_tune.analysis.sensitivity import measure_sensitivity
from moe_tune.analysis.terminal import render_terminal
from moe_tune.base.errors import ConfigError, DataError
from moe_tune.base.memory import peak_memory
from moe_tune.base.published import write_parquet
from moe_tune.routing import PARTS
from moe_tune.runs.checkpoint import CONFIG, MANIFEST, RouterCheckpointIO, checked_folder
from moe_tune.runs.directory import RunDirectory, environment, identity
from moe_tune.settings.config_files import config_label
from moe_tune.settings.quiet import quieten
from moe_tune.settings.settings_cli import SettingsCLI

SCOPES = ("answer", "all", *PARTS)
SENSITIVITY = 256
"""Questions the sensitivity is measured on, unless told otherwise."""
PASSES = "passes"
"""Folder of what each pass came to, until the analysis is written; an interrupted one goes on from it."""


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
    seed = host.settings.seed_everything
    manner = Manner(target.name, given.split, target.checkpoint is not None, given.draws, seed)
    passes: dict[int, Part] = {}
    settings: dict[int, SettingsCLI] = {}
    notes: list[str] = []
    for shots in _shots(given, host):
        settings[shots] = SettingsCLI([*target.argv, f"--data.few_shot={shots}"], plugins)
        try:
            passes[shots] = _pass(model, settings[shots], target, manner, out / PASSES / f"{shots}-shot", given)
        except (ConfigError, DataError) as fault:
            if given.shots or not passes:
                raise
            notes.append(f"No pass with {shots} worked examples: {fault}")
            rank_zero_info(notes[-1])
    sensitivity = pd.DataFrame()
    if given.sensitivity and "answer" in given.scopes:
        sensitivity = _sensitivity(model, {shots: settings[shots] for shots in passes}, target, given, out / PASSES)
    elif given.sensitivity:
        notes.append("Sensitivity was not measured: it is of the answer token, which is not among the scopes.")
        rank_zero_info(notes[-1])
    cost = {"seconds": round(time.monotonic() - began, 1), "peak_memory_gib": round(peak_memory() / 2**30, 2)}
    parts = list(passes.values())
    analysis = gather(parts, manner, sensitivity, notes, cost)
    write_analysis(analysis, out)
    write_parquet(pd.concat([one.tables["questions"] for one in parts]), out / "questions.parquet")
    shutil.rmtree(out / PASSES)  # all of it is in the tables now
    console = Console()
    console.print(render_terminal(analysis, out))
    console.print(f"{time.monotonic() - began:.0f} s, at most {peak_memory() / 2**30:.2f} GiB of memory", style="dim")
    return 0


def _pass(
    model: AnalysedModel, cli: SettingsCLI, target: Target, manner: Manner, folder: Path, given: argparse.Namespace
) -> Part:
    """Answer all questions once and keep what it came to; or take what the same command kept before it broke off."""
    key = _key(cli, target, [manner.split, manner.draws, manner.trained, *given.scopes])
    shots = cli.settings.data.few_shot
    if (part := kept(folder, key)) is not None:
        rank_zero_info(f"{manner.split}, {shots}-shot: kept in {folder}")
        return part
    trainer = _trainer(cli)
    one = run_pass(model, cli.datamodule, manner.split, trainer, target.checkpoint)
    questions = len(one.predictions_Q)
    if manner.split.startswith("test"):
        RunDirectory(target.home).record_opening(f"{manner.split} (analyze, {shots}-shot)", questions)
    rank_zero_info(f"{manner.split}, {shots}-shot: {questions:,} questions read")
    return keep(pass_part(model, one, manner), folder, key)


def _trainer(cli: SettingsCLI) -> Trainer:
    seed_everything(cli.settings.seed_everything, verbose=False)  # no pass hangs on what one before it drew
    return cli.trainer_for(
        devices=1,
        num_nodes=1,  # a pass for each number of examples: processes of one pass could not be used for the next
        enable_progress_bar=sys.stderr.isatty(),
        plugins=[RouterCheckpointIO()],
    )


def _key(cli: SettingsCLI, target: Target, words: Sequence[object]) -> str:
    """Return what the results of a part follow from: configuration, heads, plug-ins, versions and what is counted."""
    heads = None if target.checkpoint is None else (Path(target.checkpoint) / MANIFEST).read_text(encoding="utf-8")
    values = [identity(cli.resolved), heads, cli.plugins, environment(), *words]
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()


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


def _sensitivity(
    model: AnalysedModel, passes: Mapping[int, SettingsCLI], target: Target, given: argparse.Namespace, folder: Path
) -> pd.DataFrame:
    """Change the prompts of the first pass, and the order of the examples where there are most of them."""
    first, most = next(iter(passes)), max(passes)
    ordered = [change for change in CHANGES if change.examples is not unchanged]
    kinds = [(first, [change for change in CHANGES if change not in ordered])]
    frames = []
    for shots, changes in kinds + ([(most, ordered)] if most > 1 else []):
        names = [change.name for change in changes]
        key = _key(passes[shots], target, [given.split, given.sensitivity, *names])
        place = folder / f"sensitivity, {names[0]}"
        if (part := kept(place, key)) is None:
            examiner = model.examiner(passes[shots].datamodule, _trainer(passes[shots]), target.checkpoint)
            frame = measure_sensitivity(examiner, given.split, given.sensitivity, changes)
            frame.insert(0, "scope", "answer")
            frame.insert(0, "shots", shots)
            part = keep(Part({"sensitivity": frame}), place, key)
        frames.append(part.tables["sensitivity"])
    return pd.concat(frames, ignore_index=True)
