"""What one pass over the prompts leaves behind: the contract between the pass, the cache and the one-token forward."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class PromptStates:
    """The kept states of a batch of questions; U counts the upper layers, R the routers below them.

    The tokens before the answer position are a prefix that several questions may share, then the question's own.

    Args:
        answer_BXD: At the answer position: what enters the first upper layer, then what each lower router reads. Of
            cloze questions, which have several answer tokens, (B, W, 1 + R, D), padded on the right.
        own_UVBHSC: Keys (V index 0) and values (V index 1) of each question's own tokens, padded on the right.
        length_B: How many own tokens each question has, its answer token not counted.
        prefix_B: Which prefix comes before them; -1 where there is none.
        prefixes: Keys and values of each prefix in the batch, ``(U, 2, H, P, C)``.
        position_B: Position of the answer token in the whole prompt.

    Shape:
        - answer_BXD: (B, 1 + R, D).
        - own_UVBHSC: (U, 2, B, H, S, C).
    """

    answer_BXD: Tensor
    own_UVBHSC: Tensor
    length_B: Tensor
    prefix_B: Tensor
    prefixes: Mapping[int, Tensor]
    position_B: Tensor

    def to(self, device: torch.device) -> "PromptStates":
        """Return the states on a device."""
        if self.answer_BXD.device == device:
            return self
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        moved = {name: value.to(device) for name, value in values.items() if isinstance(value, Tensor)}
        return replace(self, **moved, prefixes={index: value.to(device) for index, value in self.prefixes.items()})
