"""Text from files of one's own: JSON lines, JSON, parquet or plain text."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from moe_tune.base.errors import ConfigError, DataError
from moe_tune.data.raw_tables import read_table, read_text
from moe_tune.data.source import RawRow
from moe_tune.data.text_source import TextSource

TABLES, PLAIN = (".jsonl", ".json", ".parquet"), ".txt"
BLANK = re.compile(r"\n[^\S\n]*(?:\n[^\S\n]*)+")
"""What parts the documents of a single ``.txt`` file: one blank line or more."""


class LocalText(TextSource):
    """Documents from a file or a folder: a column of JSON lines, JSON or parquet, or plain text.

    Each row of a table is a document. So is each ``.txt`` file of a folder; a single ``.txt`` file holds several, with
    blank lines between them. A folder's files are read in the order of their names, and are all of one kind.

    Args:
        path: The file, or the folder.
        column: The column of a table that holds the text.
        max_tokens: Documents are cut at so many tokens.

    Raises:
        ConfigError: The path is no such file or folder.
    """

    def __init__(self, path: str, column: str = "text", max_tokens: int = 512) -> None:
        place = Path(path)
        if not (place.is_dir() or (place.is_file() and place.suffix in (*TABLES, PLAIN))):
            raise ConfigError(
                f"expected a folder or a file ({', '.join((*TABLES, PLAIN))}) but got {path!r} (LocalText, path). "
                "Hint: a file such as held_out.jsonl with the text in the column 'text'; archives are not unpacked."
            )
        self.path, self.column, self.max_tokens = path, column, max_tokens

    def revision(self) -> str:
        """Return a hash of the names and bytes of all files that are read."""
        digest = hashlib.sha256()
        for file in self._files():
            digest.update(file.name.encode() + b"\x1f" + hashlib.sha256(file.read_bytes()).digest())
        return f"sha256:{digest.hexdigest()}"

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
        if self.column not in table.columns:
            raise DataError(
                f"expected the column {self.column!r} but got {list(table.columns)} ({file}). "
                "Hint: --data.test_sources.NAME.column says which one holds the text."
            )
        for where, values in table.rows:
            text = values.get(self.column)
            fault = None if isinstance(text, str) else f"{self.column} is no text but {type(text).__name__}"
            yield RawRow(where, {"text": text}, fault)

    def _files(self) -> list[Path]:
        place = Path(self.path)
        found = [place] if place.is_file() else sorted(one for one in place.iterdir() if one.is_file())
        files = [one for one in found if one.suffix in (*TABLES, PLAIN)]
        kinds = sorted({one.suffix for one in files})
        if len(kinds) != 1:
            raise DataError(
                f"expected files of one kind ({', '.join((*TABLES, PLAIN))}) but got {kinds or 'none'} ({self.path}). "
                "Hint: give the path of one file, or a folder that holds one kind."
            )
        return files
