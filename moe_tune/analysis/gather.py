"""From passes over the questions to an analysis: every table under every scope, and the claims held against them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from moe_tune.analysis.answer_weights import committee_frame
from moe_tune.analysis.claims import claims
from moe_tune.analysis.findings import TABLES, Analysis
from moe_tune.analysis.frames import ScopeEvidence, scope_evidence
from moe_tune.analysis.kept import Part
from moe_tune.analysis.passes import AnalysedModel, QuizPass
from moe_tune.base.errors import DataError
from moe_tune.data.question import one_letter
from moe_tune.routing import Part as PromptPart
from moe_tune.routing import Scope
from moe_tune.runs.directory import environment, now
from moe_tune.stats.accuracy_estimates import accuracy_text


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


def pass_part(model: AnalysedModel, one: QuizPass, manner: Manner) -> Part:
    """Return what one pass over the questions came to, its tables under every scope and the claims held against them.

    Args:
        model: What answered.
        one: The pass.
        manner: How the analysis is made.
    """
    known = _by_scope(one, model, manner)
    questions = question_table(one, manner.split)
    tables = {"questions": questions}
    for name in TABLES:
        frames = [getattr(evidence, name).assign(shots=one.shots, scope=scope) for scope, evidence in known.items()]
        table = pd.concat(frames, ignore_index=True)
        tables[name] = table[["shots", "scope", *table.columns.drop(["shots", "scope"])]]
    if "answer" in model.scopes:
        committees = committee_frame(one.weights, questions, manner.draws, manner.seed)
        if not committees.empty:
            committees.insert(0, "scope", "answer")
            committees.insert(0, "shots", one.shots)
            tables["committees"] = committees
    base, gated, rule = model.base, model.gated, model.gated.rule
    facts = {
        "shots": one.shots,
        "accuracy": accuracy_text(one.results.correct, len(one.predictions_Q)),
        "answers": answers_text(questions),
        "permutations": max(manner.draws, *(evidence.draws for evidence in known.values())),
        "claims": claims({str(scope): evidence for scope, evidence in known.items()}, one.shots),
        "lead": (
            f"{_router(model, manner)} of {base.path}, {len(gated.gates)} layers of {rule.num_experts} "
            f"experts, top {rule.top_k}, on {len(questions):,} questions of the {manner.split} split."
        ),
        "about": {
            "model": base.path,
            "revision": base.revision or "local",
            "fingerprint": gated.fingerprint,
            "head": _router(model, manner),
            "split": manner.split,
            "protocol": one.quiz.protocol_name(manner.split),
            "questions": len(questions),
        },
        "routing": model.routing_dtype,
    }
    return Part(tables, facts)


def gather(
    passes: Sequence[Part],
    manner: Manner,
    sensitivity: pd.DataFrame,
    regret: pd.DataFrame,
    notes: Sequence[str],
    about: dict[str, Any],
) -> Analysis:
    """Return what passes over the same questions say together.

    Args:
        passes: What each came to, one per number of worked examples.
        manner: How the analysis is made.
        sensitivity: What small changes of the input change; empty where it was not measured.
        regret: How routes sampled in the last layer answer; empty where it was not measured.
        notes: Sentences for the report's section on method.
        about: Further facts for the report's head, such as the time it took.

    Raises:
        DataError: The base model is not the one that a pass kept from before was made with.
    """
    facts = [one.facts for one in passes]
    for one in facts:
        if one["about"]["fingerprint"] != facts[0]["about"]["fingerprint"]:
            raise DataError(
                f"expected one base model but the pass of {one['shots']} worked examples had the fingerprint "
                f"{one['about']['fingerprint']}, the first {facts[0]['about']['fingerprint']} (analyze). "
                "Hint: the model's files changed in between; delete the folder passes/ of the analysis."
            )
    return Analysis(
        title=f"Routing of {manner.name}",
        lead=facts[0]["lead"],
        about={
            **facts[0]["about"],
            "accuracy": {one["shots"]: one["accuracy"] for one in facts},
            "answers": {f"{one['shots']}-shot": one["answers"] for one in facts if "answers" in one},
            "routing": facts[0]["routing"],
            "permutations": max(one["permutations"] for one in facts),
            "seed": manner.seed,
            "date": now(),
            **about,
            **environment(),
        },
        claims=[claim for one in facts for claim in one["claims"]],
        notes=list(notes),
        sensitivity=sensitivity,
        regret=regret,
        committees=_found(passes, "committees"),
        **{name: pd.concat([one.tables[name] for one in passes], ignore_index=True) for name in TABLES},
    )


def is_pretrained(model: AnalysedModel, trained: bool) -> bool:
    """Whether a model routes as the pretrained router does: its head changes nothing before it is trained."""
    traits, name = model.head.traits, type(model.head).__name__
    exact = not trained and traits.exact_start and not traits.needs_calibration
    return exact and (traits.trainable or name == "IdentityHead")


def _found(passes: Sequence[Part], name: str) -> pd.DataFrame:
    """Return a table that not every pass has."""
    frames = [one.tables[name] for one in passes if name in one.tables]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def answers_text(questions: pd.DataFrame) -> str:
    """Return the letters' mean share of the vocabulary's probability, and whether all answers are one letter."""
    same = one_letter(questions["prediction"])
    mass = float(questions["letter_mass"].mean())
    return "; ".join(([] if mass != mass else [f"letter mass {mass:.3f}"]) + ([same] if same else []))


def question_table(one: QuizPass, split: str) -> pd.DataFrame:
    """Return how every question of a pass was answered, one row each."""
    names = ["id", "content_hash", "subject", "answer"]
    rows = [[getattr(question, name) for name in names] for question in one.quiz.questions(split)]
    frame = pd.DataFrame(rows, columns=names).rename(columns={"answer": "gold"})
    frame.insert(0, "shots", one.shots)
    frame = frame.assign(prediction=one.predictions_Q.tolist(), letter_mass=one.letter_mass_Q.tolist())
    return frame.assign(correct=frame["gold"] == frame["prediction"])


def _by_scope(one: QuizPass, model: AnalysedModel, manner: Manner) -> dict[Scope | PromptPart, ScopeEvidence]:
    cluster_Q = question_table(one, manner.split)["content_hash"].factorize()[0]
    evidence = {}
    for scope in model.scopes:
        tables = {name: table.cpu().numpy() for name, table in one.results.evidence.tables(scope).items()}
        if tables["tokens"].any():  # without worked examples nothing belongs to them
            layers, subjects = one.results.evidence.shape.layers, one.quiz.subjects
            evidence[scope] = scope_evidence(tables, layers, subjects, cluster_Q, manner.draws, manner.seed)
    return evidence


def _router(model: AnalysedModel, manner: Manner) -> str:
    name = type(model.head).__name__
    if is_pretrained(model, manner.trained):
        return "The pretrained router"
    layers = ", ".join(map(str, model.gated.layers))
    return f"{name} on layers {layers} (scope {model.scope}, {'trained' if manner.trained else 'as configured'})"
