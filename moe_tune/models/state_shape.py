"""What a family says of the size of kept prompt states."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class StateShape:
    """The sizes of what is kept per question, for one model and one first layer.

    Args:
        first_layer: First decoder layer that runs on answer tokens; what enters it is kept.
        layers: Decoder layers of the model.
        lower_routers: Decoder layers below ``first_layer`` that hold a router; what it reads is kept.
        width: Width of the hidden state, D.
        key_value_heads: Heads of keys and values, H.
        head_dim: Width of a key or value, C, the wider of the two.
        dtype: Dtype of everything kept, the model's own.
    """

    first_layer: int
    layers: int
    lower_routers: tuple[int, ...]
    width: int
    key_value_heads: int
    head_dim: int
    dtype: torch.dtype

    @property
    def upper_layers(self) -> int:
        """Layers whose keys and values are kept."""
        return self.layers - self.first_layer

    @property
    def token_values(self) -> int:
        """Numbers kept per cached prompt token."""
        return self.upper_layers * 2 * self.key_value_heads * self.head_dim

    @property
    def answer_values(self) -> int:
        """Numbers kept per question at its answer position."""
        return (1 + len(self.lower_routers)) * self.width

    @property
    def token_bytes(self) -> int:
        """Bytes per cached prompt token."""
        return self.token_values * self.dtype.itemsize

    @property
    def answer_bytes(self) -> int:
        """Bytes per question at its answer position."""
        return self.answer_values * self.dtype.itemsize
