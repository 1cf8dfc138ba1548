"""A model's files from the Hub at one commit: out of the local cache without any network, else downloaded."""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from moe_tune.base.errors import ConfigError, ModelError, ServiceError

SETTINGS = ("*.json", "*.jinja", "*.txt", "*.model")
"""The configuration and the tokenizer."""
WEIGHTS = ("*.safetensors",)
BELOW = ("*/*.safetensors",)
"""Weights in folders of a repository are the same once more, in another layout."""


def model_snapshot(repository: str, commit: str, weights: bool = False) -> Path:
    """Return the folder that holds a model repository's files at a commit; nothing is asked of the Hub if all are here.

    Args:
        repository: Hub id, ``owner/name``.
        commit: Full 40-digit commit; its files never change, so what is in the cache is never asked for again.
        weights: Whether the weights are wanted too; without them only small files come.

    Raises:
        ConfigError: The repository has no such commit.
        ModelError: The server answers with the files of another commit.
        ServiceError: The Hub cannot be reached or refuses, or a download breaks off.
    """
    from huggingface_hub import snapshot_download, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RevisionNotFoundError

    patterns = [*SETTINGS, *WEIGHTS] if weights else [*SETTINGS]
    what = f"{'the weights' if weights else 'config.json and the tokenizer'} of {repository} at {commit}"
    try:
        folder = Path(snapshot_download(repository, revision=commit, allow_patterns=patterns, ignore_patterns=[*BELOW]))
    except RevisionNotFoundError as fault:
        raise ConfigError(
            f"expected a commit of {repository} but it has no {commit} (model.base.revision). "
            "Hint: take the commit from the model's page."
        ) from fault
    except LocalEntryNotFoundError as fault:
        raise ServiceError(
            f"expected to read {what} but the Hub could not be reached and it is not in the cache. "
            "Hint: download it once with a connection; with it cached, set HF_HUB_OFFLINE=1."
        ) from fault
    except HfHubHTTPError as fault:
        status = fault.response.status_code
        if status not in (401, 403):
            raise ServiceError(
                f"expected to read {what} but the Hub answered with status {status}. Hint: run again later."
            ) from fault
        raise ServiceError(
            f"expected access to {what} but the Hub refused it with status {status}: the repository is gated, private, "
            "or does not exist. Hint: accept the terms on its page, then set HF_TOKEN or run hf auth login."
        ) from fault
    except Exception as fault:
        if not _broke_off(fault):
            raise
        absent = [
            path
            for path in _wanted(repository, commit, patterns)
            if not isinstance(try_to_load_from_cache(repository, path, revision=commit), str)
        ]
        text = " ".join(str(fault).split())[:200]
        raise ServiceError(
            f"expected all of {', '.join(absent) or 'a file'} but the download broke off: {text} ({what}). "
            "Hint: run again; what is complete is kept."
        ) from fault
    # The client files what it gets under the commit that the server says it is of.
    if absent := [path for path in _wanted(repository, commit, patterns) if not (folder / path).exists()]:
        raise ModelError(
            f"expected {absent[0]} at {commit} but got it at another commit ({repository}). "
            "Hint: the server that HF_ENDPOINT names does not keep to revisions."
        )
    return folder


def _broke_off(fault: Exception) -> bool:
    # The Hub's client lets faults of its HTTP library through, which is httpx or httpx2 by its version.
    return type(fault).__module__.startswith("httpx") or "Consistency check failed" in str(fault)


def _wanted(repository: str, commit: str, patterns: list[str]) -> list[str]:
    """Return the wanted files that the commit lists; none where the cache has no list of them."""
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    try:
        listed = [file.path for file in get_cached_repo_tree(repository, revision=commit)]
    except CachedRepoTreeNotFoundError:
        return []

    def among(path: str, some: Iterable[str]) -> bool:
        return any(fnmatchcase(path, pattern) for pattern in some)

    return [path for path in listed if among(path, patterns) and not among(path, BELOW)]
