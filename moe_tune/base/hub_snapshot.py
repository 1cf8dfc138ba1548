"""Files of a model or a dataset on the Hub at one commit: out of the local cache without any network, or downloaded."""

import re
from pathlib import Path
from typing import Literal

from moe_tune.base.errors import ConfigError, ModelError, ServiceError
from moe_tune.base.hub_patience import patient_hub

SETTINGS = ("*.json", "*.jinja", "*.txt", "*.model")
"""A model's configuration and tokenizer."""
WEIGHTS = ("*.safetensors",)
BELOW = ["*/*.safetensors"]
"""Weights in folders of a repository are the same once more, in another layout."""
KEYS = {"model": "model.base.revision", "dataset": "data.source.revision"}
"""Where a kind of repository has its commit from."""


def require_commit(revision: str, where: str) -> None:
    """Refuse a revision of a data set that is no full commit.

    Args:
        revision: What was given.
        where: The key it was given under.

    Raises:
        ConfigError: It is a branch, a tag or an abbreviation.
    """
    if not re.fullmatch("[0-9a-f]{40}", revision):
        raise ConfigError(
            f"expected a 40-digit commit but got {revision!r} ({where}). "
            "Hint: copy the commit from the dataset's history page; branches and tags can move."
        )


def is_cached(repository: str, commit: str, file: str) -> bool:
    """Return whether a model's file is in the local cache at a commit; nothing is asked of the Hub."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return isinstance(try_to_load_from_cache(repository, file, revision=commit), str)
    except HFValidationError:
        return False


def hub_snapshot(
    repository: str, commit: str, patterns: tuple[str, ...], what: str, kind: Literal["model", "dataset"] = "model"
) -> Path:
    """Return the folder that holds a repository's files at a commit; nothing is asked of the Hub if all are here.

    Raises:
        ConfigError: The repository has no such commit.
        ModelError: The server answers with a model's files of another commit.
        ServiceError: The Hub cannot be reached or refuses, a download breaks off, or the server answers with a
            dataset's files of another commit.
    """
    from huggingface_hub import snapshot_download, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RevisionNotFoundError

    asked = f"{what} of {repository} at {commit}"
    try:
        wanted = [*patterns]
        with patient_hub():
            folder = Path(
                snapshot_download(
                    repository, repo_type=kind, revision=commit, allow_patterns=wanted, ignore_patterns=BELOW
                )
            )
    except RevisionNotFoundError as fault:
        raise ConfigError(
            f"expected a commit of {repository} but it has no {commit} ({KEYS[kind]}). "
            f"Hint: take the commit from the {kind}'s page."
        ) from fault
    except LocalEntryNotFoundError as fault:
        raise ServiceError(
            f"expected to read {asked} but the Hub could not be reached and it is not in the cache. "
            "Hint: download it once with a connection; with it cached, set HF_HUB_OFFLINE=1."
        ) from fault
    except HfHubHTTPError as fault:
        status = fault.response.status_code
        if status not in (401, 403):
            raise ServiceError(
                f"expected to read {asked} but the Hub answered with status {status}. Hint: run again later."
            ) from fault
        raise ServiceError(
            f"expected access to {asked} but the Hub refused it with status {status}: the repository is gated, "
            "private, or does not exist. Hint: accept the terms on its page, then set HF_TOKEN or run hf auth login."
        ) from fault
    except Exception as fault:
        if not _broke_off(fault):
            raise
        absent = [
            path
            for path in _wanted(repository, commit, patterns, kind)
            if not isinstance(try_to_load_from_cache(repository, path, revision=commit, repo_type=kind), str)
        ]
        text = " ".join(str(fault).split())[:200]
        raise ServiceError(
            f"expected all of {', '.join(absent) or 'a file'} but the download broke off: {text} ({asked}). "
            "Hint: run again; what is complete is kept."
        ) from fault
    # The client files what it gets under the commit that the server says it is of.
    if absent := [path for path in _wanted(repository, commit, patterns, kind) if not (folder / path).exists()]:
        others = [one.name for one in folder.parent.iterdir() if one != folder and (one / absent[0]).exists()]
        raise (ModelError if kind == "model" else ServiceError)(
            f"expected {absent[0]} at {commit} but got it at another commit, {', '.join(others)} ({repository}). "
            "Hint: the server that HF_ENDPOINT names does not keep to revisions."
        )
    return folder


def _broke_off(fault: Exception) -> bool:
    # The Hub's client lets faults of its HTTP library through, which is httpx or httpx2 by its version.
    known = isinstance(fault, ConnectionError) or type(fault).__module__.startswith("httpx")
    return known or "Consistency check failed" in str(fault)


def _wanted(repository: str, commit: str, patterns: tuple[str, ...], kind: Literal["model", "dataset"]) -> list[str]:
    """Return the wanted files that the commit lists; none where the cache has no list of them."""
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError
    from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined]  # what downloads go by

    try:
        listed = [file.path for file in get_cached_repo_tree(repository, revision=commit, repo_type=kind)]
    except CachedRepoTreeNotFoundError:
        return []
    return [*filter_repo_objects(listed, allow_patterns=[*patterns], ignore_patterns=BELOW)]
