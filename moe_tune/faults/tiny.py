"""A fit of seconds on the nano model, what it leaves, and whether two of them left the same."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from moe_tune.base.checkpoint_folder import ROUTER, sha256_of

NAMES = ("nano", "debug/tiny", "logger/none")
TINY = (
    "fit",
    *(word for name in NAMES for word in ("--config", name)),
    *("--data.source.train=64", "--data.source.validation=32", "--data.source.test=32", "--data.test_protocols=[]"),
    *("--trainer.max_epochs=3", "--trainer.log_every_n_steps=1", "--trainer.enable_progress_bar=false"),
)
"""Three epochs of four steps, validated after each, and 32 questions tested."""
STEPS = 12
KILLED_AT = 10
"""In the third epoch."""
QUESTIONS = 32
TIMES = re.compile(r"time|seconds|.*_seconds")
LAST = Path("checkpoints", "last.ckpt")


def only_run(folder: Path) -> Path:
    """Return the one run below a folder's ``runs``.

    Raises:
        ValueError: There is none, or more than one.
    """
    (run,) = [path for path in (folder / "runs").iterdir() if path.is_dir() and not path.name.startswith(".")]
    return run


def manifest(run: Path) -> dict[str, Any]:
    """Return the manifest of a run."""
    found: dict[str, Any] = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    return found


def left(run: Path) -> dict[str, Any]:
    """Return what a fit left that a second one has to leave, too: heads, answers, and the history without times."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    answers = {file.name: _columns(file) for file in sorted((run / "questions").glob("*.parquet"))}
    return {
        "status": manifest(run).get("status"),
        "heads": sha256_of(run / LAST / ROUTER),
        "answers": answers,
        "history": [{key: value for key, value in row.items() if not TIMES.fullmatch(key)} for row in rows],
    }


def apart(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Return which parts of what two fits left differ, in a word each; ``bit for bit`` if none does."""
    found = [name for name, value in one.items() if repr(value) != repr(other[name])]
    return f"other {', '.join(found)}" if found else "bit for bit"


def told(code: int, said: str, *words: str) -> str:
    """Return an exit code, and what of the words a message lacks, with its end."""
    missing = [word for word in words if word not in said]
    return f"exit {code}" + (f", not {missing} in: {' '.join(said.split())[-300:]}" if missing else "")


def _columns(file: Path) -> dict[str, list[Any]]:
    return {str(name): [str(value) for value in column] for name, column in pd.read_parquet(file).items()}
