"""Questions from files of one's own, in whatever layout people keep them."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from moe_tune.base.errors import ConfigError, DataError
from moe_tune.data.folder_layout import SplitFile, first_data_file, read_in_order, split_files
from moe_tune.data.formats.format import Reading
from moe_tune.data.question import LETTERS
from moe_tune.data.raw_tables import SUFFIXES
from moe_tune.data.recognised import QuestionReader
from moe_tune.data.source import QuestionSource, RawRow


class LocalFiles(QuestionSource):
    """Questions from a folder or a file: JSON lines, JSON, parquet, CSV or TSV, recognised by their columns.

    A folder holds ``<split>.jsonl`` and the like, shards ``<split>-00000-of-00001.parquet``, ``<subject>_<split>.csv``,
    or folders of them; ``val`` may stand for ``validation``. ``docs/data.md`` has an example of every kind.

    Args:
        path: The folder, or one file (a test split, unless its name says another).
        choice_counts: The numbers of choices a question may have, each from 2 to 16; ``null`` takes all of them.
        columns: Column by role, where they are not recognised: ``question``, ``choices`` (one, or a list of them),
            ``answer``, ``subject``; a value that begins with ``=`` is the same for every row.
        answers_from: What whole numbers as answers count from; ``null`` means 0, and looks for signs of 1.
        corrected: Whether MMLU-Redux's questions with a wrong key are asked too, with the corrected key.

    Raises:
        ConfigError: The path does not exist, a count is out of range, or ``columns`` lacks a role.
    """

    def __init__(
        self,
        path: str,
        choice_counts: list[int] | None = None,
        columns: dict[str, str | list[str]] | None = None,
        answers_from: Literal[0, 1] | None = None,
        corrected: bool = False,
    ) -> None:
        counts = list(range(2, len(LETTERS) + 1)) if choice_counts is None else choice_counts
        if not counts or not all(2 <= count <= len(LETTERS) for count in counts):
            raise ConfigError(
                f"expected counts from 2 to {len(LETTERS)} but got {counts} (data.source.choice_counts). Hint: use [4]."
            )
        place = Path(path)
        if not (place.is_dir() or (place.is_file() and place.suffix in SUFFIXES)):
            raise ConfigError(
                f"expected a folder or a file ({', '.join(SUFFIXES)}) but got {path!r} (data.source.path). "
                "Hint: a folder with files such as test.jsonl; archives are not unpacked."
            )
        self.path = path
        self.choice_counts = frozenset(counts)
        self.columns, self.answers_from, self.corrected = columns, answers_from, corrected
        self._reader = QuestionReader(Reading(columns, answers_from, corrected))

    def splits(self) -> tuple[str, ...]:
        return tuple(self._files())

    def revision(self) -> str:
        """Return a hash of the names and bytes of all files that are read."""
        digest = hashlib.sha256()
        for file in read_in_order(self._files()):
            digest.update(file.name.encode() + b"\x1f" + hashlib.sha256(file.read_bytes()).digest())
        return f"sha256:{digest.hexdigest()}"

    def rows(self, split: str) -> Iterator[RawRow]:
        files = self._files()
        if split not in files:
            seen = None if files else first_data_file(Path(self.path))
            one = f"--data.source.path {seen} reads one file; or " if seen else ""
            raise DataError(
                f"expected one of the splits {list(files)} but got {split!r} ({self.path}). "
                f"Hint: {one}add {split}.jsonl, {split}.parquet or <subject>_{split}.csv."
            )
        yield from self._reader.rows(files[split], split)

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(self._reader.notes)

    def _files(self) -> dict[str, list[SplitFile]]:
        return split_files(Path(self.path))
