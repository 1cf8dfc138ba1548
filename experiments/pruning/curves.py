"""What is left of the nano model as experts are masked, by every criterion, chosen at either scope, beside chance.

``OMP_NUM_THREADS=1 python experiments/pruning/curves.py`` writes ``results/curves.csv``, ``curves.md``, ``curves.png``.
Masked is removed (a conformance test), so nothing is written or loaded here. Experts are chosen on training questions,
the model is judged on validation questions in both layouts, on pages of text and on generated answers.
"""

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pandas as pd
import torch
from matplotlib.figure import Figure

import moe_tune.criteria  # noqa: F401 (makes the criteria known)
from moe_tune import quiz
from moe_tune.analysis.answer_weights import AnswerWeights, committee_frame
from moe_tune.base.published import published
from moe_tune.criteria.at_random import AtRandom
from moe_tune.criteria.base import Criterion, ExpertEvidence
from moe_tune.criteria.frequency import Frequency
from moe_tune.criteria.kept_committee import KeptCommittee
from moe_tune.criteria.masking_effect import MaskingEffect
from moe_tune.criteria.never_activated import NeverActivated
from moe_tune.criteria.reap import Reap
from moe_tune.criteria.weighted_accuracy import WeightedAccuracy
from moe_tune.data.module import QuizDataModule
from moe_tune.data.nano_quiz import NanoQuiz
from moe_tune.data.nano_short_answers import NanoShortAnswers
from moe_tune.data.nano_text import NanoText
from moe_tune.heads.identity import IdentityHead
from moe_tune.models.base_model import BaseModel
from moe_tune.pruning.applied import masking_head
from moe_tune.pruning.before_after import compared_set
from moe_tune.pruning.choice import going
from moe_tune.pruning.evidence import gathered
from moe_tune.pruning.judged_model import JudgedSet, judged_model
from moe_tune.reports.table import Table, numbers, words
from moe_tune.tuner.opening import ModelSettings, OpenModel, open_model

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results"
BASE = BaseModel("nano", experts_implementation="grouped_mm")
COUNTS = (8, 16, 24, 32, 40, 48, 56)
"""Experts of each layer that go, of 64; a token has 8."""
CPU = torch.device("cpu")
CHANCES = 5
"""Draws of the control."""
SETS = {
    "quiz": ("quiz layout", "accuracy"),
    "textbook": ("textbook layout", "accuracy"),
    "test_pages": ("text, textbook pages", "nats per token"),
    "test_short": ("generated answers", "exact match"),
}


@dataclass(frozen=True, slots=True, eq=False)
class Judges:
    """What judges: the quiz in its layout with text and generated answers, and in the layout the model was taught in.

    Args:
        quiz: Quiz layout.
        textbook: Textbook layout, the same questions.
    """

    quiz: QuizDataModule
    textbook: QuizDataModule

    def judged(self, opened: OpenModel) -> dict[str, JudgedSet]:
        """Return what a model makes of every set."""
        own = judged_model(opened, self.quiz, ["validation", "test_pages", "test_short"], nullcontext)
        other = judged_model(opened, self.textbook, ["validation"], nullcontext)
        return {"quiz": own.pop("validation"), "textbook": other["validation"], **own}


def main() -> None:
    """Make the curves."""
    source = NanoQuiz(train=4096, validation=2048, test=16)
    beside = {"pages": NanoText(400, split="validation"), "short": NanoShortAnswers()}
    judges = Judges(
        quiz(source, BASE, protocol="nano_quiz", test_sources=beside), quiz(source, BASE, protocol="nano_textbook")
    )
    asked = ModelSettings(BASE, IdentityHead(), layers="all", scope="answer")
    opened = open_model(asked, CPU)
    before = judges.judged(opened)
    rows = []
    for name, scope, seed, count, gone in _choices(opened, judges.quiz):
        masked = open_model(replace(asked, head=masking_head(gone), scope="all"), CPU)
        after = judges.judged(masked)
        for key in SETS:
            found = asdict(compared_set(key, before[key], after[key], seed))
            low, high = found.pop("ci95") or (None, None)
            went = sum(map(len, gone.values()))
            about = {"criterion": name, "chosen_at": scope, "seed": seed, "count": count, "gone": went}
            rows.append({**about, "set": key, **found, "low": low, "high": high})
        print(name, scope, seed, count, *(f"{one['diff']:+.4f}" for one in rows[-len(SETS) :]), flush=True)
    frame = pd.DataFrame(rows).drop(columns="name")
    RESULTS.mkdir(exist_ok=True)
    frame.to_csv(RESULTS / "curves.csv", index=False, float_format="%.6g")
    write(frame)


def _choices(
    opened: OpenModel, asked: QuizDataModule
) -> Iterator[tuple[str, str, int, int | None, dict[int, list[int]]]]:
    examiner = opened.examiner(asked)
    members = _members(opened, asked)
    for scope in ("answer", "all"):
        for name, criterion in _criteria(scope, members).items():
            seen = gathered(examiner, criterion, "train", scope)
            scores_LE = criterion.scores(seen)
            for count in (None,) if name == "never activated" else COUNTS:
                free = int((scores_LE < float("inf")).sum(1).min())
                if count is None or count <= free:
                    yield name, scope, 0, count, going(scores_LE, seen, count)
    seen = ExpertEvidence(tuple(opened.gated.gates), opened.gated.rule.num_experts)
    for seed in range(CHANCES):
        for count in COUNTS:
            yield "chance", "none", seed, count, going(AtRandom(seed).scores(seen), seen, count)


def _criteria(scope: str, members: dict[int, list[int]]) -> dict[str, Criterion]:
    return {
        "never activated": NeverActivated(),
        "frequency": Frequency(),
        "weighted accuracy": WeightedAccuracy(),
        "REAP": Reap(),
        "masking effect": MaskingEffect(str(RESULTS / f"effects-{scope}.parquet")),
        "committee kept, then frequency": KeptCommittee(members),
    }


def _members(opened: OpenModel, asked: QuizDataModule) -> dict[int, list[int]]:
    """Return the committees of the training questions."""
    examiner = opened.examiner(asked)
    weights = examiner.evaluate("train", AnswerWeights(examiner.metric_shape("train")))
    known = [(one.subject, one.content_hash) for one in asked.questions("train")]
    frame = committee_frame(weights, pd.DataFrame(known, columns=["subject", "content_hash"]), 1000, 0)
    rows = frame[frame["claimed"]]
    return {
        int(layer): [int(one) for one in text.split()]
        for layer, text in zip(rows["layer"], rows["members"], strict=True)
    }


def write(frame: pd.DataFrame) -> None:
    """Write the picture and the table of what was found."""
    with published(RESULTS / "curves.png") as draft:
        _picture(frame).savefig(draft, format="png", dpi=100)
    blocks = []
    for key, (title, unit) in SETS.items():
        blocks.append(f"## {title}, {unit}\n\n{_table(frame[frame['set'] == key]).markdown()}")
    with published(RESULTS / "curves.md") as draft:
        draft.write_text("\n\n".join(blocks) + "\n", encoding="utf-8")


def _arms(frame: pd.DataFrame) -> Mapping[tuple[str, str], pd.DataFrame]:
    return {
        (str(name), str(scope)): rows for (name, scope), rows in frame.groupby(["criterion", "chosen_at"], sort=False)
    }


def _at(rows: pd.DataFrame, count: int) -> pd.DataFrame:
    return rows[rows["count"] == count]


def _table(frame: pd.DataFrame) -> Table:
    by = 1.0 if "test_pages" in set(frame["set"]) else 100.0
    form = "+.3f" if by == 1.0 else "+.1f"
    arms = [(name, scope) for name, scope in _arms(frame) if name != "never activated"]
    columns = [words("criterion", [name for name, _ in arms]), words("chosen at", [scope for _, scope in arms])]
    for count in COUNTS:
        values = [_at(_arms(frame)[arm], count)["diff"].mean() for arm in arms]
        columns.append(numbers(f"{count} gone", values, form, by))
    return Table(columns)


def _picture(frame: pd.DataFrame) -> Figure:
    figure = Figure(figsize=(11, 8), layout="constrained")
    colours = ["#2a78d6", "#d9480f", "#2b8a3e", "#862e9c", "#c2255c", "#495057"]
    for axes, (key, (title, unit)) in zip(figure.subplots(2, 2).flat, SETS.items(), strict=True):
        part = frame[frame["set"] == key]
        names = [one for one, _ in _arms(part) if one not in ("chance", "never activated")]
        for (name, scope), rows in _arms(part).items():
            if name == "never activated":
                continue
            if name == "chance":
                by = rows.groupby("count")["after"].agg(["mean", "min", "max"])
                axes.fill_between(
                    by.index / 64, by["min"], by["max"], color="#adb5bd", alpha=0.5, label="chance, 5 draws"
                )
                continue
            colour = colours[list(dict.fromkeys(names)).index(name) % len(colours)]
            axes.plot(
                rows["count"] / 64,
                rows["after"],
                color=colour,
                ls="-" if scope == "all" else ":",
                label=f"{name}, {scope}",
            )
        axes.axhline(part["before"].iloc[0], color="black", lw=0.8)
        axes.set(title=title, xlabel="share of each layer's experts gone", ylabel=unit)
    figure.axes[0].legend(fontsize=7)
    return figure


if __name__ == "__main__":
    main()
