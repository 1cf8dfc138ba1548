"""What a W&B server was told: runs, artifacts and sweeps, and the operations it did not understand."""

import json
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Run:
    """A run, by the id that the client gave it."""

    id: str
    entity: str
    project: str
    fields: dict[str, Any] = field(default_factory=dict)
    """displayName, groupName, jobType, tags, notes, ... as they were last sent."""
    config: dict[str, Any] = field(default_factory=dict)
    streams: dict[str, list[Any]] = field(default_factory=dict)
    """Lines of wandb-history.jsonl, wandb-summary.json, wandb-events.jsonl and output.log."""
    files: dict[str, bytes] = field(default_factory=dict)
    sweep: str | None = None
    exit_code: int | None = None
    complete: bool = False
    stop: bool = False

    @property
    def history(self) -> list[dict[str, Any]]:
        """The logged rows, without the lines that were sent to make way for others."""
        return [json.loads(line) for line in self.streams.get("wandb-history.jsonl", []) if line]

    @property
    def summary(self) -> dict[str, Any]:
        """The newest summary."""
        lines = self.streams.get("wandb-summary.json", [])
        return json.loads(lines[-1]) if lines else {}

    def add(self, stream: str, offset: int, lines: list[str]) -> None:
        """Keep lines of a stream at the place the client says.

        Args:
            stream: Its file's name.
            offset: Index of the first of the lines, from 0; a summary always overwrites line 0.
            lines: Without newlines.
        """
        kept = self.streams.setdefault(stream, [])
        kept.extend([""] * (offset + len(lines) - len(kept)))
        kept[offset : offset + len(lines)] = lines


@dataclass
class Artifact:
    """A version of an artifact; ``files`` holds its content by path, the manifest included."""

    id: str
    name: str
    type: str
    run: str
    aliases: list[str]
    metadata: dict[str, Any]
    digest: str
    files: dict[str, bytes] = field(default_factory=dict)
    committed: bool = False

    @property
    def manifest(self) -> dict[str, Any]:
        """Its entries by path: digest and size of each."""
        return dict(json.loads(self.files["wandb_manifest.json"])["contents"])


@dataclass
class Sweep:
    """A sweep, its state, and the points still to be handed out."""

    id: str
    entity: str
    project: str
    config: dict[str, Any]
    text: str
    """The configuration as YAML, as it came."""
    planned: Iterator[dict[str, Any]] | list[dict[str, Any]]
    """Points: value by parameter."""
    state: str = "RUNNING"
    given: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Points handed out, by run id."""


@dataclass
class Store:
    """Everything a server holds; requests of many threads take ``lock``."""

    url: str
    """Where the server listens; files are put below its ``/storage``."""
    runs: dict[str, Run] = field(default_factory=dict)
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    used: list[tuple[str, str]] = field(default_factory=list)
    """Pairs of run id and the id of an artifact it used."""
    sweeps: dict[str, Sweep] = field(default_factory=dict)
    agents: dict[str, str] = field(default_factory=dict)
    """Sweep id by agent id."""
    calls: Counter[str] = field(default_factory=Counter)
    """How often each operation was asked for."""
    unknown: list[str] = field(default_factory=list)
    """Operations and addresses that this server does not speak; tests assert that there are none."""
    lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def rows(self) -> int:
        """History rows of all runs."""
        return sum(len(run.history) for run in self.runs.values())

    def sweep(self, name: str | None) -> Sweep | None:
        """Return a sweep by its id, or ``None``.

        Args:
            name: The id.
        """
        return self.sweeps.get(name or "")
