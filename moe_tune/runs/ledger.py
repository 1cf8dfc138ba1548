"""The ledger of test openings: each time that a test's answers were read, wherever the run lies that read them."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from moe_tune.base.errors import ConfigError, MoeTuneError, ResourceError
from moe_tune.base.published import published
from moe_tune.base.resources import out_of_resources
from moe_tune.base.user_folders import user_folder

COPY = "openings.jsonl"
"""What a run keeps of the ledger: all known openings of the tests that it read, its own last."""
SAME = ("test", "protocol", "few_shot", "config", "weights")
"""Openings that agree in these are one: the same questions, asked in the same way, of the same heads."""


@dataclass(frozen=True, slots=True)
class OpenedTest:
    """What was read of a test; the ledger adds configuration, commit, run and time.

    Attributes:
        test: 16 hex digits of the test's content, whatever its name and order.
        split: Its name in the run.
        verb: What read it.
        questions: How many questions it has.
        protocol: How they were asked.
        few_shot: Worked examples in each prompt.
        weights: 16 hex digits of the base model's and the heads' tensors.
        result: The share answered right, 0 to 1, or a text's loss in nats.
    """

    test: str
    split: str
    verb: str
    questions: int
    protocol: str
    few_shot: int
    weights: str
    result: float


def ledger_folder() -> Path:
    """Return the folder of the ledger: ``moe_tune/openings`` in ``$XDG_STATE_HOME``, else in ``~/.local/state``."""
    return user_folder("XDG_STATE_HOME", "~/.local/state") / "openings"


def require_ledger() -> None:
    """Make the ledger's folder, before a test is read.

    Raises:
        ConfigError: It cannot be written to.
        ResourceError: The disk is full.
    """
    folder = ledger_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as fault:
        raise _kind(fault)(
            f"expected a folder that can be written to for the ledger of test openings but got "
            f"{fault.strerror} ({folder}). Hint: set XDG_STATE_HOME to a folder of yours; the test stays closed."
        ) from fault


def _kind(fault: OSError) -> type[MoeTuneError]:
    return ResourceError if out_of_resources(fault) else ConfigError


def test_content(lines: Iterable[str]) -> str:
    """Return 16 hex digits that two tests share if and only if they hold the same content, one line for each item.

    Example:
        >>> test_content(["b 0", "a 1"]) == test_content(["a 1", "b 0"])
        True
    """
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]


def question_lines(questions: pd.DataFrame) -> Iterator[str]:
    """Yield what a question is in a test: its content and its right answer."""
    for content, gold in zip(questions["content_hash"], questions["gold"], strict=True):
        yield f"{content} {gold}"


def record(opening: Mapping[str, Any], run: Path | None) -> None:
    """Add an opening to the ledger, and give the run a copy of what the ledger knows of this test.

    Raises:
        ConfigError: The ledger cannot be written to.
        ResourceError: The disk is full.
    """
    require_ledger()
    test = str(opening["test"])
    line = json.dumps(opening) + "\n"
    try:
        with _file(test).open("a+b") as handle:
            handle.seek(max(handle.seek(0, os.SEEK_END) - 1, 0))
            handle.write((b"" if handle.read() in (b"", b"\n") else b"\n") + line.encode())
    except OSError as fault:
        raise _kind(fault)(
            f"expected a file that can be written to for the ledger of this test's openings but got {fault.strerror} "
            f"({_file(test)}). Hint: this opening is not recorded; make the file writable, and run the test again."
        ) from fault
    if run is None:
        return
    known = [one for one in _read(run / COPY) if one["test"] != test]
    lines = [json.dumps(one) + "\n" for one in (*known, *_read(_file(test)))]
    try:
        with published(run / COPY) as draft:
            draft.write_text("".join(lines), encoding="utf-8")
    except ConfigError as fault:  # a run that is read-only; where results go is another folder
        rank_zero_warn(f"the ledger has this opening, but the run takes no copy of it: {fault}")


def openings_of(test: str, runs: Iterable[Path] = ()) -> list[dict[str, Any]]:
    """Return the different openings of a test that the ledger and the copies in some runs know, oldest first.

    Of runs that are the same opening the last is named, the others as its ``also``.
    """
    copies = [one for run in runs for one in _read(run / COPY) if one["test"] == test]
    different: dict[str, dict[str, Any]] = {}
    for one in (*copies, *_read(_file(test))):
        key = json.dumps([one.get(name) for name in SAME])
        before = different.get(key, {"also": []})
        different[key] = one | {"also": [*before["also"], *([str(before["run"])] if "run" in before else [])]}
    return sorted(different.values(), key=lambda one: str(one["time"]))


def _file(test: str) -> Path:
    return ledger_folder() / f"{test}.jsonl"


def _read(file: Path) -> list[dict[str, Any]]:
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
    return [_opening(line, file) for line in lines if line]


def _opening(line: str, file: Path) -> dict[str, Any]:
    """Return a line's opening; of a broken one, as a killed process may leave, nothing is known but that it was."""
    try:
        found = json.loads(line)
    except ValueError:
        found = None
    if isinstance(found, dict) and {"test", "run", "time"} <= found.keys():
        return found
    return {"test": file.stem, "run": "", "time": "", "weights": test_content([line])}
