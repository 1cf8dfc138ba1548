"""How well the arms of a comparison answer the questions of each source of short answers beside the baseline."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from moe_tune.base.errors import DataError
from moe_tune.compare.beside import compared_by_all
from moe_tune.compare.deciding import decided_together, holm
from moe_tune.compare.runs import Run
from moe_tune.stats.paired import PairedResult, compare_paired

ShortResults = dict[str, dict[str, PairedResult]]
"""Results by source and by arm, the baseline first."""


def compare_short_answers(
    arms: Mapping[str, list[Run]], partners: Mapping[str, list[Run]]
) -> tuple[ShortResults, tuple[str, ...]]:
    """Compare every arm with the baseline on each source that all runs answered, as the answers to a split of letters.

    Args:
        arms: The runs of each arm by seed, the baseline first.
        partners: The baseline's runs that those of each arm are paired with: one, or one per seed.

    Returns:
        The results, decided after Holm's correction for the arms, and a sentence for each source that is not compared.

    Raises:
        DataError: Runs were asked different questions under one name, or in different ways.
    """

    def paired(arm: str, name: str) -> PairedResult:
        hashes = list(arms[arm][0].short_answers[name]["content_hash"])
        right_SQ, seeds = _correct(arms[arm], name), [run.seed for run in arms[arm]]
        return compare_paired(_correct(partners[arm], name), right_SQ, hashes, [""] * len(hashes), seeds)

    words = ("source of short answers", "question")
    results, notes = compared_by_all(arms, lambda run: run.short_answers, words, require_same_asked, paired)
    return {name: _decided(by_arm) for name, by_arm in results.items()}, notes


def require_same_asked(reference: Run, other: Run, name: str) -> None:
    """Refuse to compare runs that were asked other questions, accepted other answers, or allowed other lengths.

    Raises:
        DataError: They were.
    """
    ours, theirs = _asked(reference, name), _asked(other, name)
    if differ := sum(ours.get(one) != theirs.get(one) for one in ours.keys() | theirs.keys()):
        raise DataError(
            f"expected the same {len(ours):,} short questions, asked alike, but got {differ:,} that differ "
            f"({reference.label} and {other.label}, {name}). "
            "Hint: test both runs with one source, template and data.limit_test under data.test_sources."
        )
    most = [_most_tokens(run, name) for run in (reference, other)]
    if most[0] != most[1]:
        raise DataError(
            f"expected the same max_new_tokens but got {most[0]} in {reference.label} and {most[1]} in {other.label} "
            f"({name}). Hint: test both runs with one max_new_tokens under data.test_sources."
        )


def corrected(by_arm: Mapping[str, PairedResult]) -> dict[str, float]:
    """Return the p value of each arm but the baseline, corrected after Holm for their number."""
    return {arm: p for arm, (p, _) in holm(_challengers(by_arm)).items()}


def summarise_short_answers(results: ShortResults, arm: str) -> dict[str, Any]:
    """Return an arm's figures on every source as plain values; nothing where none was asked."""
    told: dict[str, Any] = {}
    for name, by_arm in results.items():
        one = by_arm[arm]
        figures: dict[str, Any] = {
            "exact_match": one.accuracy,
            "baseline_exact_match": one.baseline_accuracy,
            "diff": one.diff,
        }
        figures |= {"ci95": list(one.ci95), "p": one.p, "midp": one.midp, "p_holm": corrected(by_arm).get(arm, 1.0)}
        figures |= {"n": one.n, "clusters": one.clusters, "n01": one.n01, "n10": one.n10, "test": one.test}
        figures |= {"decision": one.decision, "note": one.note}
        told[name] = figures | {"seeds": list(one.seeds), "seed_diffs": list(one.seed_diffs)}
    return {"short_answers": told} if told else {}


def _decided(by_arm: Mapping[str, PairedResult]) -> dict[str, PairedResult]:
    p_values = holm(_challengers(by_arm))
    decided = {arm: decided_together({"": by_arm[arm]}, {"": p_values[arm]}, ())[""] for arm in p_values}
    return {arm: decided.get(arm) or replace(one, decision="baseline", note="") for arm, one in by_arm.items()}


def _challengers(by_arm: Mapping[str, PairedResult]) -> dict[str, PairedResult]:
    baseline = next(iter(by_arm))
    return {arm: one for arm, one in by_arm.items() if arm != baseline}


def _correct(runs: list[Run], name: str) -> NDArray[np.bool_]:
    return np.stack([run.short_answers[name]["correct"].to_numpy(dtype=np.bool_) for run in runs])


def _asked(run: Run, name: str) -> dict[str, tuple[str, tuple[str, ...]]]:
    table: pd.DataFrame = run.short_answers[name]
    accepted = (tuple(sorted(texts)) for texts in table["accepted"])
    return dict(zip(table["id"], zip(table["prompt"], accepted, strict=True), strict=True))


def _most_tokens(run: Run, name: str) -> Any:
    return run.manifest.get("data", {}).get("test_sources", {}).get(name, {}).get("max_new_tokens")
