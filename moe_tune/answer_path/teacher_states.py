"""What another model makes of prompts or blocks: its last hidden states, computed once and kept."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from moe_tune.answer_path.prefixes import SharedPrefixes
from moe_tune.answer_path.states import PromptStates
from moe_tune.answer_path.store import StorePlan
from moe_tune.models.state_shape import StateShape


@dataclass(frozen=True, slots=True, eq=False)
class AskedRow:
    """A row of tokens, and the places in it that a model is asked about.

    Args:
        ids_S: Its tokens.
        place_W: Positions, rising, at least one.
    """

    ids_S: Tensor
    place_W: Tensor


def teacher_plan(rows: Sequence[AskedRow], width: int, dtype: torch.dtype) -> StorePlan:
    """Return the sizes of what is kept: one hidden state for each place, and nothing of the tokens before it."""
    shape = StateShape(0, 0, (), width, 1, 1, dtype)  # no layer whose keys and values would be kept
    lengths_Q = torch.tensor([len(one.ids_S) for one in rows])
    none = torch.full_like(lengths_Q, -1)
    answers_Q = torch.tensor([len(one.place_W) for one in rows])
    return StorePlan(shape, lengths_Q - 1, none, torch.zeros(0, dtype=torch.long), lengths_Q - 1, answers_Q)


def rows_hash(rows: Sequence[AskedRow]) -> str:
    """Return a hash of all tokens and places, in order."""
    digest = hashlib.sha256()
    for one in rows:
        sizes = json.dumps([len(one.ids_S), len(one.place_W)])
        digest.update(f"{sizes}\n".encode() + one.ids_S.long().numpy().tobytes() + one.place_W.long().numpy().tobytes())
    return digest.hexdigest()


class TeacherPass:
    """Computes the last hidden states of a stock model, after its final norm, at the places asked about.

    Args:
        model: The model.
        rows: What it reads.
        pad_id: The token that fills shorter rows.
    """

    def __init__(self, model: PreTrainedModel, rows: Sequence[AskedRow], pad_id: int) -> None:
        self.model, self.rows, self.pad_id = model, rows, pad_id
        self.prefixes = SharedPrefixes([], [-1] * len(rows))

    @torch.no_grad()
    def batch(self, question_B: Sequence[int]) -> PromptStates:
        """Return the states of rows."""
        rows = [self.rows[index] for index in question_B]
        length_B = torch.tensor([len(one.ids_S) for one in rows])
        ids_BS = nn.utils.rnn.pad_sequence(
            [one.ids_S.long() for one in rows], batch_first=True, padding_value=self.pad_id
        )
        mask_BS = (torch.arange(ids_BS.shape[1]) < length_B[:, None]).long()
        body: Any = self.model.base_model
        device = self.model.device
        hidden_BSD = body(
            input_ids=ids_BS.to(device), attention_mask=mask_BS.to(device), use_cache=False
        ).last_hidden_state
        asked = [hidden_SD[one.place_W.to(device), None] for hidden_SD, one in zip(hidden_BSD, rows, strict=True)]
        answer_BWXD = nn.utils.rnn.pad_sequence(asked, batch_first=True)
        nothing = hidden_BSD.new_zeros(0, 2, len(rows), 1, int(length_B.max()), 1)
        return PromptStates(answer_BWXD, nothing, length_B - 1, torch.full_like(length_B, -1), {}, length_B - 1)
