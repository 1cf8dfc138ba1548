"""From passes over the questions to an analysis: every table under every scope, and the claims held against them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from moe_tune.analysis.claims import claims
from moe_tune.analysis.findings import Analysis
from moe_tune.analysis.frames import ScopeEvidence, scope_evidence
from moe_tune.analysis.passes import AnalysedModel, QuizPass
from moe_tune.routing import Part, Scope
from moe_tune.runs.directory import environment, now
from moe_tune.stats.accuracy_estimates import accuracy_text

TABLES = ("experts", "layers", "weights", "subjects", "co_activation")


@dataclass(frozen=True, slots=True)
class Manner:
    """How an analysis is made.

    Args:
        name: Short name of what is analysed.
        split: The split whose questions were answered.
        trained: Whether a checkpoint's heads answered.
        draws: Shuffles of the permutation null; many layers take more.
        seed: Their seed.
    """

    name: str
    split: str
    trained: bool
    draws: int
    seed: int


def gather(
    model: AnalysedModel,
    passes: Sequence[QuizPass],
    manner: Manner,
    sensitivity: pd.DataFrame,
    notes: Sequence[str],
    about: dict[str, Any],
) -> Analysis:
    """Return what passes over the same questions say together."""
    frames: dict[str, list[pd.DataFrame]] = {name: [] for name in TABLES}
    held, accuracies, made = [], {}, manner.draws
    for one in passes:
        known = _by_scope(one, model, manner)
        held += claims({str(scope): evidence for scope, evidence in known.items()}, one.shots)
        accuracies[one.shots] = accuracy_text(one.results.correct, len(one.predictions_Q))
        made = max(made, *(evidence.draws for evidence in known.values()))
        for scope, evidence in known.items():
            for name in TABLES:
                frame = getattr(evidence, name).copy()
                frame.insert(0, "scope", scope)
                frame.insert(0, "shots", one.shots)
                frames[name].append(frame)
    base, quiz, rule = model.base, passes[0].quiz, model.gated.rule
    questions = len(passes[0].predictions_Q)
    return Analysis(
        title=f"Routing of {manner.name}",
        lead=(
            f"{_router(model, manner)} of {base.path}, {len(model.gated.gates)} layers of {rule.num_experts} "
            f"experts, top {rule.top_k}, on {questions:,} questions of the {manner.split} split."
        ),
        about={
            "model": base.path,
            "revision": base.revision or "local",
            "fingerprint": model.gated.fingerprint,
            "head": _router(model, manner),
            "split": manner.split,
            "protocol": quiz.protocol_name(manner.split),
            "questions": questions,
            "accuracy": accuracies,
            "routing": model.routing_dtype,
            "permutations": made,
            "seed": manner.seed,
            "date": now(),
            **about,
            **environment(),
        },
        claims=[dict(one) for one in held],
        notes=list(notes),
        sensitivity=sensitivity,
        **{name: pd.concat(parts, ignore_index=True) for name, parts in frames.items()},
    )


def question_table(one: QuizPass, split: str) -> pd.DataFrame:
    """Return how every question of a pass was answered, one row each."""
    questions = one.quiz.questions(split)
    frame = pd.DataFrame(
        {
            "shots": one.shots,
            "id": [question.id for question in questions],
            "content_hash": [question.content_hash for question in questions],
            "subject": [question.subject for question in questions],
            "gold": [question.answer for question in questions],
            "prediction": one.predictions_Q.tolist(),
        }
    )
    return frame.assign(correct=frame["gold"] == frame["prediction"])


def _by_scope(one: QuizPass, model: AnalysedModel, manner: Manner) -> dict[Scope | Part, ScopeEvidence]:
    cluster_Q = question_table(one, manner.split)["content_hash"].factorize()[0]
    evidence = {}
    for scope in model.scopes:
        tables = {name: table.cpu().numpy() for name, table in one.results.evidence.tables(scope).items()}
        if tables["tokens"].any():  # without worked examples nothing belongs to them
            layers, subjects = one.results.evidence.shape.layers, one.quiz.subjects
            evidence[scope] = scope_evidence(tables, layers, subjects, cluster_Q, manner.draws, manner.seed)
    return evidence


def _router(model: AnalysedModel, manner: Manner) -> str:
    traits, name = model.head.traits, type(model.head).__name__
    if not manner.trained and traits.exact_start and not traits.needs_calibration and (
        traits.trainable or name == "IdentityHead"
    ):  # fmt: skip
        return "The pretrained router"
    layers = ", ".join(map(str, model.gated.layers))
    return f"{name} on layers {layers} (scope {model.scope}, {'trained' if manner.trained else 'as configured'})"
