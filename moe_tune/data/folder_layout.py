"""Which files of a folder hold which split: one file per split, per subject, shards, a Hub folder, a Hendrycks tree."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from moe_tune.base.errors import DataError
from moe_tune.data.raw_tables import DELIMITERS, SUFFIXES

SPLITS = ("train", "validation", "test", "dev")
NAMES = {
    "train": ("train",),
    "validation": ("validation", "val", "valid"),
    "test": ("test",),
    "dev": ("dev",),
}
"""What a split may be called in the names of files and folders."""
AUXILIARY_SHARDS = "auxiliary_train"
"""What MMLU's training split is called on the Hub. The folder of this name in Hendrycks et al.'s tree is not read: with
it, questions would be trained on that no version before this reader took."""
INSIDE = (".", "data", "all", "data/all")
"""Where a folder may keep its files, the first that has any counts."""
SHARD = re.compile(r".+-of-(\d+)")
SAMPLES = re.compile(r"samples_(?P<task>.+?)(?:_\d{4}-\d\d-\d\dT.*)?")
"""A file of lm-eval's samples."""


@dataclass(frozen=True, slots=True, order=True)
class SplitFile:
    """A file of a split, and the subject that its name or folder tells."""

    path: Path
    subject: str | None = None


def split_files(place: Path) -> dict[str, list[SplitFile]]:
    """Return the files of each split of a folder, or of a single file, which is a test split unless its name says.

    Raises:
        DataError: A split has files of several formats, lacks a shard, or is of several tasks of lm-eval.
    """
    if place.is_file():
        split = next((split for split, names in NAMES.items() if _named(place.stem, names)), "test")
        return {split: [SplitFile(place, _subject(place, NAMES[split]))]}
    found = {split: _as_ever(place, split) or _inside(place, split) or _by_config(place, split) for split in SPLITS}
    if not any(found.values()):
        own = next((split for split, names in NAMES.items() if place.name in names), None)
        if own is not None:
            found[own] = [SplitFile(file, _own_name(file)) for file in _data_files(place)]
        else:
            found["test"] = _samples(place)
    for split, files in found.items():
        _refuse_two_formats(place, split, [one.path for one in files])
    return {split: files for split, files in found.items() if files}


def _refuse_two_formats(folder: Path, split: str, read: list[Path]) -> None:
    names = NAMES[split]
    beside = [file for name in names for suffix in SUFFIXES if (file := folder / f"{name}{suffix}").is_file()]
    # One file of each format is named.
    kinds = {file.suffix: file for file in reversed([*read, *beside])} if read else {}
    if len(kinds) > 1:
        came = " and ".join(sorted(str(file.relative_to(folder)) for file in kinds.values()))
        raise DataError(
            f"expected one format for the split {split!r} but got {came} ({folder}). Hint: --data.source LocalFiles "
            f"--data.source.path {min(kinds.values())} reads one file alone; or keep one and move the others."
        )


def _as_ever(folder: Path, split: str) -> list[SplitFile]:
    # What versions before this reader found stays what it is, whatever lies in the folders beside it.
    names = ("validation", "val") if split == "validation" else (split,)
    single = [SplitFile(file) for suffix in SUFFIXES[:2] if (file := folder / f"{split}{suffix}").is_file()]
    places = [(place, name) for name in names for place in (folder, folder / name)]
    per_subject = [SplitFile(file, _subject(file, names)) for at, name in places for file in at.glob(f"*_{name}.csv")]
    return sorted(single + per_subject)


def _inside(folder: Path, split: str) -> list[SplitFile]:
    names = NAMES[split]
    for inside in INSIDE:
        root, files = folder / inside, list[SplitFile]()
        for name in names:
            files += [SplitFile(file) for suffix in SUFFIXES if (file := root / f"{name}{suffix}").is_file()]
            files += _shards(root, name)
            flat = [file for at in (root, root / name) for end in DELIMITERS for file in at.glob(f"*_{name}{end}")]
            nested = [file for file in _data_files(root / name) if file not in flat]
            files += [SplitFile(file, _subject(file, names) or _own_name(file)) for file in flat + nested]
        files += _shards(root, AUXILIARY_SHARDS) if split == "train" else []
        if files:
            return sorted(files)
    return []


def _by_config(folder: Path, split: str) -> list[SplitFile]:
    inner = sorted(one for one in folder.iterdir() if one.is_dir())
    found = [(one, file) for one in inner for name in NAMES[split] for file in _shards(one, name)]
    return [SplitFile(file.path, one.name) for one, file in found]


def _shards(root: Path, name: str) -> list[SplitFile]:
    files = sorted(root.glob(f"{name}-*-of-*.parquet"))
    wanted = {int(match[1]) for file in files if (match := SHARD.fullmatch(file.stem))}
    if files and wanted != {len(files)}:
        raise DataError(
            f"expected all of {name}-*-of-{max(wanted, default=0):05}.parquet but got {[file.name for file in files]} "
            f"({root}). Hint: get the missing files."
        )
    return [SplitFile(file) for file in files]


def newest_samples(folder: Path) -> dict[str, Path]:
    """Return the newest file of each task of lm-eval whose samples a folder holds."""
    newest: dict[str, Path] = {}
    for file in sorted(folder.glob("samples_*.jsonl")):
        if match := SAMPLES.fullmatch(file.stem):
            newest[match["task"]] = file
    return newest


def _samples(folder: Path) -> list[SplitFile]:
    newest = newest_samples(folder)  # MMLU's subjects are one task to us
    if len(newest) > 1 and not all(task.startswith("mmlu_") for task in newest):
        first = next(iter(newest.values()))
        raise DataError(
            f"expected the samples of one task but got those of {sorted(newest)} ({folder}). "
            f"Hint: --data.source.path {first} reads one."
        )
    return [SplitFile(file, task.removeprefix("mmlu_")) for task, file in newest.items()]


def _data_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("*") if file.suffix in SUFFIXES) if folder.is_dir() else []


def first_data_file(folder: Path) -> Path | None:
    """Return the first file below a folder that could hold questions."""
    return min((file for file in folder.rglob("*") if file.suffix in SUFFIXES), default=None)


def _own_name(file: Path) -> str | None:
    return None if file.stem.isdigit() or SHARD.fullmatch(file.stem) else file.stem


def _named(stem: str, names: Iterable[str]) -> bool:
    return any(stem == name or stem.endswith(f"_{name}") or stem.startswith(f"{name}-") for name in names)


def _subject(file: Path, names: Iterable[str]) -> str | None:
    if SAMPLES.fullmatch(file.stem) or not any(file.stem.endswith(f"_{name}") for name in names):
        return None
    return file.stem.rsplit("_", 1)[0]


def read_in_order(found: dict[str, list[SplitFile]]) -> Iterator[Path]:
    """Yield every file that is read, in the order of the splits."""
    yield from (one.path for split in SPLITS for one in found.get(split, []))
