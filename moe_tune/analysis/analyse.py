"""An analysis from its first pass to its files: a pass per number of worked examples, then what they say together."""

import hashlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from moe_tune.analysis.files import write_analysis
from moe_tune.analysis.findings import Analysis
from moe_tune.analysis.gather import Manner, gather, is_pretrained, pass_part
from moe_tune.analysis.kept import Part, keep, kept
from moe_tune.analysis.measured_regret import measure_regret, why_no_regret
from moe_tune.analysis.passes import AnalysedModel, QuizPass, run_pass
from moe_tune.analysis.perturbations import CHANGES, unchanged
from moe_tune.analysis.pretrained import pretrained_entropy
from moe_tune.analysis.sensitivity import measure_sensitivity
from moe_tune.base.checkpoint_folder import MANIFEST
from moe_tune.base.errors import ConfigError, DataError
from moe_tune.base.memory import peak_memory
from moe_tune.base.published import write_parquet
from moe_tune.callbacks.question_records import reading_of
from moe_tune.data.module import QuizDataModule
from moe_tune.routing import Part as PromptPart
from moe_tune.routing import Scope
from moe_tune.runs.checkpoint import RouterCheckpointIO
from moe_tune.runs.directory import RunDirectory, environment, identity
from moe_tune.runs.ledger import OpenedTest, require_ledger
from moe_tune.settings.fit_settings import FitSettings

PASSES = "passes"
"""Folder of what each pass came to, until the analysis is written; an interrupted one goes on from it."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What an analysis is asked to look at.

    Attributes:
        name: Short name of the model or the run.
        checkpoint: The trained heads; ``None`` takes the configured ones.
        home: The run that a test split is read for.
        split: Which questions.
        shots: Worked examples per pass; none given takes 0, 5 and what the configuration says.
        scopes: Which tokens count.
        sensitivity: Questions the sensitivity is measured on, at least 0.
        regret: Questions route regret is measured on, at least 0.
        draws: Permutations of the null, at least 100.
    """

    name: str
    checkpoint: str | None
    home: Path
    split: str
    shots: list[int] | None
    scopes: list[Scope | PromptPart]
    sensitivity: int
    regret: int
    draws: int


def analyse(asked: Asked, host: FitSettings, with_shots: Callable[[int], FitSettings], out: Path) -> Analysis:
    """Analyse a model or a run, write the results and return them; an interrupted analysis goes on where it was."""
    began = time.monotonic()
    model = AnalysedModel(host.model, asked.scopes)
    manner = Manner(asked.name, asked.split, asked.checkpoint is not None, asked.draws, host.settings.seed_everything)
    passes: dict[int, Part] = {}
    fits: dict[int, FitSettings] = {}
    notes: list[str] = []
    for shots in _shots(asked, host.settings.data.few_shot):
        fits[shots] = with_shots(shots)
        try:
            passes[shots] = _pass(model, fits[shots], asked, manner, out / PASSES / f"{shots}-shot")
        except (ConfigError, DataError) as fault:
            if asked.shots or not passes:
                raise
            notes.append(f"No pass with {shots} worked examples: {fault}")
            rank_zero_info(notes[-1])
    sensitivity = pd.DataFrame()
    if asked.sensitivity and "answer" in asked.scopes:
        sensitivity = _sensitivity(model, {shots: fits[shots] for shots in passes}, asked, out / PASSES)
    elif asked.sensitivity:
        notes.append("Sensitivity was not measured: it is of the answer token, which is not among the scopes.")
        rank_zero_info(notes[-1])
    regret = pd.DataFrame()
    if asked.regret and "answer" in asked.scopes:
        first = next(iter(passes))
        regret = _regret(model, first, fits[first], asked, notes, out / PASSES / "regret")
    cost = {"seconds": round(time.monotonic() - began, 1), "peak_memory_gib": round(peak_memory() / 2**30, 2)}
    parts = list(passes.values())
    analysis = gather(parts, manner, sensitivity, regret, notes, cost)
    if manner.trained:
        shots = host.settings.data.few_shot
        analysis = replace(analysis, pretrained=pretrained_entropy(asked.home, asked.split, shots, analysis.layers))
    write_analysis(analysis, out)
    write_parquet(pd.concat([one.tables["questions"] for one in parts]), out / "questions.parquet")
    shutil.rmtree(out / PASSES)  # all of it is in the tables now
    return analysis


def _pass(model: AnalysedModel, fit: FitSettings, asked: Asked, manner: Manner, folder: Path) -> Part:
    """Answer all questions once and keep what it came to; or take what the same command kept before it broke off."""
    key = _key(fit, asked, [manner.split, manner.draws, manner.trained, *asked.scopes])
    shots = fit.settings.data.few_shot
    if (part := kept(folder, key)) is not None:
        rank_zero_info(f"{manner.split}, {shots}-shot: kept in {folder}")
        return part
    if manner.split.startswith("test"):
        require_ledger()
    one = run_pass(model, fit.datamodule, manner.split, _trainer(fit), asked.checkpoint)
    if manner.split.startswith("test"):
        config = None if asked.checkpoint else fit.configuration
        RunDirectory(asked.home).record_opening(_reading(one, fit.datamodule, manner.split, model), config)
    rank_zero_info(f"{manner.split}, {shots}-shot: {len(one.predictions_Q):,} questions read")
    return keep(pass_part(model, one, manner), folder, key)


def _reading(one: QuizPass, quiz: QuizDataModule, split: str, model: AnalysedModel) -> OpenedTest:
    asked = [(question.content_hash, question.answer) for question in quiz.questions(split)]
    frame = pd.DataFrame(asked, columns=["content_hash", "gold"]).assign(prediction=one.predictions_Q.numpy())
    return reading_of(frame, split, "analyze", quiz, model.gated)


def _trainer(fit: FitSettings) -> Trainer:
    seed_everything(fit.settings.seed_everything, verbose=False)  # no pass hangs on what one before it drew
    return fit.trainer_for(
        devices=1,
        num_nodes=1,  # a pass for each number of examples: processes of one pass could not be used for the next
        enable_progress_bar=sys.stderr.isatty(),
        plugins=[RouterCheckpointIO()],
    )


def _key(fit: FitSettings, asked: Asked, words: Sequence[object]) -> str:
    """Return what the results of a part follow from: configuration, heads, plug-ins, versions and what is counted."""
    heads = None if asked.checkpoint is None else (Path(asked.checkpoint) / MANIFEST).read_text(encoding="utf-8")
    values = [identity(fit.configuration), heads, fit.plugins, environment(), *words]
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()


def _shots(asked: Asked, configured: int) -> list[int]:
    """Return the numbers of worked examples, each once."""
    least = [] if set(asked.scopes) == {"examples"} else [0]
    return list(dict.fromkeys(asked.shots or sorted({*least, 5, *([configured] if configured else [])})))


def _sensitivity(model: AnalysedModel, passes: Mapping[int, FitSettings], asked: Asked, folder: Path) -> pd.DataFrame:
    """Change the prompts of the first pass, and the order of the examples where there are most of them."""
    first, most = next(iter(passes)), max(passes)
    ordered = [change for change in CHANGES if change.examples is not unchanged]
    kinds = [(first, [change for change in CHANGES if change not in ordered])]
    frames = []
    for shots, changes in kinds + ([(most, ordered)] if most > 1 else []):
        names = [change.name for change in changes]
        key = _key(passes[shots], asked, [asked.split, asked.sensitivity, *names])
        place = folder / f"sensitivity, {names[0]}"
        if (part := kept(place, key)) is None:
            examiner = model.examiner(passes[shots].datamodule, _trainer(passes[shots]), asked.checkpoint)
            frame = measure_sensitivity(examiner, asked.split, asked.sensitivity, changes)
            frame.insert(0, "scope", "answer")
            frame.insert(0, "shots", shots)
            part = keep(Part({"sensitivity": frame}), place, key)
        frames.append(part.tables["sensitivity"])
    return pd.concat(frames, ignore_index=True)


def _regret(
    model: AnalysedModel, shots: int, fit: FitSettings, asked: Asked, notes: list[str], folder: Path
) -> pd.DataFrame:
    """Sample routes for questions of the first pass, or say why not."""
    key = _key(fit, asked, [asked.split, asked.regret, asked.draws])
    if (part := kept(folder, key)) is not None:
        return part.tables["regret"]
    examiner = model.examiner(fit.datamodule, _trainer(fit), asked.checkpoint)
    heads = {} if is_pretrained(model, asked.checkpoint is not None) else dict(examiner.gated.heads)
    if why_not := why_no_regret(examiner, asked.split, heads):
        notes.append(f"Route regret was not measured: {why_not}.")
        rank_zero_info(notes[-1])
        return pd.DataFrame()
    seed = fit.settings.seed_everything
    frame = measure_regret(examiner, asked.split, heads, asked.regret, asked.draws, seed)
    frame.insert(0, "scope", "answer")
    frame.insert(0, "shots", shots)
    return keep(Part({"regret": frame}), folder, key).tables["regret"]
