"""Questions from local files: JSON lines, parquet, or CSV in the layout of Hendrycks et al."""

import csv
import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from moe_tune.base.errors import ConfigError, DataError
from moe_tune.data.parquet_rows import parquet_rows
from moe_tune.data.source import QuestionSource, RawRow

SPLITS = ("train", "validation", "test", "dev")
SUFFIXES = (".jsonl", ".parquet", ".csv")


class LocalFiles(QuestionSource):
    """Questions from a folder with one file per split, or one CSV file per subject and split.

    - ``<split>.jsonl`` or ``<split>.parquet``: the columns question, subject, choices and answer.
    - ``<subject>_<split>.csv``, or the same inside a folder ``<split>/``: question, the choices, the answer letter, and
      no header; ``val`` may stand for ``validation``.

    Args:
        path: The folder.
        choice_counts: The numbers of choices a question may have, each from 2 to 8.

    Raises:
        ConfigError: The folder does not exist, or a count is out of range.
    """

    def __init__(self, path: str, choice_counts: list[int] | None = None) -> None:
        counts = choice_counts or [4]
        if not all(2 <= count <= 8 for count in counts):
            raise ConfigError(
                f"expected counts from 2 to 8 but got {counts} (data.source.choice_counts). Hint: use [4]."
            )
        if not Path(path).is_dir():
            raise ConfigError(
                f"expected a folder but got {path!r} (data.source.path). "
                "Hint: a folder with files such as test.jsonl; archives are not unpacked."
            )
        self.path = path
        self.choice_counts = frozenset(counts)

    def splits(self) -> tuple[str, ...]:
        return tuple(split for split in SPLITS if self._files(split))

    def revision(self) -> str:
        """Return a hash of the names and bytes of all files that are read."""
        digest = hashlib.sha256()
        for split in SPLITS:
            for file in self._files(split):
                digest.update(file.name.encode() + b"\x1f" + hashlib.sha256(file.read_bytes()).digest())
        return f"sha256:{digest.hexdigest()}"

    def rows(self, split: str) -> Iterator[RawRow]:
        files = self._files(split)
        if not files:
            raise DataError(
                f"expected one of the splits {list(self.splits())} but got {split!r} ({self.path}). "
                f"Hint: add {split}.jsonl, {split}.parquet or <subject>_{split}.csv."
            )
        for file in files:
            if file.suffix == ".csv":
                yield from _read_csv(file)
            elif file.suffix == ".jsonl":
                yield from _read_jsonl(file)
            else:
                rows = enumerate(parquet_rows(file))
                yield from (RawRow(f"{file.name}[{number}]", values) for number, values in rows)

    def _files(self, split: str) -> list[Path]:
        names = (split, "val") if split == "validation" else (split,)
        folder = Path(self.path)
        single = [file for suffix in SUFFIXES[:2] if (file := folder / f"{split}{suffix}").is_file()]
        places = [(place, name) for name in names for place in (folder, folder / name)]
        per_subject = [file for place, name in places for file in place.glob(f"*_{name}.csv")]
        kinds = sorted({file.suffix for file in single + per_subject})
        if len(kinds) > 1:
            raise DataError(
                f"expected one format for {split!r} but got {kinds} ({self.path}). Hint: keep one and move the others."
            )
        return sorted(single + per_subject)


def _read_text(file: Path) -> str:
    data = file.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(
            f"expected UTF-8 but got the byte 0x{data[error.start]:02x} ({file}:{line}). "
            "Hint: convert the file, for example with iconv -t UTF-8."
        ) from error


def _read_csv(file: Path) -> Iterator[RawRow]:
    subject = file.stem.rsplit("_", 1)[0]
    # newline="" keeps line breaks inside quoted cells as they are.
    reader = csv.reader(io.StringIO(_read_text(file), newline=""), strict=True)
    width = 0
    line = 1
    try:
        for cells in reader:
            width = width or len(cells)
            if len(cells) != width or width < 4:
                raise DataError(
                    f"expected {max(width, 4)} cells (question, choices, answer) but got {len(cells)} ({file}:{line}). "
                    "Hint: quote cells that hold a comma or a line break."
                )
            values = {"question": cells[0], "subject": subject, "choices": cells[1:-1], "answer": cells[-1]}
            yield RawRow(f"{file.name}:{line}", values)
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"expected CSV but got: {error} ({file}:{line}). Hint: check the quotes of that row."
        ) from error


def _read_jsonl(file: Path) -> Iterator[RawRow]:
    lines = _read_text(file).split("\n")
    # One line break ends the file; any other empty line is a broken one.
    for number, line in enumerate(lines[:-1] if lines[-1] == "" else lines, start=1):
        try:
            values = json.loads(line, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"expected a JSON object but got: {error} ({file}:{number}). Hint: one complete object per line."
            ) from error
        if not isinstance(values, dict):
            raise DataError(
                f"expected a JSON object but got {line[:40]!r} ({file}:{number}). Hint: one object per line."
            )
        yield RawRow(f"{file.name}:{number}", values)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError(f"a key twice among {[key for key, _ in pairs]}")
    return values


def _refuse_constant(name: str) -> None:
    raise ValueError(f"the constant {name}, which JSON does not have")
