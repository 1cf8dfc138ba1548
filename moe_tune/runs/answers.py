"""Where a run directory keeps what was answered, and the pretrained router's answers beside it."""

from pathlib import Path

QUESTIONS, ROUTING, TEXT, SHORT = "questions", "routing", "text", "short_answers"
BASE, BEST = ".base", ".best"
"""Ends of names beside a split's own: of the pretrained router, and of the checkpoint that is tested."""
BASE_VALIDATION = "base_validation"
"""The pretrained router's routing on the validation split, which had a name before the other splits."""


def questions_file(run: Path, split: str, of: str = "") -> Path:
    """Return the file of a split's answers; ``of`` is one of the ends above."""
    return run / QUESTIONS / f"{split}{of}.parquet"


def routing_file(run: Path, split: str, of: str = "") -> Path:
    """Return the file of a split's routing; ``of`` is one of the ends above."""
    return run / ROUTING / f"{split}{of}.parquet"


def base_routing_file(run: Path, split: str) -> Path:
    """Return the file of the pretrained router's routing on a split."""
    return routing_file(run, BASE_VALIDATION) if split == "validation" else routing_file(run, split, BASE)


def tested_questions_file(run: Path, split: str) -> Path:
    """Return the answers of the checkpoint that is tested: for validation the best one's, not the last epoch's."""
    best = questions_file(run, split, BEST)
    return best if best.is_file() else questions_file(run, split)


def split_files(run: Path) -> list[Path]:
    """Return the files of the run's own answers, one per split."""
    return [file for file in sorted((run / QUESTIONS).glob("*.parquet")) if "." not in file.stem]


def text_file(run: Path, split: str, of: str = "") -> Path:
    """Return the file of the losses on a text source's documents; ``of`` is one of the ends above."""
    return run / TEXT / f"{split}{of}.parquet"


def text_files(run: Path) -> list[Path]:
    """Return the files of the run's own losses on text that is tested, one per source."""
    return [file for file in sorted((run / TEXT).glob("test*.parquet")) if "." not in file.stem]


def short_file(run: Path, split: str, of: str = "") -> Path:
    """Return the file of the answers to a source of short answers; ``of`` is one of the ends above."""
    return run / SHORT / f"{split}{of}.parquet"


def short_files(run: Path) -> list[Path]:
    """Return the files of the run's own short answers, one per source."""
    return [file for file in sorted((run / SHORT).glob("*.parquet")) if "." not in file.stem]
