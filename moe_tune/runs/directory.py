"""The run directory: its name, its state, its configuration and its manifest."""

import glob
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import yaml
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from moe_tune.base.commit import git_commit
from moe_tune.base.errors import DataError, MoeTuneError
from moe_tune.base.locks import WorkLock, refuse_work_within
from moe_tune.base.published import published, require_writable, tidied, write_json
from moe_tune.base.redact import without_secrets
from moe_tune.runs.ledger import OpenedTest, record

VERSIONED = ("moe-tune", "torch", "lightning", "transformers", "peft", "datasets", "torchmetrics", "wandb")
NOT_IDENTITY = ("runs_root", "name", "test_after_fit", "checkpoint_every")
"""Arguments that do not make another run of a configuration."""

LATER: dict[str, dict[str, Any]] = {
    "LocalFiles": {"columns": None, "answers_from": None, "corrected": False},
    "LocalText": {"files": None},
    "NanoText": {"split": "test", "layout": "nano_textbook"},
    "data": {"test_sources": {}, "text": None},
    "model": {"task": "quiz", "teacher": None},
    "base": {"quantise": None},
}
"""Arguments of classes and sections that came after runs had names: at these values they make no other name."""


class RunDirectory:
    """One run's folder, ``<root>/<config>-<head>-<overrides>-s<seed>-<8 hex of it all>``; the first process writes it.

    Args:
        path: The folder; made when first written to.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = WorkLock(path, "a run")
        self._ours = False

    @classmethod
    def of(cls, root: Path, label: str, head: str, seed: int, config: dict[str, Any]) -> "RunDirectory":
        """Return the directory that belongs to a resolved configuration.

        Raises:
            ConfigError: The root is not a folder that can be written to.
        """
        require_writable(root, "a writable folder for runs", "runs_root", "--runs_root FOLDER.")
        return cls(root / f"{label}-{head}-s{seed}-{identity(config)}")

    @property
    def manifest(self) -> dict[str, Any]:
        """What the manifest holds; empty before the first write.

        Raises:
            DataError: It is damaged.
        """
        file = self.path / "manifest.json"
        if not file.is_file():
            return {}
        try:
            loaded = json.loads(file.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as fault:
            loaded = fault
        if not isinstance(loaded, dict):
            raise DataError(
                f"expected a run's manifest but got {str(loaded)[:80]!r} ({file}). "
                "Hint: move the folder away, and run the same command again."
            )
        return loaded

    @property
    def is_finished(self) -> bool:
        """Whether a fit ran to its end here."""
        return self.manifest.get("status") == "finished"

    @property
    def last_checkpoint(self) -> Path | None:
        """The newest checkpoint, if there is one."""
        return next(iter(self.last_checkpoints), None)

    @property
    def last_checkpoints(self) -> list[Path]:
        """The newest checkpoint and the one before it, as far as there are any."""
        paths = (self.path / "checkpoints" / name for name in ("last.ckpt", "last-1.ckpt"))
        return [path for path in paths if path.is_dir()]

    def claimed(self) -> Self:
        """Return the directory, held by the first process of this job until ``settle``, after ending what a kill left.

        Raises:
            ConfigError: Another job works on it.
        """
        if not rank_zero_only.rank:
            self._lock.take()
            self._end_what_was_killed()
            self._ours = not self.path.is_dir()
        return self

    def set_aside(self) -> Path | None:
        """Move what an earlier run left out of the way, and return where it is now.

        Raises:
            ConfigError: Another process writes results into it, such as an analysis.
        """
        if rank_zero_only.rank or not self.path.is_dir():
            return None
        refuse_work_within(self.path)
        aside = self.path.with_name(f"{self.path.name}.old-{uuid.uuid4().hex[:8]}")
        os.replace(self.path, aside)
        self._ours = True
        return aside

    def settle(self, aside: Path | None) -> None:
        """Keep a run that has begun and remove the old one, or put the old one back; then let the lock go."""
        if rank_zero_only.rank:
            return
        try:
            if self._ours:
                self._keep_one(aside)
        finally:
            self._lock.let_go()

    def _keep_one(self, aside: Path | None) -> None:
        unwanted = aside if self.manifest else self.path
        if unwanted is not None and unwanted.is_dir():
            shutil.rmtree(unwanted)
        if unwanted is self.path and aside is not None:
            os.replace(aside, self.path)

    def _end_what_was_killed(self) -> None:
        asides = self.path.parent.glob(f"{glob.escape(self.path.name)}.old-{'[0-9a-f]' * 8}")
        for aside in sorted(asides, key=lambda one: one.stat().st_mtime_ns, reverse=True):
            self._keep_one(aside)
        for folder in (self.path, *self.path.glob("*/")) if self.path.is_dir() else ():
            for path in tidied(folder):
                rank_zero_info(f"put back {path}, which a killed process was replacing")

    def write_config(self, text: str) -> None:
        """Write the resolved configuration."""
        if rank_zero_only.rank:
            return
        with published(self.path / "config.yaml") as draft:
            draft.write_text(text, encoding="utf-8")

    def update_manifest(self, **values: Any) -> None:
        """Add values to the manifest, atomically."""
        if rank_zero_only.rank:
            return
        write_json(self.path / "manifest.json", {**self.manifest, **values})

    def note_failure(self, fault: Exception) -> None:
        """Record that the run which has begun here failed, and the first line of why."""
        if rank_zero_only.rank or self.manifest.get("status") != "started":
            return
        kind = "" if isinstance(fault, MoeTuneError) else f"{type(fault).__name__}: "
        with suppress(OSError, MoeTuneError):  # what went wrong is told, not that a full disk took no note of it
            self.update_manifest(status="failed", failure=without_secrets(f"{kind}{fault}".strip().partition("\n")[0]))

    def forget_failure(self) -> None:
        """Record that a run which failed goes on."""
        if rank_zero_only.rank or self.manifest.get("status") != "failed":
            return
        kept = {key: value for key, value in self.manifest.items() if key != "failure"}
        write_json(self.path / "manifest.json", kept | {"status": "started"})

    def record_opening(self, read: OpenedTest, config: Mapping[str, Any] | None = None) -> None:
        """Record in the ledger that a test's answers were read, and keep a copy in the run.

        Args:
            read: What was read.
            config: The resolved configuration; ``None`` takes the run's own.
        """
        if rank_zero_only.rank:
            return
        about = {
            "config": identity(dict(self._config() if config is None else config)),
            "commit": git_commit(Path.cwd()),
            "run": self.path.name,
            "time": now(),
        }
        record(asdict(read) | about, self.path if self.path.is_dir() else None)

    def _config(self) -> dict[str, Any]:
        """Return the run's configuration, or nothing if it is damaged: what was read is recorded all the same."""
        try:
            return dict(yaml.safe_load((self.path / "config.yaml").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, yaml.YAMLError):
            return {}


def identity(config: dict[str, Any]) -> str:
    """Return 8 hex digits that two configurations share if and only if they ask for the same run."""
    kept = {key: value for key, value in without_later(config).items() if key not in NOT_IDENTITY}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()[:8]


def without_later(config: Any) -> Any:
    """Return a configuration without the arguments that came later and are at their defaults.

    Example:
        >>> without_later({"class_path": "moe_tune.data.local_files.LocalFiles", "init_args": {"columns": None}})
        {'class_path': 'moe_tune.data.local_files.LocalFiles', 'init_args': {}}
    """
    if not isinstance(config, dict):
        return [without_later(one) for one in config] if isinstance(config, list) else config
    kept = {key: without_later(value) for key, value in config.items()}
    for owner, at in (
        (str(config.get("class_path")).rpartition(".")[2], "init_args"),
        *((section, section) for section in ("data", "model", "base")),
    ):
        if owner in LATER and isinstance(given := kept.get(at), dict):
            kept[at] = {key: one for key, one in given.items() if LATER[owner].get(key, ...) != one}
    return kept


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def environment() -> dict[str, Any]:
    """Return versions and hardware, as recorded in every manifest."""
    import torch

    return {
        "versions": {name: _version(name) for name in VERSIONED} | {"python": platform.python_version()},
        "hardware": {
            "machine": platform.machine(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def to_yaml(config: dict[str, Any]) -> str:
    """Return a configuration as YAML, keys in order."""
    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=100)
