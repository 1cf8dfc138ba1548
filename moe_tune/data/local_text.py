"""Text from files of one's own: JSON lines, JSON, parquet or plain text."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from moe_tune.base.errors import ConfigError, DataError
from moe_tune.data.raw_tables import read_table, read_text
from moe_tune.data.source import RawRow
from moe_tune.data.text_source import TextSource
from moe_tune.data.validation import text_fault

TABLES, PLAIN = (".jsonl", ".json", ".parquet"), ".txt"
TEXT, MESSAGES = "text", "messages"
BLANK = re.compile(r"\n[^\S\n]*(?:\n[^\S\n]*)+")
"""What parts the documents of a single ``.txt`` file: one blank line or more."""


class LocalText(TextSource):
    """Documents from a file or a folder: a column of JSON lines, JSON or parquet, or plain text.

    Each row of a table is a document; where there is no column ``text`` but ``messages``, a conversation, which the
    tokenizer's chat template writes and of which the assistant's tokens are scored. Each ``.txt`` file of a folder is
    a document; a single ``.txt`` file holds several, with blank lines between them. A folder's files are read in the
    order of their names, and are all of one kind.

    Args:
        path: The file, or the folder.
        column: The column of a table that holds the text, or the messages.
        max_tokens: Documents that are tested on are cut at so many tokens.
        files: Pattern of the files of a folder that are read, such as ``train-*.parquet``; ``null`` reads all.

    Raises:
        ConfigError: The path is no such file or folder.
    """

    def __init__(self, path: str, column: str = TEXT, max_tokens: int = 512, files: str | None = None) -> None:
        place = Path(path)
        if not (place.is_dir() or (place.is_file() and place.suffix in (*TABLES, PLAIN))):
            raise ConfigError(
                f"expected a folder or a file ({', '.join((*TABLES, PLAIN))}) but got {path!r} (LocalText, path). "
                "Hint: a file such as held_out.jsonl with the text in the column 'text'; archives are not unpacked."
            )
        self.path, self.column, self.max_tokens, self.files = path, column, max_tokens, files

    def revision(self) -> str:
        """Return a hash of the names and bytes of all files that are read."""
        digest = hashlib.sha256()
        for file in self._files():
            digest.update(file.name.encode() + b"\x1f" + hashlib.sha256(file.read_bytes()).digest())
        return f"sha256:{digest.hexdigest()}"

    @property
    def described(self) -> str:
        return f"{self.path}, {self.revision()}"

    @property
    def more(self) -> str:
        place = Path(self.path)
        if any(file.suffix != PLAIN for file in self._files()):
            return "give more documents; each row is one."
        if place.is_dir():
            return "give more documents; each .txt file of a folder is one."
        return "give more documents; blank lines part those of a single .txt file."

    def documents(self) -> Iterator[RawRow]:
        files = self._files()
        for file in files:
            if file.suffix != PLAIN:
                yield from self._rows(file)
            elif Path(self.path).is_dir():
                yield RawRow(file.name, {"text": read_text(file)})
            else:
                parts = (part for part in BLANK.split(read_text(file)) if part.strip())
                for number, part in enumerate(parts):
                    yield RawRow(f"{file.name}[{number}]", {"text": part})

    def _rows(self, file: Path) -> Iterator[RawRow]:
        table = read_table(file)
        if not table.columns:
            raise DataError(
                f"expected documents but the file is empty ({file}, path of data.text.source or of "
                "data.test_sources.NAME). Hint: each row is one, its text in the column 'text'."
            )
        column = self.column
        if column == TEXT and TEXT not in table.columns and MESSAGES in table.columns:
            column = MESSAGES
        if column not in table.columns:
            raise DataError(
                f"expected the column {self.column!r} but got {list(table.columns)} ({file}). "
                "Hint: its column says which one holds the text (data.text.source, data.test_sources.NAME)."
            )
        for where, values in table.rows:
            found = values.get(column)
            if column == MESSAGES or isinstance(found, list):
                yield RawRow(where, {MESSAGES: found})
                continue
            fault = text_fault(found)
            yield RawRow(where, {TEXT: found}, fault and f"{column} {fault}")

    def _files(self) -> list[Path]:
        place = Path(self.path)
        found = [place] if place.is_file() else sorted(one for one in place.glob(self.files or "*") if one.is_file())
        files = [one for one in found if one.suffix in (*TABLES, PLAIN)]
        kinds = sorted({one.suffix for one in files})
        if len(kinds) != 1:
            raise DataError(
                f"expected files of one kind ({', '.join((*TABLES, PLAIN))}) but got {kinds or 'none'} ({self.path}). "
                "Hint: give the path of one file, or a folder that holds one kind."
            )
        return files
