"""Short answers from a file of one's own: JSON lines, JSON or parquet."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from moe_tune.base.errors import ConfigError, DataError, require
from moe_tune.data.raw_tables import read_table
from moe_tune.data.short_answer_source import NEW_TOKENS, PLAIN, ShortAnswerSource
from moe_tune.data.source import RawRow

TABLES = (".jsonl", ".json", ".parquet")


class LocalShortAnswers(ShortAnswerSource):
    """Questions from a file, a row each, with the text of the answer or a list of texts that are accepted.

    Args:
        path: The file: JSON lines, a JSON array or parquet.
        question: The column that holds the question.
        answer: The column that holds what is accepted.
        template: The prompt, with ``{question}`` where the question stands.
        max_new_tokens: At most so many tokens are generated.

    Raises:
        ConfigError: The path is no such file, no token may be generated, or the template has no question.
    """

    def __init__(
        self,
        path: str,
        question: str = "question",
        answer: str = "answer",
        template: str = PLAIN,
        max_new_tokens: int = NEW_TOKENS,
    ) -> None:
        hint = f"--data.test_sources.NAME.max_new_tokens {NEW_TOKENS} is the default."
        wanted = "max_new_tokens of short answers from 1"
        require(max_new_tokens >= 1, wanted, max_new_tokens, "LocalShortAnswers, max_new_tokens", hint)
        asked = "{question}" in template
        hint = "--data.test_sources.NAME.template 'Question: {question} Answer:', or leave it out."
        require(asked, "{question} in the template of short answers", template, "LocalShortAnswers, template", hint)
        place = Path(path)
        if not (place.is_file() and place.suffix in TABLES):
            raise ConfigError(
                f"expected a file ({', '.join(TABLES)}) but got {path!r} (LocalShortAnswers, path). "
                "Hint: a file such as free.jsonl with the columns 'question' and 'answer'."
            )
        self.path, self.question, self.answer = path, question, answer
        self.template, self.max_new_tokens = template, max_new_tokens

    def revision(self) -> str:
        """Return a hash of the file's bytes."""
        return f"sha256:{hashlib.sha256(Path(self.path).read_bytes()).hexdigest()}"

    @property
    def described(self) -> str:
        return f"{self.path}, {self.revision()}"

    def short_questions(self) -> Iterator[RawRow]:
        table = read_table(Path(self.path))
        if lacking := [name for name in (self.question, self.answer) if name not in table.columns]:
            raise DataError(
                f"expected the columns {lacking} but got {list(table.columns)} ({self.path}). "
                "Hint: --data.test_sources.NAME.question and .answer say which ones hold them."
            )
        for where, values in table.rows:
            yield RawRow(where, {"question": values.get(self.question), "accepted": _texts(values.get(self.answer))})


def _texts(answer: Any) -> Any:
    """Return the accepted texts of a cell as a list; whole numbers are their text."""
    listed = list(answer) if isinstance(answer, list | tuple | np.ndarray) else [answer]
    return [str(one) if isinstance(one, int) and not isinstance(one, bool) else one for one in listed]
