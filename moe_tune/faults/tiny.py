"""A fit of seconds on the nano model, and what it says."""

import json
from pathlib import Path
from typing import Any

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
LAST = Path("checkpoints", "last.ckpt")


def manifest(run: Path) -> dict[str, Any]:
    """Return the manifest of a run."""
    found: dict[str, Any] = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    return found


def told(code: int, said: str, *words: str) -> str:
    """Return an exit code, and what of the words a message lacks, with its end."""
    missing = [word for word in words if word not in said]
    return f"exit {code}" + (f", not {missing} in: {' '.join(said.split())[-300:]}" if missing else "")
