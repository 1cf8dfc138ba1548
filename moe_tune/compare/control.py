"""What a control came to: one line of the report on whether it was the router."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from moe_tune.reports.table import DASH, Table, words

Outcome = Literal["passed", "failed", "reported", "not run"]


@dataclass(frozen=True, slots=True)
class Control:
    """What one control came to.

    Attributes:
        code: ``C1`` to ``C9``.
        control: What was done.
        excludes: Which simpler explanation it speaks of.
        found: What came of it.
        criterion: When it is passed; empty where it is only reported.
        outcome: Whether it was.
    """

    code: str
    control: str
    excludes: str
    found: str
    criterion: str
    outcome: Outcome


def control_table(controls: Sequence[Control]) -> Table:
    """Return the table of controls: what was done, against which explanation, what came of it, and the outcome."""
    tones: dict[Outcome, str] = {"passed": "good", "failed": "bad", "reported": "muted", "not run": "open"}
    return Table(
        [
            words("control", [f"{one.code} {one.control}" for one in controls]),
            words("speaks of", [one.excludes for one in controls]),
            words("found, points", [one.found for one in controls]),
            words("passes if", [one.criterion or DASH for one in controls]),
            words("outcome", [one.outcome for one in controls], [tones[one.outcome] for one in controls]),
        ],
        title="controls",
    )
