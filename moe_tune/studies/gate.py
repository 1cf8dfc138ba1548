"""An experiment's gate: no gain is reported before the baseline answers as another program says the model does."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from moe_tune.base.errors import DataError, did_you_mean
from moe_tune.compare.agreement import letters_beside
from moe_tune.compare.outside import SPLIT, is_outside, load_outside
from moe_tune.compare.runs import Run
from moe_tune.studies.experiment_words import fault

KEYS = ("samples", "agreement")
FORM = "gate: {samples: samples, agreement: 0.999}"
AGREEMENT = 0.999
"""Least share of equal letters where the file says none."""


@dataclass(frozen=True, slots=True)
class Gate:
    """What an experiment asks of its baseline.

    Attributes:
        samples: File or folder of lm-eval's samples of the same model; it need not be there.
        agreement: Least share of the questions with the same letter.
    """

    samples: Path
    agreement: float

    def log(self) -> Run | None:
        """Read the samples; ``None`` where there are none.

        Raises:
            DataError: They are damaged, or of several models.
        """
        place = self.samples
        if place.is_dir() and not is_outside(place):  # lm-eval makes a folder for each model below --output_path
            below = sorted(one for one in place.iterdir() if one.is_dir() and is_outside(one))
            if len(below) > 1:
                raise DataError(
                    f"expected the samples of one model but got those of {', '.join(one.name for one in below)} "
                    f"({place}). Hint: give one of the folders as gate.samples."
                )
            if not below:
                return None
            place = below[0]
        return load_outside(place) if place.exists() else None


@dataclass(frozen=True, slots=True)
class GateState:
    """Whether the gate of an experiment is open, and why.

    Attributes:
        open: Whether gains may be reported.
        reason: Why, as part of a sentence.
        needed: Least share of the questions with the same letter.
        questions: Questions that the baseline answered.
        shared: Those that the samples hold.
        equal: Those with the same letter.
        differing: The questions with another letter; ``None`` where no samples were read.
    """

    open: bool
    reason: str
    needed: float
    questions: int
    shared: int = 0
    equal: int = 0
    differing: pd.DataFrame | None = None

    @property
    def said(self) -> str:
        """The state in a sentence."""
        return f"Gate {'open' if self.open else 'closed, no gain is reported'}: {self.reason}."

    def summary(self) -> dict[str, Any]:
        """Return what the results' summary says of it."""
        return {key: value for key, value in asdict(self).items() if key != "differing"}


def read_gate(file: Path, values: dict[str, Any]) -> Gate | None:
    """Return what ``gate:`` says; ``None`` where the experiment has none.

    Raises:
        ConfigError: It is not of the form.
    """
    if "gate" not in values:
        return None
    given = values["gate"]
    if not isinstance(given, dict):
        raise fault(file, "where the samples are for 'gate'", repr(given), FORM)
    for key in given:
        if key not in KEYS:
            raise fault(file, "known keys in gate", repr(key), did_you_mean(str(key), KEYS))
    samples, share = given.get("samples"), given.get("agreement", AGREEMENT)
    if not isinstance(samples, str) or not samples:
        raise fault(file, "a file or folder for gate.samples", repr(samples), FORM)
    if type(share) not in (int, float) or not 0 < share <= 1:
        raise fault(file, "a share above 0 and at most 1 for gate.agreement", repr(share), FORM)
    if values.get("models"):
        raise fault(file, "a gate or other models", "both", "samples are those of one model.")
    return Gate(Path(samples) if Path(samples).exists() else file.parent / samples, float(share))


def gate_state(gate: Gate, baseline: Run, split: str, log: Run | None) -> GateState:
    """Return whether the baseline's letters let gains be reported.

    Every question must be in the samples, which may hold more.

    Args:
        gate: What is asked.
        baseline: The baseline's run.
        split: The split whose letters are compared.
        log: The samples, as ``gate.log`` reads them.

    Raises:
        DataError: The baseline's run lacks the split.
    """
    if split not in baseline.questions:
        raise DataError(
            f"expected the split {split!r} but got {', '.join(baseline.questions)} ({baseline.path}). "
            "Hint: the first of the splits in experiment.yaml is the one that the gate is about."
        )
    asked = len(baseline.questions[split])
    if log is None:
        return GateState(False, f"there are no samples of lm-eval in {gate.samples}", gate.agreement, asked)
    if not log.letters_known:
        reason = f"{log.label} tells right and wrong, not which letter was given"
        return GateState(False, reason, gate.agreement, asked)
    found = letters_beside(baseline, split, log)
    passed = not found.missing and found.equal >= gate.agreement * asked - 1e-9
    if found.missing:
        reason = f"{found.missing:,} of {asked:,} questions are not in the samples {log.label}"
    else:
        share = f"{found.equal:,} of {asked:,} questions ({100 * found.equal / asked:.2f} %)"
        least = f"{'at least' if passed else 'fewer than'} {100 * gate.agreement:g} %"
        reason = f"our letters equal those of the samples {log.label} on {share}, {least}"
        reason += _asked_otherwise(baseline, split, log)
    return GateState(passed, reason, gate.agreement, asked, found.shared, found.equal, found.differing)


def closed(file: Path, state: GateState) -> DataError:
    """Return the error that a run of the experiment ends with while its gate is closed."""
    return DataError(
        f"expected an open gate but got a closed one: {state.reason} ({file}, gate). "
        "Hint: the baseline alone is reported; put samples of lm-eval (--log_samples) there, of the same model, "
        "protocol and examples, and run the same command again: finished runs are kept."
    )


def _asked_otherwise(baseline: Run, split: str, log: Run) -> str:
    """Return in which number of worked examples run and log differ, where both tell it."""
    prompts = [run.manifest.get("data", {}).get("prompts", {}) for run in (baseline, log)]
    ours, theirs = prompts[0].get(split, {}).get("few_shot"), prompts[1].get(SPLIT, {}).get("few_shot")
    return "" if None in (ours, theirs) or ours == theirs else f"; ours saw {ours} worked examples, theirs {theirs}"
