"""Text from the Hugging Face Hub, pinned to one commit."""

from collections.abc import Iterator

from moe_tune.base.errors import DataError
from moe_tune.base.hub_snapshot import hub_snapshot, require_commit
from moe_tune.data.local_text import PLAIN, TABLES, TEXT, LocalText
from moe_tune.data.source import RawRow
from moe_tune.data.text_source import TextSource


class HubText(TextSource):
    """Documents of a data set of the Hub, whose files are of a kind that ``LocalText`` reads.

    Args:
        path: Dataset repository, such as ``Salesforce/wikitext``.
        revision: The full 40-digit commit to read; a branch or tag is refused, because it can move.
        config: Folder of the repository to read, such as ``data``; ``null`` reads the files beside its card.
        files: Pattern of the files to read within it, such as ``train-*.parquet``; ``null`` reads all of one kind.
        column: The column of a table that holds the text, or the messages.
        max_tokens: Documents that are tested on are cut at so many tokens.

    Raises:
        ConfigError: The revision is no full commit.
    """

    def __init__(
        self,
        path: str,
        revision: str,
        config: str | None = None,
        files: str | None = None,
        column: str = TEXT,
        max_tokens: int = 512,
    ) -> None:
        require_commit(revision, "HubText, revision")
        self.path, self.revision_pin, self.config = path, revision, config
        self.files, self.column, self.max_tokens = files, column, max_tokens

    def revision(self) -> str:
        within = f"/{self.config}" if self.config else ""
        return f"{self.path}{within}@{self.revision_pin}" + (f" {self.files}" if self.files else "")

    def documents(self) -> Iterator[RawRow]:
        within = f"{self.config}/" if self.config else ""
        wanted = (self.files,) if self.files else tuple(f"*{suffix}" for suffix in (*TABLES, PLAIN))
        patterns = tuple(f"{within}{one}" for one in wanted)
        place = hub_snapshot(self.path, self.revision_pin, patterns, f"the text ({within}*)", "dataset") / within
        if not place.is_dir():
            raise DataError(
                f"expected the folder {self.config!r} but the repository has no text in it ({self.revision()}). "
                "Hint: config names a folder of its Files page."
            )
        yield from LocalText(str(place), self.column, self.max_tokens, self.files).documents()
