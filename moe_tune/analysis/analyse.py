"""An analysis from its first pass to its files: a pass per number of worked examples, then what they say together."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from lightning.pytorch import seed_everything
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from moe_tune.analysis.files import write_analysis
from moe_tune.analysis.findings import Analysis
from moe_tune.analysis.gather import Manner, gather, question_table
from moe_tune.analysis.passes import AnalysedModel, QuizPass, run_pass
from moe_tune.analysis.perturbations import CHANGES, unchanged
from moe_tune.analysis.sensitivity import measure_sensitivity
from moe_tune.base.errors import ConfigError, DataError
from moe_tune.base.memory import peak_memory
from moe_tune.base.published import write_parquet
from moe_tune.routing import Part, Scope
from moe_tune.runs.checkpoint import RouterCheckpointIO
from moe_tune.runs.directory import RunDirectory
from moe_tune.settings.fit_settings import FitSettings


@dataclass(frozen=True, slots=True)
class Asked:
    """What an analysis is asked to look at.

    Attributes:
        name: Short name of the model or the run.
        checkpoint: The trained heads; ``None`` takes the configured ones.
        home: The directory whose ledger records that a test split was read.
        split: Which questions.
        shots: Worked examples per pass; none given takes 0, 5 and what the configuration says.
        scopes: Which tokens count.
        sensitivity: Questions the sensitivity is measured on, at least 0.
        draws: Permutations of the null, at least 100.
    """

    name: str
    checkpoint: str | None
    home: Path
    split: str
    shots: list[int] | None
    scopes: list[Scope | Part]
    sensitivity: int
    draws: int


def analyse(asked: Asked, host: FitSettings, with_shots: Callable[[int], FitSettings], out: Path) -> Analysis:
    """Analyse a model or a run, write the results and return them."""
    began = time.monotonic()
    model = AnalysedModel(host.model, asked.scopes)
    passes: list[QuizPass] = []
    notes: list[str] = []
    for shots in _shots(asked, host.settings.data.few_shot):
        fit = with_shots(shots)
        seed_everything(fit.settings.seed_everything, verbose=False)  # no pass hangs on what one before it drew
        trainer = fit.trainer_for(
            devices=1,
            num_nodes=1,  # a pass for each number of examples: processes of one pass could not be used for the next
            enable_progress_bar=sys.stderr.isatty(),
            plugins=[RouterCheckpointIO()],
        )
        try:
            passes.append(run_pass(model, fit.datamodule, asked.split, trainer, asked.checkpoint))
        except (ConfigError, DataError) as fault:
            if asked.shots or not passes:
                raise
            notes.append(f"No pass with {shots} worked examples: {fault}")
            rank_zero_info(notes[-1])
            continue
        _record(asked, passes[-1], shots)
    sensitivity = pd.DataFrame()
    if asked.sensitivity and "answer" in asked.scopes:
        sensitivity = _sensitivity(passes, asked.split, asked.sensitivity)
    elif asked.sensitivity:
        notes.append("Sensitivity was not measured: it is of the answer token, which is not among the scopes.")
        rank_zero_info(notes[-1])
    seed = host.settings.seed_everything
    manner = Manner(asked.name, asked.split, asked.checkpoint is not None, asked.draws, seed)
    cost = {"seconds": round(time.monotonic() - began, 1), "peak_memory_gib": round(peak_memory() / 2**30, 2)}
    analysis = gather(model, passes, manner, sensitivity, notes, cost)
    write_analysis(analysis, out)
    write_parquet(pd.concat([question_table(one, asked.split) for one in passes]), out / "questions.parquet")
    return analysis


def _shots(asked: Asked, configured: int) -> list[int]:
    """Return the numbers of worked examples, each once."""
    least = [] if set(asked.scopes) == {"examples"} else [0]
    return list(dict.fromkeys(asked.shots or sorted({*least, 5, *([configured] if configured else [])})))


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


def _record(asked: Asked, one: QuizPass, shots: int) -> None:
    questions = len(one.predictions_Q)
    if asked.split.startswith("test"):
        RunDirectory(asked.home).record_opening(f"{asked.split} (analyze, {shots}-shot)", questions)
    rank_zero_info(f"{asked.split}, {shots}-shot: {questions:,} questions read")
