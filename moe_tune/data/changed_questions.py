"""What sources have in common that pass on another's questions changed: what controls ask instead of them."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence

from moe_tune.data.question import Question
from moe_tune.data.source import QuestionSource, RawRow
from moe_tune.data.validation import validate_split


class ChangedQuestions(QuestionSource):
    """Another source's questions, changed.

    Args:
        source: The source.
    """

    def __init__(self, source: QuestionSource) -> None:
        self.source = source
        self.choice_counts, self.declared_subjects = source.choice_counts, source.declared_subjects
        self.answers_from = 0

    @abstractmethod
    def changed(self, questions: Sequence[Question], split: str) -> Sequence[Question]:
        """Return the questions of a split as they are passed on."""

    def rows(self, split: str) -> Iterator[RawRow]:
        questions = validate_split(self.source, split, on_bad_row="drop").questions
        for place, one in enumerate(self.changed(questions, split)):
            values = {"question": one.stem, "subject": one.subject, "choices": list(one.choices), "answer": one.answer}
            yield RawRow(f"{split}[{place}]", values)

    def splits(self) -> tuple[str, ...]:
        return self.source.splits()
