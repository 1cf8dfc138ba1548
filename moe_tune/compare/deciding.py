"""What turns the results of all arms into decisions: the correction for their number, and agreement of protocols."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from statsmodels.stats.multitest import multipletests

from moe_tune.compare.runs import Run
from moe_tune.stats.decision import decide
from moe_tune.stats.paired import PairedResult


def holm(results: Mapping[str, PairedResult]) -> dict[str, tuple[float, float]]:
    """Return each arm's exact and mid-p value, corrected for the number of arms."""
    if not results:
        return {}
    exact = multipletests([one.p for one in results.values()], method="holm")[1]
    mid = multipletests([one.midp for one in results.values()], method="holm")[1]
    return {name: (float(p), float(midp)) for name, p, midp in zip(results, exact, mid, strict=True)}


def decided_together(
    results: Mapping[str, PairedResult], corrected: Mapping[str, tuple[float, float]], wordings: Sequence[str]
) -> dict[str, PairedResult]:
    """Return an arm's results with their decisions.

    Args:
        results: By split.
        corrected: Exact and mid-p value by split, corrected for the number of arms.
        wordings: Splits that are wordings of one test: two thirds of them have to agree in sign.
    """
    diffs = [results[split].diff for split in wordings]
    decided = {}
    for split, result in results.items():
        agreeing = diffs if split in wordings else []
        word, note = decide(
            result.ci95, result.ci90, result.midp, len(result.seeds), agreeing, corrected=corrected[split][1]
        )
        decided[split] = replace(result, decision=word, note=note)
    return decided


def asked_in_several_ways(run: Run, splits: Mapping[str, str]) -> list[str]:
    """Return the splits that hold the same questions under three or more protocols; none if there are fewer."""
    alike: dict[frozenset[str], dict[str, str]] = {}
    for split in splits:
        if protocol := run.manifest["protocols"].get(split):
            alike.setdefault(frozenset(run.questions[split]["id"]), {})[protocol] = split
    most = max(alike.values(), key=len, default={})
    return list(most.values()) if len(most) >= 3 else []
