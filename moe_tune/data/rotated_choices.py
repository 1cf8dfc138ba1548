"""Questions with their choices moved on: a control for lean to letters."""

from collections.abc import Sequence
from dataclasses import replace

from moe_tune.base.errors import require
from moe_tune.data.changed_questions import ChangedQuestions
from moe_tune.data.question import Question
from moe_tune.data.source import QuestionSource


class RotatedChoices(ChangedQuestions):
    """Another source's questions with their choices moved on cyclically, the right answer with them.

    A gain that is a preference for letters does not survive it.

    Args:
        source: The source.
        by: How many letters each choice moves on, from 0.
    """

    def __init__(self, source: QuestionSource, by: int = 1) -> None:
        require(by >= 0, "0 or more letters", by, "by", "1, 2 and 3 give every order of four choices.")
        super().__init__(source)
        self.by = by

    def changed(self, questions: Sequence[Question], split: str) -> Sequence[Question]:
        """Return the questions with their choices moved on."""
        return [self._moved(one) for one in questions]

    def _moved(self, one: Question) -> Question:
        count = len(one.choices)
        choices = tuple(one.choices[(place - self.by) % count] for place in range(count))
        return replace(one, choices=choices, answer=(one.answer + self.by) % count)

    def revision(self) -> str:
        """Return the source's revision and the move."""
        return f"{self.source.revision()}, choices moved by {self.by}"
