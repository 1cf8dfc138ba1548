"""The contract of a source of short answers: questions that are answered in words of the model's own."""

from abc import abstractmethod
from collections.abc import Iterator

from moe_tune.data.source import QuestionSource, RawRow, Source

PLAIN = "Question: {question}\nAnswer:"
"""The prompt where none is given."""
NEW_TOKENS = 16
"""The most new tokens where no number is given."""


class ShortAnswerSource(Source):
    """Where questions come from that have no choices; they are tested on and never trained on.

    Attributes:
        template: The prompt, with ``{question}`` where the question stands.
        max_new_tokens: At most so many tokens are generated, at least 1.
        drawn_from: The source whose test questions these are, which are then kept out of training; ``None`` where
            nobody knows.
    """

    template: str = PLAIN
    max_new_tokens: int = NEW_TOKENS
    drawn_from: QuestionSource | None = None

    @abstractmethod
    def short_questions(self) -> Iterator[RawRow]:
        """Yield the questions in a stable order, each a row of ``question`` and ``accepted``, a list of texts."""
