"""Rows of parquet files, of the Hub's or of one's own."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from moe_tune.base.errors import DataError
from moe_tune.base.hub_snapshot import hub_snapshot

ROWS = 1000
"""Rows that are in memory at a time."""


def hub_rows(repository: str, config: str, commit: str, split: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a split of a dataset on the Hub at one commit, in the order of the repository.

    Raises:
        ConfigError: The repository has no such commit.
        DataError: A file is missing or damaged.
        ServiceError: The Hub refuses, or cannot be reached and the split is not in the local cache.
    """
    pattern = f"{config}/{split}-*.parquet"
    folder = hub_snapshot(repository, commit, (pattern,), f"the split {split!r} ({pattern})", "dataset")
    files = sorted(folder.glob(pattern))
    if not files or not files[0].stem.endswith(f"-of-{len(files):05}"):
        raise DataError(
            f"expected {pattern} but got {[file.name for file in files] or 'no such file'} ({repository}@{commit}). "
            "Hint: pin data.source.revision to a commit that has all of it."
        )
    for file in files:
        yield from parquet_rows(file)


def parquet_rows(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a parquet file.

    Raises:
        DataError: It is damaged, incomplete, no parquet file, or holds columns of an extension type.
    """
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        if pq.read_metadata(file).num_rows == 0:  # which datasets takes for a fault
            return
        # Streamed, so that no second copy of the table goes to the disk.
        table = datasets.load_dataset("parquet", data_files=str(file), split="train", streaming=True)
        for batch in table.with_format("arrow").iter(batch_size=ROWS):
            yield from (rows := batch.to_pylist())
            number += len(rows)
    except (pa.ArrowException, OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        text = " ".join(str(error).split())[:300]
        # In the Hub's cache the name is a link: the content behind it has to go.
        raise DataError(
            f"expected a parquet file of plain columns but {file.name} is damaged or incomplete, or has extension "
            f"types: {text} ({file}, after row {number}). Hint: delete {file.resolve()} and get or write it again."
        ) from error
