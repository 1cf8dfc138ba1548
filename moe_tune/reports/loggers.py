"""What a logger does that takes the tables and figures of an evaluation, beside numbers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

import pandas as pd


@runtime_checkable
class EvidenceLogger(Protocol):
    """A logger that takes an evaluation's tables and figures."""

    def log_evidence(self, split: str, tables: Mapping[str, pd.DataFrame], figures: Mapping[str, Path]) -> None:
        """Log a split's evidence."""
