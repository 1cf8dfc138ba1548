"""Which arms dominate the peers in the plane of target gain and source loss, and how much of the gap is closed.

``python experiments/gating_fixes/plane.py`` reads ``results/`` after the experiment and writes a ``plane.md`` beside
each ``summary.json``: of the experiment's own model and, after ``--full``, of the other models and of scope ``all``.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from statsmodels.stats.multitest import multipletests

from moe_tune import GatedModel, quiz
from moe_tune.compare.columns import points
from moe_tune.data.nano_quiz import NanoQuiz
from moe_tune.heads.identity import IdentityHead
from moe_tune.models.base_model import BaseModel
from moe_tune.reports.table import Table, interval, numbers, words
from moe_tune.studies.experiment_file import load_experiment
from moe_tune.studies.other_models import FULL
from moe_tune.tuner.oracle import routing_oracle

FOLDER = Path(__file__).parent
TARGET, SOURCE = "test", "test_nano_textbook"
PAIRS = {
    "retuned": "guarded",
    "roma": "guarded-roma",
    "oracle-distilled": "guarded-oracle",
    "dense-mixer": "guarded-dense",
    "route-regret": "guarded-regret",
    "neighbour-mix": "guarded",
    "steered": "guarded",
}
"""For each peer the arm of ours that is held against it: the guard around the peer itself, which trains the same router
with the same seed, and around plain router tuning for peers that train nothing. Fixed before these runs were tested."""
PAIRS_ALL = {"retuned-all": "guarded-all", "dense-mixer-all": "guarded-dense-all", "steered-all": "guarded-all"}
"""The same at scope ``all``."""
TOLERATED = 0.01
"""The most that may be lost on the other axis, by the interval's end."""

Split = dict[str, Any]


def main() -> None:
    """Write the pages."""
    models = {"": "nano"} | {name: str(one.folder) for name, one in load_experiment(FOLDER).models.items()}
    for name, path in models.items():
        place = FOLDER / "results" / name
        if not (place / "summary.json").is_file():
            continue
        oracle = oracle_accuracy(path)
        write_page(place, PAIRS, oracle)
        if (place / FULL / "summary.json").is_file():
            write_page(place / FULL, PAIRS_ALL, oracle)


def write_page(place: Path, pairs: dict[str, str], oracle: float) -> None:
    """Write the page of one comparison."""
    arms = _arms(place)
    parts = [
        "# The plane of target gain and source loss",
        dominance(place, pairs).markdown(),
        "*Dominates*: better on one axis, its 95 % interval above 0 and p below 0.05 after Holm's correction for the "
        "peers, and on the other at most 1 point lost by the interval's lower end. Which arm is held against which "
        "peer was fixed before these runs were tested.",
        plane(arms, oracle - arms["baseline"]["splits"][TARGET]["accuracy"]).markdown(),
        "*Of the gap*: the target gain over that of the routing oracle, which seeks each question's routing with its "
        "answer in hand (50 Adam steps at 0.05 on the logits of the answer position): over-optimistic, a bound for "
        "scope `answer`.",
        largest(arms),
    ]
    (place / "plane.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def dominance(place: Path, pairs: dict[str, str]) -> Table:
    """Return the table of peers, each with the arm of ours that is held against it."""
    found = {peer: _arms(place / f"against_{peer}")[ours]["splits"] for peer, ours in pairs.items()}
    columns = [words("peer", list(pairs)), words("ours", list(pairs.values()))]
    better: dict[str, list[bool]] = {}
    for split, label in ((TARGET, "target"), (SOURCE, "source")):
        each = [one[split] for one in found.values()]
        corrected = multipletests([one["midp"] for one in each], method="holm")[1]
        better[split] = [one["ci95"][0] > 0 and p < 0.05 for one, p in zip(each, corrected, strict=True)]
        columns.append(words(f"{label}, points", [f"{points(one['diff'])} {interval(*one['ci95'])}" for one in each]))
    held = {split: [one[split]["ci95"][0] > -TOLERATED for one in found.values()] for split in (TARGET, SOURCE)}
    dominates = [
        (better[TARGET][at] and held[SOURCE][at]) or (better[SOURCE][at] and held[TARGET][at])
        for at in range(len(pairs))
    ]
    return Table([*columns, words("dominates", ["yes" if one else "no" for one in dominates])])


def plane(arms: dict[str, Any], gap: float) -> Table:
    """Return every arm's place in the plane."""

    def each(value: Callable[[Split, Split, dict[str, Any]], Any]) -> list[Any]:
        return [value(one["splits"][TARGET], one["splits"][SOURCE], one) for one in arms.values()]

    return Table(
        [
            words("arm", list(arms)),
            words("target gain", each(lambda target, _, __: f"{points(target['diff'])} {interval(*target['ci95'])}")),
            words("source", each(lambda _, source, __: f"{points(source['diff'])} {interval(*source['ci95'])}")),
            numbers("text, perplexity ratio", each(lambda _, __, arm: arm["text"]["test_text"]["ratio"]), ".3f"),
            numbers("of the gap, %", each(lambda target, _, __: target["diff"] / gap), ".0f", 100),
            numbers("acted on: target, %", each(lambda target, _, __: target.get("acting_share")), ".1f", 100),
            numbers("source, %", each(lambda _, source, __: source.get("acting_share")), ".1f", 100),
        ]
    )


def largest(arms: dict[str, Any]) -> str:
    """Return the sentence on the largest target gain at less than one point of source loss."""
    kept = {name: one for name, one in arms.items() if one["splits"][SOURCE]["ci95"][0] > -TOLERATED}
    best = max(kept, key=lambda name: float(kept[name]["splits"][TARGET]["diff"]))
    target, source = (kept[best]["splits"][split] for split in (TARGET, SOURCE))
    return (
        f"The largest target gain whose source loss is below one point by the interval: {best}, "
        f"{points(target['diff'])} {interval(*target['ci95'])} points at {points(source['diff'])} "
        f"{interval(*source['ci95'])} "
        f"(n = {target['n']:,} questions a layout, {len(target['seeds'])} seeds)."
    )


def oracle_accuracy(path: str) -> float:
    """Return the accuracy of a model's routing oracle on the target layout's test questions."""
    base = BaseModel(path=path)
    model, family = base.load()
    gated = GatedModel(model, family, IdentityHead(), "last-5")
    questions = quiz(NanoQuiz(), base, protocol="nano_quiz", eval_batch_size=256)
    return routing_oracle(gated, questions, TARGET).summary()["over_optimistic_accuracy"]


def _arms(place: Path) -> dict[str, Any]:
    return dict(json.loads((place / "summary.json").read_text(encoding="utf-8"))["arms"])


if __name__ == "__main__":
    main()
