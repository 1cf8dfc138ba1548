"""Any multiple-choice data set from the Hugging Face Hub, pinned to one commit."""

from collections.abc import Iterator
from functools import cached_property
from typing import Literal

from moe_tune.base.errors import DataError
from moe_tune.base.hub_snapshot import hub_snapshot, require_commit
from moe_tune.data.local_files import LocalFiles
from moe_tune.data.overlap import hub_origins
from moe_tune.data.question import LETTERS
from moe_tune.data.raw_tables import SUFFIXES
from moe_tune.data.source import QuestionSource, RawRow


class HubQuestions(QuestionSource):
    """A data set of the Hub whose files are of one of the layouts that ``LocalFiles`` reads.

    Args:
        path: Dataset repository, such as ``TIGER-Lab/MMLU-Pro``.
        revision: The full 40-digit commit to read; a branch or tag is refused, because it can move.
        config: Folder of the repository to read, such as ``all`` or ``ARC-Challenge``; ``null`` reads the whole one.
        choice_counts: The numbers of choices a question may have, each from 2 to 16; ``null`` takes all of them.
        columns: Column by role, where they are not recognised, as for ``LocalFiles``.
        answers_from: What whole numbers as answers count from; ``null`` means 0, and looks for signs of 1.
        corrected: Whether MMLU-Redux's questions with a wrong key are asked too, with the corrected key.

    Raises:
        ConfigError: The revision is no full commit.
    """

    def __init__(
        self,
        path: str,
        revision: str,
        config: str | None = None,
        choice_counts: list[int] | None = None,
        columns: dict[str, str | list[str]] | None = None,
        answers_from: Literal[0, 1] | None = None,
        corrected: bool = False,
    ) -> None:
        require_commit(revision, "data.source.revision")
        self.path, self.config, self.revision_pin = path, config, revision
        self.choice_counts = frozenset(choice_counts or range(2, len(LETTERS) + 1))
        self.columns, self.corrected = columns, corrected
        self.answers_from: Literal[0, 1] | None = answers_from
        self.same_origin_as = hub_origins(path)

    def splits(self) -> tuple[str, ...]:
        return self._files.splits()

    def revision(self) -> str:
        within = f"/{self.config}" if self.config else ""
        return f"{self.path}{within}@{self.revision_pin}"

    def rows(self, split: str) -> Iterator[RawRow]:
        yield from self._files.rows(split)

    @property
    def notes(self) -> tuple[str, ...]:
        return self._files.notes

    @cached_property
    def _files(self) -> LocalFiles:
        within = f"{self.config}/" if self.config else ""
        patterns = tuple(f"{within}*{suffix}" for suffix in SUFFIXES)
        folder = hub_snapshot(self.path, self.revision_pin, patterns, f"the questions ({within}*)", "dataset")
        place = folder / within
        if not place.is_dir():
            raise DataError(
                f"expected the folder {self.config!r} but the repository has no questions in it ({self.revision()}). "
                "Hint: data.source.config names a folder of its Files page."
            )
        return LocalFiles(str(place), sorted(self.choice_counts), self.columns, self.answers_from, self.corrected)
