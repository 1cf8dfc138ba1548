"""The comparison of several arms with one baseline over the splits they all answered."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from statsmodels.stats.multitest import multipletests

from moe_tune.base.errors import DataError, did_you_mean
from moe_tune.compare.routing_summary import RoutingSummary, summarise_routing
from moe_tune.compare.runs import (
    Run,
    evaluation_command,
    require_same_base,
    require_same_items,
    require_same_measurement,
)
from moe_tune.compare.subjects import SubjectDifferences, subject_differences
from moe_tune.compare.text import Texts, compare_texts
from moe_tune.data.question import one_letter
from moe_tune.stats.decision import decide
from moe_tune.stats.paired import PairedResult, compare_paired

FEWEST = 10
"""From this many answers on it is said that all are one letter."""


@dataclass(frozen=True, slots=True, eq=False)
class Arm:
    """One arm of a comparison.

    Attributes:
        name: Its name.
        manifest: Manifest of its first run: head, scope, layers, trainable parameters.
        runs: Names of its run directories, by seed.
        results: Paired result by split; the baseline's compare it with itself.
        p_holm: Exact p value by split, corrected after Holm over the arms.
        subjects: Differences by subject, by split.
        routing: Routing at the answer position, by split.
    """

    name: str
    manifest: dict[str, Any]
    runs: tuple[str, ...]
    results: dict[str, PairedResult]
    p_holm: dict[str, float]
    subjects: dict[str, SubjectDifferences | None]
    routing: dict[str, RoutingSummary | None]


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """All arms against the baseline; the first split is the primary one.

    Attributes:
        baseline: Name of the baseline arm.
        splits: Split name to label, the primary first.
        arms: The arms by name, the baseline first.
        notes: In what the base models of the runs differ, or may differ, and which runs gave one letter to all
            questions, in sentences.
        texts: Losses on each text that all runs read, by arm.
    """

    baseline: str
    splits: dict[str, str]
    arms: dict[str, Arm]
    notes: tuple[str, ...] = ()
    texts: Texts = field(default_factory=dict)

    @property
    def primary(self) -> str:
        """The split that the headline figures belong to."""
        return next(iter(self.splits))

    @property
    def challengers(self) -> list[Arm]:
        """Every arm but the baseline."""
        return [arm for name, arm in self.arms.items() if name != self.baseline]


def compare_arms(
    arms: Mapping[str, list[Run]], baseline: str, splits: Mapping[str, str] | None = None, protocols: Sequence[str] = ()
) -> Comparison:
    """Compare every arm with the baseline, question by question.

    A baseline with one run serves every seed; with several it is paired seed by seed.

    Raises:
        DataError: Runs answered different questions or were asked in different ways, lack a split, have no baseline
            run to be paired with, or other weights under the name of the same base model.
    """
    reference = arms[baseline]
    everyone = [run for runs in arms.values() for run in runs]
    chosen = _choose_splits(everyone, splits)
    for split in protocols:
        if split not in chosen:
            raise DataError(
                f"expected compared splits as protocols but got {split!r}. Hint: {did_you_mean(split, chosen)}"
            )
    for split in chosen:
        for run in everyone:
            require_same_measurement(reference[0], run, split)
            require_same_items(reference[0], run, split)
    built = {
        name: _build_arm(name, arms[name], _partners(reference, name, arms[name]), chosen, protocols, name == baseline)
        for name in (baseline, *(name for name in arms if name != baseline))
    }
    ordered = {name: sorted(arms[name], key=lambda run: run.seed) for name in built}
    texts, told = compare_texts(ordered, {name: _partners(reference, name, runs) for name, runs in ordered.items()})
    notes = (*_base_notes(reference[0], everyone), *_one_letter_notes(everyone, chosen), *told)
    comparison = Comparison(baseline, chosen, built, notes, texts)
    for split in chosen if comparison.challengers else ():
        p_values = [arm.results[split].p for arm in comparison.challengers]
        for arm, p in zip(comparison.challengers, multipletests(p_values, method="holm")[1], strict=True):
            arm.p_holm[split] = float(p)
    return comparison


def _one_letter_notes(runs: list[Run], splits: Mapping[str, str]) -> tuple[str, ...]:
    answers = {(run.path.resolve().name, split): run.questions[split]["prediction"] for run in runs for split in splits}
    said = {place: one_letter(given) for place, given in answers.items() if len(given) >= FEWEST}
    return tuple(f"The answers of {run} on {split}: {same}." for (run, split), same in said.items() if same)


def _base_notes(reference: Run, runs: list[Run]) -> tuple[str, ...]:
    notes = [note for run in runs for note in sorted(require_same_base(reference, run))]
    silent = [run.path.resolve().name for run in runs if "frozen_sha256" not in run.manifest["base"]]
    if silent:
        names = ", ".join(silent)
        notes.append(f"No hash of the base model's weights is recorded in {names}: nothing shows it is the same.")
    return tuple(dict.fromkeys(notes))


def _build_arm(
    name: str,
    runs: list[Run],
    partners: list[Run],
    splits: Mapping[str, str],
    protocols: Sequence[str],
    is_baseline: bool,
) -> Arm:
    runs = sorted(runs, key=lambda run: run.seed)
    seeds, results, subjects = [run.seed for run in runs], {}, {}
    for split in splits:
        hashes, topics = (list(runs[0].questions[split][name]) for name in ("content_hash", "subject"))
        arm_SQ, baseline_SQ = _correct(runs, split), _correct(partners, split)
        results[split] = compare_paired(baseline_SQ, arm_SQ, hashes, topics, seeds)
        diff_SQ = arm_SQ.astype(np.float64) - baseline_SQ
        subjects[split] = None if is_baseline else subject_differences(diff_SQ, topics)
    diffs = [results[split].diff for split in protocols]
    for split, result in results.items():
        if is_baseline:
            results[split] = replace(result, decision="baseline", note="")
        elif split in protocols:
            word, note = decide(result.ci95, result.ci90, result.midp, len(seeds), diffs)
            results[split] = replace(result, decision=word, note=note)
    routing = {split: summarise_routing([run.routing[split] for run in runs]) for split in splits}
    names = tuple(run.path.resolve().name for run in runs)
    return Arm(name, runs[0].manifest, names, results, dict.fromkeys(splits, 1.0), subjects, routing)


def _correct(runs: list[Run], split: str) -> NDArray[np.bool_]:
    return np.stack(
        [(run.questions[split]["prediction"] == run.questions[split]["gold"]).to_numpy(dtype=bool) for run in runs]
    )


def _partners(reference: list[Run], name: str, runs: list[Run]) -> list[Run]:
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


def _choose_splits(runs: list[Run], wanted: Mapping[str, str] | None) -> dict[str, str]:
    shared = set.intersection(*(set(run.questions) for run in runs))
    for split in wanted or ():
        if split not in shared:
            lacking = next(run for run in runs if split not in run.questions)
            known = {name for run in runs for name in run.questions}
            remedy = did_you_mean(split, known)
            if split in known:
                remedy = f"run `{evaluation_command(lacking.path, lacking.manifest, split)}`."
            raise DataError(f"expected the split {split!r} but got none in {lacking.path}. Hint: {remedy}")
    if wanted:
        return dict(wanted)
    names = sorted(split for split in shared if split.startswith("test"))
    if not names and not any(split.startswith("test") for run in runs for split in run.questions):
        names = sorted(shared & {"validation"})
    if not names:
        lacking = next((run for run in runs if "test" not in run.questions), runs[0])
        raise DataError(
            f"expected a split that all {len(runs)} runs evaluated but got none in common "
            f"({'; '.join(f'{run.path.name}: {sorted(run.questions)}' for run in runs[:4])}). "
            f"Hint: evaluate them on the same split: `{evaluation_command(lacking.path, lacking.manifest)}`."
        )
    return {name: _label(name, runs[0].manifest["protocols"].get(name)) for name in names}


def _label(split: str, protocol: str | None) -> str:
    return f"{split.removesuffix(f'_{protocol}')} ({protocol})" if protocol else split
