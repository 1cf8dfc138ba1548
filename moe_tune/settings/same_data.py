"""Whether a run's data is still what the run was made of."""

from collections.abc import Mapping
from typing import Any

from moe_tune.base.errors import DataError
from moe_tune.runs.directory import RunDirectory


def refuse_changed_data(directory: RunDirectory, now: Mapping[str, str]) -> None:
    """Refuse data whose content is another than that of the run which is there; answers would be of both.

    Args:
        directory: The run that goes on, is evaluated, or is already complete.
        now: What ``revisions`` says of the data that the same configuration names now.

    Raises:
        DataError: A source has changed.
    """
    for name, was in _recorded(directory.manifest).items():
        if (found := now.get(name, was)) != was:
            key = f"data.{name}" if name in ("source", "text") else f"data.test_sources.{name.removeprefix('test_')}"
            raise DataError(
                f"expected the content that {directory.path} was made of, {was}, but got {found} ({key}). Hint: files "
                "under another name make another run; or fit with --fresh true replaces this one."
            )


def _recorded(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Return the revisions a manifest tells of; one of earlier versions tells only at its end, and of the questions."""
    source = (manifest.get("data") or {}).get("source") or {}
    found = manifest.get("revisions") or {"source": source.get("revision")}
    return {name: one for name, one in found.items() if isinstance(one, str)}
