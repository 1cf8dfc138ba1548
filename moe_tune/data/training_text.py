"""What a configuration says of the text that routers are trained on."""

from dataclasses import dataclass
from typing import Literal

from moe_tune.data.text_source import TextSource

Task = Literal["quiz", "next_token", "both"]
"""What is trained: the answers of the quiz, the next tokens of text, or both."""


@dataclass(frozen=True)
class TrainingText:
    """Text whose next tokens are trained to be predicted, beside the quiz or in its place.

    Args:
        source: Where the documents come from.
        block: Tokens of a block, at least 2: longer documents are cut, and no block holds two documents.
        weight: Factor on its loss, above 0, where the quiz is trained too.
    """

    source: TextSource
    block: int = 512
    weight: float = 1.0
