"""Blocks of text on their way through the model: from what entered the first trained layer, where that is kept."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from rich.filesize import decimal
from torch import Tensor

from moe_tune.answer_path.build import TEXT_TRUNK, build_store
from moe_tune.answer_path.circumstances import Circumstances
from moe_tune.answer_path.description import cache_folder, describe_model
from moe_tune.answer_path.store import PromptStore, StorePlan
from moe_tune.answer_path.trunk import TrunkPass, trunk_hidden, trunk_plan
from moe_tune.answer_path.way import trunk_refusal
from moe_tune.data.text_batching import TextBatch

Split = Literal["train", "validation"]


@dataclass(frozen=True, slots=True)
class Row:
    """What runs of a block.

    Args:
        ids_S: Its tokens but the last, which predicts nothing.
    """

    ids_S: Tensor


class TextWay:
    """Gives the last hidden states of blocks, the cheapest exact way.

    The layers below the first with a head see the same tokens in every epoch and are frozen: what they make of training
    blocks is kept on disk, up to ``answer_path.limit_gb``. Where it cannot be kept it is computed again.

    Args:
        here: The circumstances of the run.
    """

    def __init__(self, here: Circumstances) -> None:
        self.here = here
        self._store: PromptStore | None = None

    @cached_property
    def why_again(self) -> str | None:
        """Why the lower layers run again in every epoch; ``None`` where what they make is kept."""
        settings, limit = self.here.settings, self.here.settings.limit_gb * 1e9
        if settings.use == "never":
            return "answer_path.use never"
        if refused := trunk_refusal(self.here.reach):
            return refused
        return None if self.plan.bytes <= limit else f"{decimal(self.plan.bytes)} are above {settings.limit_gb:g} GB"

    def describe(self) -> str:
        """Return in words how training blocks go, and what that costs."""
        layers = len(self.here.gated.model.base_model.layers)
        lower = self.here.reach.first_layer
        if self.why_again is None:
            kept = decimal(self.plan.bytes, precision=2)
            return f"text from its trunk ({kept} on disk; {layers - lower} of {layers} layers run)"
        return f"text through all {layers} layers ({self.why_again})"

    def keep(self) -> None:
        """Build or open the trunk of the training blocks, where there is one."""
        if self.why_again is None and self._store is None:
            here = self.here
            trunk = TrunkPass(here.gated, here.reach.first_layer, self._rows, here.quiz.pad_id)
            folder = cache_folder(self._description, here.settings.folder)
            self._store = build_store(folder, self.plan, self._description, trunk, here.ranks)

    def hidden(self, batch: TextBatch, split: Split) -> Tensor:
        """Return the last hidden states of a batch, (B, S, D); the open session's heads act."""
        gated = self.here.gated
        if split == "train" and self._store is not None:
            states = self._store.batch(batch.document_B).to(gated.device)
            return trunk_hidden(gated, self.here.reach.first_layer, states, batch.attention_mask_BS)
        body: Any = gated.model.base_model
        hidden_BSD: Tensor = body(
            input_ids=batch.input_ids_BS, attention_mask=batch.attention_mask_BS, use_cache=False
        ).last_hidden_state
        return hidden_BSD

    @cached_property
    def plan(self) -> StorePlan:
        """The sizes of the training blocks' trunk."""
        gated, first_layer = self.here.gated, self.here.reach.first_layer
        shape = gated.family.state_shape(gated.model.config, first_layer, (), gated.model.dtype)
        return trunk_plan(shape, self._rows)

    @cached_property
    def _rows(self) -> list[Row]:
        return [Row(one.ids_S[:-1]) for one in self.here.quiz.text_blocks("train")]

    @cached_property
    def _description(self) -> dict[str, Any]:
        tokens = hashlib.sha256()
        for one in self._rows:
            tokens.update(f"{len(one.ids_S)}\n".encode() + one.ids_S.numpy().tobytes())
        labels = {"split": "training text", "protocol": "text", "few_shot": 0}
        what = {"questions": len(self._rows), "kind": TEXT_TRUNK, "tokens_sha256": tokens.hexdigest()}
        return describe_model(self.here, self.here.reach.first_layer) | labels | what
