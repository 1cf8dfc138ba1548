"""Reads what an offline or interrupted W&B run left on disk, the ``.wandb`` file and media, without wandb's own reader.

The file is a log of protobuf records: seven bytes of header, then chunks in blocks of 32 KiB, each with a checksum; a
record that does not fit a block goes on in the next.
"""

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

BLOCK = 32768
HEADER = struct.pack("<4sHB", b":W&B", 0xBEE1, 0)
CHUNK = struct.Struct("<IHB")
FULL, FIRST, LAST = 1, 2, 4


@dataclass
class OfflineRun:
    """What a ``.wandb`` file holds.

    Args:
        file: The file.
    """

    file: Path
    run: Any = None
    """The run record: run_id, project, run_group, job_type, display_name, tags, sweep_id."""
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    artifacts: list[Any] = field(default_factory=list)
    """Artifact records: name, type, aliases, metadata, manifest.contents."""
    metrics: list[Any] = field(default_factory=list)
    """What define_metric said."""
    stats: list[Any] = field(default_factory=list)
    """System metrics, as they were sampled."""
    exit_code: int | None = None

    def __post_init__(self) -> None:
        for data in chunks(self.file.read_bytes()):
            record = Record.FromString(data)
            match record.WhichOneof("record_type"):
                case "run":
                    self.run = record.run
                    self._update(self.config, record.run.config.update)
                case "config":
                    self._update(self.config, record.config.update)
                case "history":
                    self.history.append({})
                    self._update(self.history[-1], record.history.item)
                case "summary":
                    self._update(self.summary, record.summary.update)
                case "artifact":
                    self.artifacts.append(record.artifact)
                case "metric":
                    self.metrics.append(record.metric)
                case "stats":
                    self.stats.append(record.stats)
                case "exit":
                    self.exit_code = record.exit.exit_code
        self.config.pop("_wandb", None)

    def _update(self, into: dict[str, Any], items: Any) -> None:
        for item in items:
            *parents, last = list(item.nested_key) or [item.key]
            place = into
            for parent in parents:
                if not isinstance(place.get(parent), dict):
                    place[parent] = {}  # a number gives way to an image of the same key
                place = place[parent]
            place[last] = value_of(item)

    @cached_property
    def media(self) -> dict[str, bytes]:
        """Content of media by path below ``media/``, as they were logged."""
        folder = self.file.parent / "files"
        return {
            str(path.relative_to(folder)): path.read_bytes() for path in folder.glob("media/**/*") if path.is_file()
        }

    @cached_property
    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """The versions of every table by key: columns and data."""
        return {key: [json.loads(one) for one in parts] for key, parts in self._logged("table-file", "path").items()}

    @cached_property
    def heads(self) -> list[dict[str, Any]]:
        """The versions of the head's artifact: name, type, aliases, metadata, and the bytes of its files by path."""
        return [
            {
                "name": one.name,
                "type": one.type,
                "aliases": set(one.aliases),
                "metadata": json.loads(one.metadata),
                "files": {entry.path: Path(entry.local_path).read_bytes() for entry in one.manifest.contents},
            }
            for one in self.artifacts
            if one.type == "router-head"
        ]

    @cached_property
    def images(self) -> dict[str, list[bytes]]:
        """The PNG files of every image by key, in the order of logging."""
        return self._logged("images/separated", "filenames") | self._logged("image-file", "path")

    def _logged(self, kind: str, where: str) -> dict[str, list[bytes]]:
        found: dict[str, list[bytes]] = {}
        for row in self.history:
            for key, value in row.items():
                if isinstance(value, dict) and value.get("_type") == kind:
                    paths = value[where] if isinstance(value[where], list) else [value[where]]
                    found.setdefault(key, []).extend(self.media[path] for path in paths)
        return found


def offline_run(folder: Path) -> OfflineRun:
    """Return the one offline run below a folder.

    Args:
        folder: A run directory.
    """
    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    return OfflineRun(file)


def offline_parts(folder: Path) -> list[OfflineRun]:
    """Return the offline runs below a folder, each of which a part of one fit left, in their order.

    Args:
        folder: A run directory.
    """
    return [OfflineRun(file) for file in sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))]


def value_of(item: Any) -> Any:
    """Return the value of a config, summary or history item, in its typed form or as JSON.

    Args:
        item: The protobuf message.
    """
    kind = item.WhichOneof("value") if "value" in item.DESCRIPTOR.oneofs_by_name else None
    if kind == "none":
        return None
    if kind in (None, "json"):
        return json.loads(item.json if kind else item.value_json)
    return getattr(item, kind)


def chunks(content: bytes) -> Iterator[bytes]:
    """Yield the records of a ``.wandb`` file; a last one that was not written to its end is left out.

    Args:
        content: The file's content.

    Raises:
        ValueError: The file is no such log, or a checksum is wrong.
    """
    if not content.startswith(HEADER):
        raise ValueError("not a W&B log")
    position, record = len(HEADER), b""
    while position + CHUNK.size <= len(content):
        room = BLOCK - position % BLOCK
        if room < CHUNK.size:
            position += room
            continue
        checksum, length, kind = CHUNK.unpack_from(content, position)
        data = content[position + CHUNK.size : position + CHUNK.size + length]
        if len(data) < length:
            return
        if zlib.crc32(data, zlib.crc32(bytes([kind]))) != checksum:
            raise ValueError(f"wrong checksum at byte {position}")
        record = data if kind in (FULL, FIRST) else record + data
        if kind in (FULL, LAST):
            yield record
        position += CHUNK.size + length
