"""A fault case: what is broken on purpose, what has to come of it, and how it is tried."""

from collections.abc import Callable
from dataclasses import dataclass

from moe_tune.faults.trial import Trial


@dataclass(frozen=True, slots=True)
class Case:
    """One fault.

    Attributes:
        kind: Its number or group in the table, such as ``F4``, ``D7`` or ``config``.
        name: What is broken, in a few words.
        expected: What has to come of it, such as ``exit 75, resumed bit for bit``.
        attempt: Breaks it, looks at code, message and files, and returns what came, in the words of ``expected``
            where all is well.
        alone: Whether it has to run with no other beside it, such as for what it measures.
    """

    kind: str
    name: str
    expected: str
    attempt: Callable[[Trial], str]
    alone: bool = False
