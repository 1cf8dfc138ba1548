"""Sources that pass on another's questions changed: what controls ask instead of the real thing."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from random import Random

from moe_tune.base.errors import require
from moe_tune.data.question import Question
from moe_tune.data.source import QuestionSource, RawRow
from moe_tune.data.validation import validate_split


class _Changed(QuestionSource):
    def __init__(self, source: QuestionSource) -> None:
        self.source = source
        self.choice_counts, self.declared_subjects = source.choice_counts, source.declared_subjects
        self.answers_from = 0

    @abstractmethod
    def changed(self, questions: Sequence[Question], split: str) -> Sequence[Question]: ...

    def rows(self, split: str) -> Iterator[RawRow]:
        questions = validate_split(self.source, split, on_bad_row="drop").questions
        for place, one in enumerate(self.changed(questions, split)):
            values = {"question": one.stem, "subject": one.subject, "choices": list(one.choices), "answer": one.answer}
            yield RawRow(f"{split}[{place}]", values)

    def splits(self) -> tuple[str, ...]:
        return self.source.splits()


class RotatedChoices(_Changed):
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


class ShuffledLabels(_Changed):
    """Another source's questions, of which the training split's right answers are dealt out anew.

    What is learned from them can only be a fault of the measurement, or the letters' frequencies, which stay.

    Args:
        source: The source.
        seed: Of the dealing, from 0.
    """

    def __init__(self, source: QuestionSource, seed: int = 0) -> None:
        super().__init__(source)
        self.seed = seed

    def changed(self, questions: Sequence[Question], split: str) -> Sequence[Question]:
        """Return the questions; those of the training split with answers of other questions of as many choices."""
        if split != "train":
            return questions
        dealt: dict[int, list[int]] = {}
        for one in questions:
            dealt.setdefault(len(one.choices), []).append(one.answer)
        for count in sorted(dealt):
            Random(f"{self.seed} {count}").shuffle(dealt[count])
        return [replace(one, answer=dealt[len(one.choices)].pop()) for one in questions]

    def revision(self) -> str:
        """Return the source's revision and the seed of the dealing."""
        return f"{self.source.revision()}, training labels dealt with seed {self.seed}"
