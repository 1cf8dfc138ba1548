"""The table of the training split that calibrated heads read: how often each expert was chosen, and how it went."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from moe_tune.errors import ConfigError


@dataclass(frozen=True, slots=True)
class LayerTable:
    """One layer's part of a training-split table.

    Args:
        chosen_E: Questions whose answer token was routed to each expert.
        correct_E: Those of them that the model answered correctly.
    """

    chosen_E: Tensor
    correct_E: Tensor


@dataclass(frozen=True, slots=True)
class TrainTable:
    """Counts from one pass of the pretrained router over training questions; never over validation or test.

    Args:
        split: The split the questions came from; only ``train`` is accepted.
        questions: Number of questions.
        questions_hash: First 16 hex digits of sha256 over their sorted ids.
        layers: One table per MoE layer.

    Raises:
        ConfigError: The table was made from another split.
    """

    split: str
    questions: int
    questions_hash: str
    layers: dict[int, LayerTable]

    def __post_init__(self) -> None:
        if self.split != "train":
            raise ConfigError(
                f"expected calibration on the train split but got {self.split!r} (head calibration). "
                "Hint: accuracy tables may only see training questions."
            )


def ids_hash(ids: Iterable[str]) -> str:
    """Return the first 16 hex digits of sha256 over sorted question ids."""
    return hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()[:16]
