"""What the parts of an analysis came to, kept as each ends, so that an interrupted analysis goes on where it was."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from moe_tune.base.published import published

FACTS = "facts.json"


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """What a pass over the questions, or a measurement, came to.

    Args:
        tables: Its tables by name.
        facts: What else the report says of it, as plain values for JSON.
    """

    tables: Mapping[str, pd.DataFrame]
    facts: Mapping[str, Any] = field(default_factory=dict)


def keep(part: Part, folder: Path, key: str) -> Part:
    """Write a part, whole or not at all, and return it as it will be read again."""
    with published(folder) as draft:
        draft.mkdir()
        for name, table in part.tables.items():
            table.to_parquet(draft / f"{name}.parquet", index=False)
        values = {"key": key, "tables": list(part.tables), "facts": part.facts}
        (draft / FACTS).write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")
    again = kept(folder, key)
    assert again is not None
    return again


def kept(folder: Path, key: str) -> Part | None:
    """Return a part that was kept under a key; ``None`` if there is none, or one that follows from something else."""
    if not (folder / FACTS).is_file():
        return None
    values = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    if values["key"] != key:
        return None
    return Part({name: pd.read_parquet(folder / f"{name}.parquet") for name in values["tables"]}, values["facts"])
