"""An arm's answers beside the baseline's: which runs are paired, and what each question's pair says."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from moe_tune.base.errors import DataError
from moe_tune.compare.runs import Run
from moe_tune.stats.bootstrap import paired_bootstrap
from moe_tune.stats.paired import compare_paired


class PairedAnswers:
    """An arm's answers to a split beside the baseline's, seeds in ascending order.

    Args:
        runs: The arm's runs.
        partners: The baseline's, one for all of them or one for each, by ascending seed.
        split: The split.
    """

    def __init__(self, runs: list[Run], partners: list[Run], split: str) -> None:
        ordered = sorted(runs, key=lambda run: run.seed)
        self.questions = ordered[0].questions[split]
        self.topics = list(self.questions["subject"])
        arm_SQ, baseline_SQ = _correct(ordered, split), _correct(partners, split)
        self.diff_SQ = arm_SQ.astype(np.float64) - baseline_SQ
        hashes = list(self.questions["content_hash"])
        self.result = compare_paired(baseline_SQ, arm_SQ, hashes, self.topics, [run.seed for run in ordered])
        median = self.result.seeds.index(self.result.median_seed)
        self.pair = partners[median if len(partners) > 1 else 0].questions[split], ordered[median].questions[split]

    def bootstrap(self) -> tuple[float, float]:
        """Return the 95 % interval of the paired cluster bootstrap."""
        return paired_bootstrap(self.diff_SQ, pd.factorize(self.questions["content_hash"], sort=True)[0])


def _correct(runs: list[Run], split: str) -> NDArray[np.bool_]:
    return np.stack(
        [(run.questions[split]["prediction"] == run.questions[split]["gold"]).to_numpy(dtype=bool) for run in runs]
    )


def partners_of(reference: list[Run], name: str, runs: list[Run]) -> list[Run]:
    """Return the baseline's runs that an arm's are paired with: the only one, or those of its seeds.

    Raises:
        DataError: The baseline has several runs, but none for one of the seeds.
    """
    if len(reference) == 1:
        return reference
    by_seed = {run.seed: run for run in reference}
    missing = sorted(run.seed for run in runs if run.seed not in by_seed)
    if missing:
        raise DataError(
            f"expected a baseline run for each seed of {name!r} but got none for {missing}; the baseline has "
            f"{sorted(by_seed)}. Hint: run the baseline with these seeds, or give a single baseline run."
        )
    return [by_seed[seed] for seed in sorted(run.seed for run in runs)]
