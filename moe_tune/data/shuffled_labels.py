"""Questions whose training labels are dealt out anew: a control for leakage and faults of the measurement."""

from collections.abc import Sequence
from dataclasses import replace
from random import Random

from moe_tune.base.errors import require
from moe_tune.data.changed_questions import ChangedQuestions
from moe_tune.data.question import Question
from moe_tune.data.source import QuestionSource


class ShuffledLabels(ChangedQuestions):
    """Another source's questions, of which the training split's right answers are dealt out anew.

    What is learned from them can only be a fault of the measurement, or the letters' frequencies, which stay.

    Args:
        source: The source.
        seed: Of the dealing, from 0.
    """

    def __init__(self, source: QuestionSource, seed: int = 0) -> None:
        require(seed >= 0, "a seed from 0", seed, "ShuffledLabels, seed", "the default is 0.")
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
