"""How often the compared test was opened, by all that the ledger and the runs know."""

from collections.abc import Iterable
from dataclasses import dataclass

from moe_tune.compare.runs import Run
from moe_tune.runs.ledger import openings_of, question_lines, test_content


@dataclass(frozen=True, slots=True)
class Openings:
    """The openings of a test.

    Attributes:
        test: 16 hex digits of its content.
        count: How many different ones are known.
        unknown: Runs, and logs of other programs, whose own opening is in no ledger.
    """

    test: str
    count: int
    unknown: tuple[str, ...]

    def corrected(self, p: float) -> float:
        """Return a p value corrected for the number of openings, after Bonferroni."""
        return min(1.0, p * max(self.count, 1))


def openings(runs: Iterable[Run], split: str) -> Openings:
    """Return how often the test was opened that some runs answered."""
    everyone = list(runs)
    test = test_content(question_lines(everyone[0].questions[split]))
    known = openings_of(test, [run.path for run in everyone if not run.outside])
    names = {name for one in known for name in (str(one["run"]), *one["also"])}
    unknown = [run.label for run in everyone if run.outside or run.label not in names]
    return Openings(test, len(known), tuple(dict.fromkeys(unknown)))
