"""Questions of any source asked without their choices: what a quiz gain leaves of free answers."""

from collections.abc import Iterator

from moe_tune.data.short_answer_source import NEW_TOKENS, PLAIN, ShortAnswerSource
from moe_tune.data.source import QuestionSource, RawRow
from moe_tune.data.validation import validate_split


class WithoutChoices(ShortAnswerSource):
    """The test questions of a multiple-choice source without their choices; the right choice's text is accepted.

    None of them is trained on. What asks for one of its choices ("which of the following") stays and is hardly ever
    answered, by either router.

    Args:
        source: The source.
        template: The prompt, with ``{question}`` where the question stands.
        max_new_tokens: At most so many tokens are generated.
    """

    def __init__(self, source: QuestionSource, template: str = PLAIN, max_new_tokens: int = NEW_TOKENS) -> None:
        self.source = self.drawn_from = source
        self.template, self.max_new_tokens = template, max_new_tokens

    def revision(self) -> str:
        """Return the source's revision, and what was left out."""
        return f"{self.source.revision()}, without choices"

    @property
    def notes(self) -> tuple[str, ...]:
        return self.source.notes

    def short_questions(self) -> Iterator[RawRow]:
        read = validate_split(self.source, "test", on_bad_row="drop")
        for place, one in enumerate(read.questions):
            yield RawRow(f"test[{place}]", {"question": one.stem, "accepted": [one.choices[one.answer]]})
        for bad in read.dropped:
            yield RawRow(bad.where, {}, bad.reason)
