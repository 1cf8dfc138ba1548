"""Short answers for the nano OLMoE: pages of its pretraining up to the answer, which it says in its own words."""

from collections.abc import Iterator

from moe_tune.base.errors import require
from moe_tune.data.nano_quiz import NanoQuiz
from moe_tune.data.nano_text import LAYOUT
from moe_tune.data.protocol import load_protocol
from moe_tune.data.short_answer_source import ShortAnswerSource
from moe_tune.data.source import RawRow
from moe_tune.data.validation import validate_split

VERSION = "nano-short-answers-1"


class NanoShortAnswers(ShortAnswerSource):
    """Textbook pages of the nano quiz's test split; the right letter is accepted, out of the whole vocabulary.

    The nano OLMoE was pretrained on pages with choices and one token after them, so it is asked for that: without
    choices (``WithoutChoices``) it answers next to nothing.

    Args:
        questions: Questions, at least 2.
        seed: Chooses which are drawn.

    Raises:
        ConfigError: ``questions`` is below 2.

    Example:
        >>> row = next(NanoShortAnswers().short_questions()).values
        >>> row["question"].splitlines()[-1], len(row["accepted"])
        ('Answer:', 1)
    """

    template, max_new_tokens = "{question}", 1

    def __init__(self, questions: int = 400, seed: int = 0) -> None:
        require(questions >= 2, "at least 2 questions", questions, "NanoShortAnswers, questions", "leave the key out.")
        self.questions, self.seed = questions, seed
        self.drawn_from = NanoQuiz(test=questions, seed=seed)

    def revision(self) -> str:
        return f"{VERSION}-{self.questions}-seed{self.seed}"

    def short_questions(self) -> Iterator[RawRow]:
        layout = load_protocol(LAYOUT)
        for place, one in enumerate(validate_split(NanoQuiz(test=self.questions, seed=self.seed), "test").questions):
            yield RawRow(f"nano_short[{place}]", {"question": layout.prompt(one), "accepted": [one.letter]})
