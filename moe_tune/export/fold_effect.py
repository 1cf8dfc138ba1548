"""What folding a head into a checkpoint changes: letters of validation questions, step by step."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moe_tune.data.batching import Batch
from moe_tune.data.module import QuizDataModule
from moe_tune.export.stock_folder import at
from moe_tune.heads.base import RouterHead
from moe_tune.heads.identity import IdentityHead
from moe_tune.reports.table import DASH, Cell, Column, Table, interval, numbers
from moe_tune.routing import RoutingTrace
from moe_tune.stats.never_activated import never_bound
from moe_tune.stats.paired import compare_paired
from moe_tune.tuner.judged import Judged
from moe_tune.tuner.opening import ModelSettings, open_model

HALF: Literal["bfloat16"] = "bfloat16"


@dataclass(frozen=True, slots=True)
class FoldStep:
    """One way to run the head, and what it changes from the way before it.

    Args:
        way: How it is run.
        n: Validation questions.
        accuracy: Share answered correctly.
        against: Number of the row it is compared with, from 1; ``None`` for the first.
        changed: Questions whose letter is another one than there.
        diff: Difference in accuracy from there.
        ci95: Its 95 % interval, paired.
        method: How that was reached.
    """

    way: str
    n: int
    accuracy: float
    against: int | None = None
    changed: int | None = None
    diff: float | None = None
    ci95: tuple[float, float] | None = None
    method: str = ""


@dataclass(slots=True)
class _Letters:
    """Keeps the chosen letter of every question."""

    question_Q: list[Tensor] = field(default_factory=list)
    letter_Q: list[Tensor] = field(default_factory=list)
    reads_mass: bool = False
    needs: frozenset[str] = frozenset()

    def add(self, trace: RoutingTrace, batch: Batch, judged: Judged) -> None:
        self.question_Q.append(batch.question_B.cpu())
        self.letter_Q.append(judged.log_probs_BA.argmax(-1).cpu())


def fold_effect(
    asked: ModelSettings,
    state: dict[str, Any],
    quiz: QuizDataModule,
    folder: Path,
    questions: int | None,
    device: torch.device,
) -> list[FoldStep]:
    """Return how a head, and the checkpoint it was folded into, answer validation questions, on full prompts.

    From row to row one thing changes: where the head acts and the numerics; then folding; then, in bfloat16, the same
    two. The test split is not read.

    Args:
        asked: The run's model.
        state: Its checkpoint.
        quiz: The run's data.
        folder: The folded checkpoint.
        questions: How many validation questions; ``None`` are all.
        device: Where the models run.
    """
    base = asked.base
    quiz.prepare(base.load_tokenizer(), int(base.load_config().max_position_embeddings))
    if questions is not None:
        quiz.limit("validation", questions)
    native = replace(asked, scope="all", routing_dtype="native", losses={})
    stock = replace(native, base=at(base, folder), head=IdentityHead())
    told = f"head at scope {asked.scope}, routing in {asked.routing_dtype}"
    ways: list[tuple[str, ModelSettings, dict[str, Any] | None, int | None]] = [(told, asked, state, None)]
    if (asked.scope, asked.routing_dtype) != ("all", "native"):
        ways.append(("head at every token, native numerics", native, state, 1))
    ways.append((f"folded, {base.dtype}", stock, None, len(ways)))
    if base.dtype != HALF and not _reads_the_base(asked.head):
        half = replace(native, base=replace(base, dtype=HALF))
        ways.append((f"head at every token, {HALF}, native numerics", half, state, len(ways) - 1))
        ways.append((f"folded, {HALF}", replace(stock, base=at(base, folder, dtype=HALF)), None, len(ways)))
    steps: list[FoldStep] = []
    letters: list[NDArray[np.int64]] = []
    for way, settings, kept, against in ways:
        place_Q, letter_Q = _answers(settings, kept, quiz, device)
        items = [quiz.questions("validation")[place] for place in place_Q]
        gold_Q = np.array([one.answer for one in items])
        letters.append(letter_Q)
        step = FoldStep(way, len(items), float((letter_Q == gold_Q).mean()))
        if against is not None:
            before_Q = letters[against - 1]
            changed = int((before_Q != letter_Q).sum())
            step = replace(step, against=against, changed=changed, diff=step.accuracy - steps[against - 1].accuracy)
            if changed and len(items) > 1:
                hashes, subjects = [one.content_hash for one in items], [one.subject for one in items]
                right = [(one == gold_Q)[None] for one in (before_Q, letter_Q)]
                found = compare_paired(right[0], right[1], hashes, subjects, [0])
                step = replace(step, ci95=found.told_ci95, method=found.interval_method)
        steps.append(step)
    return steps


def effect_table(steps: list[FoldStep]) -> Table:
    """Return the table of what folding changes."""
    ends = [Cell(DASH if one.ci95 is None else interval(*one.ci95)) for one in steps]
    method = next((one.method for one in steps if one.method), "")
    caption = (
        f"Validation questions, n = {steps[0].n:,}, full prompts; letters changed, and the difference in points, from "
        f"the row named; 95 % interval: {method or 'none'}; where no letter changed, at most "
        f"{100 * never_bound(steps[0].n):.2g} % do (exact 95 % bound). It may have been chosen on validation."
    )
    return Table(
        [
            Column("", [Cell(f"{place} {one.way}") for place, one in enumerate(steps, 1)], left=True, fold=True),
            numbers("acc. %", [one.accuracy for one in steps], ".2f", 100),
            Column("against", [Cell(DASH if one.against is None else f"row {one.against}") for one in steps]),
            numbers("letters", [one.changed for one in steps]),
            numbers("points", [one.diff for one in steps], "+.2f", 100),
            Column("95 % interval", ends),
        ],
        caption,
        "what folding changes",
    )


def as_plain(steps: list[FoldStep]) -> list[dict[str, Any]]:
    """Return the steps as plain values."""
    return [asdict(one) for one in steps]


def _answers(
    settings: ModelSettings, state: dict[str, Any] | None, quiz: QuizDataModule, device: torch.device
) -> tuple[list[int], NDArray[np.int64]]:
    """Return the validation questions that were asked, in order, and the letter of each."""
    opened = open_model(settings, device)
    opened.gated.model.set_experts_implementation(opened.pass_experts)  # in all rows the same
    if state is not None:
        opened.gated.load_state(dict(state["state_dict"]), "checkpoint")
        opened.gated.calibrated_on = frozenset(state.get("calibrated_on", ()))
    kept = opened.examiner(quiz).on_full_prompts().evaluate("validation", _Letters())
    place_Q, order_Q = torch.cat(kept.question_Q).sort()
    return place_Q.tolist(), torch.cat(kept.letter_Q)[order_Q].numpy()


def _reads_the_base(head: RouterHead) -> bool:
    """Whether a head reads runs of this very base model, which in another dtype is another."""
    return any(type(one).__name__ == "MeanOfRuns" for one in head.modules())
