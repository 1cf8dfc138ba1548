"""The nano text: what the nano OLMoE was pretrained to predict, of questions that its pretraining never saw."""

from collections.abc import Iterator
from typing import Literal

from moe_tune.base.errors import ConfigError, require
from moe_tune.data.nano_quiz import NanoQuiz
from moe_tune.data.protocol import load_protocol
from moe_tune.data.question import number_questions
from moe_tune.data.source import RawRow
from moe_tune.data.text_source import TextSource

VERSION = "nano-text-1"
LAYOUT: Literal["nano_textbook"] = "nano_textbook"
"""The layout of 999 in 1,000 of the nano OLMoE's lessons, whose every token it learned to predict."""


class NanoText(TextSource):
    """Textbook pages for the nano OLMoE: a question of the nano quiz with its choices and its answer each.

    A hash of the question says which split of the quiz it belongs to, whatever the seed, and the nano OLMoE was
    pretrained on the train split: no document of the other two was in its pretraining.

    Args:
        documents: Documents, at least 2.
        seed: Chooses which are drawn.
        max_tokens: Documents that are tested on are cut at so many tokens; a page has about 25.
        split: Whose questions: ``test`` to test on, ``validation`` or ``train`` to train on.
        layout: A protocol of the nano quiz: ``nano_textbook``, whose pages were its pretraining, or ``nano_quiz``.

    Raises:
        ConfigError: ``documents`` is below 2.

    Example:
        >>> next(NanoText().documents()).values["text"].splitlines()[-1][:7]
        'Answer:'
    """

    def __init__(
        self,
        documents: int = 400,
        seed: int = 0,
        max_tokens: int = 512,
        split: Literal["train", "validation", "test"] = "test",
        layout: Literal["nano_textbook", "nano_quiz"] = LAYOUT,
    ) -> None:
        if documents < 2:
            raise ConfigError(
                f"expected at least 2 documents but got {documents} (NanoText, documents). Hint: leave the key out."
            )
        require(seed >= 0, "a seed from 0", seed, "NanoText, seed", "the default is 0.")
        self.size, self.seed, self.max_tokens = documents, seed, max_tokens
        self.split, self.layout = split, layout

    def revision(self) -> str:
        usual = (self.split, self.layout) == ("test", LAYOUT)
        return f"{VERSION}-{self.size}-seed{self.seed}" + ("" if usual else f"-{self.split}-{self.layout}")

    def documents(self) -> Iterator[RawRow]:
        layout, size = load_protocol(self.layout), {self.split: self.size}
        rows = [one.values for one in NanoQuiz(**size, seed=self.seed).rows(self.split)]
        asked = ((row["subject"], row["question"], tuple(row["choices"]), row["answer"]) for row in rows)
        for index, question in enumerate(number_questions(asked)):
            text = layout.prompt(question) + layout.answers(question)[question.answer]
            yield RawRow(f"nano_text[{index}]", {"text": text})
