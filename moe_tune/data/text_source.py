"""The contract of a text source: documents whose tokens are predicted, from wherever they live."""

from abc import abstractmethod
from collections.abc import Iterator

from moe_tune.data.source import RawRow, Source


class TextSource(Source):
    """Where text comes from, to be tested on (``data.test_sources``) or trained on (``data.text``).

    Attributes:
        max_tokens: Documents that are tested on are cut at so many tokens, at least 2.
    """

    max_tokens: int = 512

    @property
    def more(self) -> str:
        """How the source is given more documents, for messages."""
        return "give the source more documents."

    @abstractmethod
    def documents(self) -> Iterator[RawRow]:
        """Yield the documents in a stable order, each a row whose one value is ``text`` or ``messages``."""
