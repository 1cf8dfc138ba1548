"""The comparison of several arms with one baseline over the splits they all answered."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from moe_tune.base.errors import DataError, did_you_mean
from moe_tune.compare.answers import arm_quality, flipped
from moe_tune.compare.deciding import asked_in_several_ways, decided_together, holm
from moe_tune.compare.openings import Openings, openings
from moe_tune.compare.overlap import overlap_notes
from moe_tune.compare.pairing import PairedAnswers, partners_of
from moe_tune.compare.routing_summary import RoutingSummary, acting_share, routing_shift, summarise_routing
from moe_tune.compare.runs import (
    Run,
    evaluation_command,
    require_same_base,
    require_same_items,
    require_same_measurement,
)
from moe_tune.compare.short_answers import ShortResults, compare_short_answers
from moe_tune.compare.subjects import SubjectDifferences, subject_differences
from moe_tune.compare.text import Texts, compare_texts
from moe_tune.data.question import one_letter
from moe_tune.stats.letter_quality import LetterQuality
from moe_tune.stats.paired import PairedResult

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
        p_holm: The results' p value by split, corrected after Holm over the arms.
        subjects: Differences by subject, by split.
        routing: Routing at the answer position, by split.
        letters: Calibration and letter bias by split, mean over seeds; ``None`` without log-probabilities.
        shift: By split, which share of the routed slots go to other experts than the baseline's, 0 to 1.
        acting: By split, on which share of the questions heads acted that choose them; ``None`` where they do not.
        flips: By split, the questions that the median seed gained or lost.
        bootstrap: By split, the 95 % interval of the paired cluster bootstrap, where it was asked for.
    """

    name: str
    manifest: dict[str, Any]
    runs: tuple[str, ...]
    results: dict[str, PairedResult]
    p_holm: dict[str, float]
    subjects: dict[str, SubjectDifferences | None]
    routing: dict[str, RoutingSummary | None]
    letters: dict[str, LetterQuality | None]
    shift: dict[str, float | None]
    acting: dict[str, float | None]
    flips: dict[str, pd.DataFrame]
    bootstrap: dict[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """All arms against the baseline; the first split is the primary one.

    Attributes:
        baseline: Name of the baseline arm.
        splits: Split name to label, the primary first.
        arms: The arms by name, the baseline first.
        notes: In what the base models of the runs differ, or may differ, and which runs gave one letter to all
            questions, in sentences.
        openings: By test split, how often it was opened.
        texts: Losses on each text that all runs read, by arm.
        short_answers: Paired results on each source of short answers that all runs read, by arm.
    """

    baseline: str
    splits: dict[str, str]
    arms: dict[str, Arm]
    notes: tuple[str, ...] = ()
    openings: dict[str, Openings] = field(default_factory=dict)
    texts: Texts = field(default_factory=dict)
    short_answers: ShortResults = field(default_factory=dict)

    @property
    def primary(self) -> str:
        """The split that the headline figures belong to."""
        return next(iter(self.splits))

    @property
    def challengers(self) -> list[Arm]:
        """Every arm but the baseline."""
        return [arm for name, arm in self.arms.items() if name != self.baseline]


def compare_arms(
    arms: Mapping[str, list[Run]],
    baseline: str,
    splits: Mapping[str, str] | None = None,
    protocols: Sequence[str] = (),
    *,
    bootstrap: bool = False,
) -> Comparison:
    """Compare every arm with the baseline, question by question.

    A baseline with one run serves every seed; with several it is paired seed by seed. A decision counts after Holm's
    correction for the number of arms.

    Args:
        arms: The runs of each arm.
        baseline: The arm all others are compared with.
        splits: Split name to label, the primary first; ``None`` for all test splits.
        protocols: Splits that are wordings of one test; without, those of the same questions under three or more
            protocols.
        bootstrap: Whether to add the interval of the paired cluster bootstrap.

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
    paired = {
        name: {split: PairedAnswers(arms[name], partners_of(reference, name, arms[name]), split) for split in chosen}
        for name in (baseline, *(name for name in arms if name != baseline))
    }
    challengers = [name for name in paired if name != baseline]
    wordings = list(protocols) or asked_in_several_ways(reference[0], chosen)
    built = {}
    corrections = {split: holm({name: paired[name][split].result for name in challengers}) for split in chosen}
    for name, by_split in paired.items():
        if name == baseline:
            results = {split: replace(one.result, decision="baseline", note="") for split, one in by_split.items()}
            built[name] = _build_arm(name, arms[name], by_split, results, {}, reference[0])
            continue
        corrected = {split: corrections[split][name] for split in chosen}
        results = decided_together({split: one.result for split, one in by_split.items()}, corrected, wordings)
        built[name] = _build_arm(name, arms[name], by_split, results, corrected, reference[0])
        if bootstrap:
            built[name].bootstrap.update({split: one.bootstrap() for split, one in by_split.items()})
    ordered = {name: sorted(arms[name], key=lambda run: run.seed) for name in paired}
    partners = {name: partners_of(reference, name, runs) for name, runs in ordered.items()}
    texts, unread = compare_texts(ordered, partners)
    short_answers, unasked = compare_short_answers(ordered, partners)
    notes = (*_base_notes(reference[0], everyone), *_one_letter_notes(everyone, chosen), *unread, *unasked)
    notes += overlap_notes(everyone, chosen)
    opened = {split: openings(everyone, split) for split in chosen if split.startswith("test")}
    return Comparison(baseline, chosen, built, notes, opened, texts, short_answers)


def _one_letter_notes(runs: list[Run], splits: Mapping[str, str]) -> tuple[str, ...]:
    told = [run for run in runs if run.letters_known]
    answers = {(run.label, split): run.questions[split]["prediction"] for run in told for split in splits}
    said = {place: one_letter(given) for place, given in answers.items() if len(given) >= FEWEST}
    return tuple(f"The answers of {run} on {split}: {same}." for (run, split), same in said.items() if same)


def _base_notes(reference: Run, runs: list[Run]) -> tuple[str, ...]:
    notes = [note for run in runs for note in sorted(require_same_base(reference, run))]
    silent = [run.label for run in runs if not run.outside and "frozen_sha256" not in run.manifest["base"]]
    if silent:
        names = ", ".join(silent)
        notes.append(f"No hash of the base model's weights is recorded in {names}: nothing shows it is the same.")
    return tuple(dict.fromkeys(notes))


def _build_arm(
    name: str,
    runs: list[Run],
    paired: Mapping[str, PairedAnswers],
    results: dict[str, PairedResult],
    corrected: Mapping[str, tuple[float, float]],
    reference: Run,
) -> Arm:
    runs = sorted(runs, key=lambda run: run.seed)
    is_baseline = all(result.decision == "baseline" for result in results.values())
    routing = {split: summarise_routing([run.routing[split] for run in runs]) for split in results}
    before = {split: summarise_routing([reference.routing[split]]) for split in results}
    return Arm(
        name=name,
        manifest=runs[0].manifest,
        runs=tuple(run.label for run in runs),
        results=results,
        p_holm={split: corrected[split][0] if split in corrected else 1.0 for split in results},
        subjects={
            s: None if is_baseline else subject_differences(one.diff_SQ, one.topics) for s, one in paired.items()
        },
        routing=routing,
        letters={split: arm_quality(runs, split) for split in results},
        shift={split: routing_shift(before[split], routing[split]) for split in results},
        acting={split: acting_share(runs, split) for split in results},
        flips={split: pd.DataFrame() if is_baseline else flipped(*one.pair) for split, one in paired.items()},
    )


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
    outside = any(run.outside for run in runs)  # a log answers the one split that it agrees with
    if not names and (outside or not any(split.startswith("test") for run in runs for split in run.questions)):
        names = sorted(shared & {"validation"})
    if not names:
        lacking = next((run for run in runs if "test" not in run.questions), runs[0])
        raise DataError(
            f"expected a split that all {len(runs)} runs evaluated but got none in common "
            f"({'; '.join(f'{run.label}: {sorted(run.questions)}' for run in runs[:4])}). "
            f"Hint: evaluate them on the same split: `{evaluation_command(lacking.path, lacking.manifest)}`."
        )
    return {name: _label(name, runs[0].manifest["protocols"].get(name)) for name in names}


def _label(split: str, protocol: str | None) -> str:
    return f"{split.removesuffix(f'_{protocol}')} ({protocol})" if protocol else split
