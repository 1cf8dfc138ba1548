"""The pass over the prompts: what the answer path needs of them, with the pretrained router deciding everywhere."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import DynamicCache

from moe_tune.answer_path.prefixes import SharedPrefixes
from moe_tune.answer_path.states import PromptStates
from moe_tune.base.errors import ModelError
from moe_tune.data.encoding import PromptedQuestion
from moe_tune.data.packed import PackedChoices
from moe_tune.gates.gated_model import GatedModel
from moe_tune.models.experts_choice import experts_run_by
from moe_tune.models.state_shape import StateShape
from moe_tune.routing import RoutingTrace


class _LastKeysKept(Exception):
    """Ends a pass: the keys and values of the last layer are there, and nothing after them is needed."""


class _KeptKeys(DynamicCache):
    """Keeps the keys and values a pass computes, and puts those of a shared prefix before them.

    Args:
        prefix: Keys and values of the prefix by layer, ``(1, H, P, C)`` each.
        first_layer: First layer whose keys are kept.
        layers: Layers of the model.
    """

    def __init__(self, prefix: list[tuple[Tensor, Tensor]], first_layer: int, layers: int) -> None:
        super().__init__()
        self.prefix, self.first_layer, self.last_layer = prefix, first_layer, layers - 1
        self.length = prefix[0][0].shape[2] if prefix else 0
        self.kept: list[tuple[Tensor, Tensor]] = []

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Keep a layer's keys and values; end the pass at the last layer."""
        if layer_idx >= self.first_layer:
            self.kept.append((key_states, value_states))
        if layer_idx == self.last_layer:
            raise _LastKeysKept
        if not self.prefix:
            return key_states, value_states
        keys, values = (kept.expand(len(key_states), -1, -1, -1) for kept in self.prefix[layer_idx])
        return torch.cat([keys, key_states], dim=2), torch.cat([values, value_states], dim=2)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return how many tokens come before those of the pass."""
        return self.length

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Return the length of keys, prefix included, and their offset."""
        return self.length + query_length, 0


@dataclass(eq=False)
class PromptPass:
    """Computes the states of prompts; the pretrained router decides for every token.

    Nothing is computed that the answer path does not read: no logits, and of the last layer only keys and values.

    Args:
        gated: A model with heads on it; they do not act during the pass.
        shape: What to keep.
        prompts: The prompts of a split.
        prefixes: Which of them begin with the same tokens.
        pad_id: The token that fills shorter prompts.
        experts: The experts implementation of the pass; ``None`` is the model's own.
    """

    gated: GatedModel
    shape: StateShape
    prompts: Sequence[PromptedQuestion]
    prefixes: SharedPrefixes
    pad_id: int
    experts: str | None = None
    _prefix: dict[int, list[tuple[Tensor, Tensor]]] = field(default_factory=dict, init=False)

    @torch.no_grad()
    def batch(self, question_B: Sequence[int]) -> PromptStates:
        """Return the states of questions that share one prefix, or have none."""
        prefix = self.prefixes.prefix_Q[question_B[0]]
        start = self.prefixes.length(question_B[0])
        prompts = [self.prompts[index] for index in question_B]
        length_B = torch.tensor([len(one.ids_S) - start - 1 for one in prompts])
        most = max(len(one.choices) for one in prompts)
        choices = PackedChoices.of(prompts, most, start) if most else None
        rows = [one.row_S[start:].long() for one in prompts]
        kept, answer_BXD = self._run(
            rows, self._prefix_layers(prefix) if prefix >= 0 else [], choices=choices, answer_B=length_B
        )
        length_B = length_B.to(self.gated.device)
        questions, heads = kept[0][0].shape[:2]
        own = kept[0][0].new_zeros(len(kept), 2, questions, heads, int(length_B.max()), self.shape.head_dim)
        for layer in range(len(own)):
            for which, states in enumerate(kept.pop(0)):  # each layer is let go once it is copied
                if states.shape[1] != heads or states.shape[-1] > self.shape.head_dim:
                    raise ModelError(
                        f"expected {heads} heads of at most {self.shape.head_dim} numbers in every layer but got "
                        f"{states.shape[1]} of {states.shape[-1]}. Hint: --model.answer_path.use never."
                    )
                own[layer, which, ..., : states.shape[-1]] = states[:, :, : own.shape[4]]
        prefixes = {}
        if prefix >= 0:
            upper = self._prefix_layers(prefix)[self.shape.first_layer :]
            wide = [[functional.pad(one, (0, self.shape.head_dim - one.shape[-1])) for one in pair] for pair in upper]
            prefixes = {prefix: torch.stack([torch.cat(pair) for pair in wide])}
        return PromptStates(answer_BXD, own, length_B, torch.full_like(length_B, prefix), prefixes, length_B + start)

    def _prefix_layers(self, index: int) -> list[tuple[Tensor, Tensor]]:
        """Return the keys and values of a prefix in every layer; those of the last prefix asked for stay in memory."""
        if index not in self._prefix:
            ids_S = torch.tensor(self.prefixes.tokens_G[index])
            kept, _ = self._run([ids_S], [], first_layer=0)
            self._prefix = {index: kept}
        return self._prefix[index]

    def _run(
        self,
        rows: list[Tensor],
        prefix: list[tuple[Tensor, Tensor]],
        first_layer: int | None = None,
        choices: PackedChoices | None = None,
        answer_B: Tensor | None = None,
    ) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
        """Run the model over tokens; return the kept keys and values, and what was read at the last token of each.

        With choices it is read at every token from the last of the prompt on, padded.
        """
        lengths_B = torch.tensor([len(row) for row in rows])
        ids_BS = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.pad_id)
        mask_BS = (torch.arange(ids_BS.shape[1]) < lengths_B[:, None]).long()
        before = prefix[0][0].shape[2] if prefix else 0
        seen_BS = torch.cat([torch.ones(len(rows), before, dtype=torch.long), mask_BS], dim=1)
        first = self.shape.first_layer if first_layer is None else first_layer
        cache = _KeptKeys(prefix, first, self.shape.layers)
        place_B, place, model = lengths_B - 1, {}, self.gated.model
        if choices is not None:
            assert answer_B is not None
            place_B = answer_B[:, None] + torch.arange(int((lengths_B - answer_B).max()))
            place_B = place_B.clamp(max=ids_BS.shape[1] - 1)
            mask = choices.mask(mask_BS, model.dtype)
            seen_BS = torch.cat([mask.new_zeros(*mask.shape[:3], before), mask], dim=-1)
            place = {"position_ids": choices.position_BS.to(self.gated.device)}
        with (
            self._read_at(place_B, ids_BS.shape[1]) as read,
            experts_run_by(model, self.experts),
            self.gated.session(needs=(), base_only=True) as session,
            suppress(_LastKeysKept),
        ):
            if choices is not None:
                real_BS = mask_BS.bool().to(self.gated.device)
                session.trace = RoutingTrace.of_tokens(real_BS, real_BS)
            model.base_model(
                input_ids=ids_BS.to(self.gated.device),
                attention_mask=seen_BS.to(self.gated.device),
                **place,
                past_key_values=cache,
                use_cache=True,
            )
        return cache.kept, torch.stack([read[name] for name in sorted(read)], dim=-2)

    @contextmanager
    def _read_at(self, position_B: Tensor, length: int) -> Iterator[dict[int, Tensor]]:
        """Collect what enters the first upper layer (under -1) and what each lower router reads, at a position."""
        read: dict[int, Tensor] = {}
        row_B = torch.arange(len(position_B)).view(-1, *[1] * (position_B.dim() - 1))
        flat_B = (row_B * length + position_B).to(self.gated.device)

        def reader(name: int) -> Any:
            def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
                read[name] = args[0].reshape(-1, args[0].shape[-1])[flat_B]

            return hook

        model: Any = self.gated.model
        hooks = [model.base_model.layers[self.shape.first_layer].register_forward_pre_hook(reader(-1))]
        hooks += [
            self.gated.gates[layer].register_forward_pre_hook(reader(layer)) for layer in self.shape.lower_routers
        ]
        try:
            yield read
        finally:
            for hook in hooks:
                hook.remove()


class StreamedStates:
    """Runs the prompts of each batch anew; the questions of a shared prefix together.

    Args:
        prompt_pass: Computes the states.
    """

    def __init__(self, prompt_pass: PromptPass) -> None:
        self.prompt_pass = prompt_pass

    def batch(self, question_B: Tensor) -> PromptStates:
        """Return the states of questions, in the order asked."""
        groups: dict[int, list[int]] = {}
        questions = question_B.tolist()
        for place, question in enumerate(questions):
            groups.setdefault(self.prompt_pass.prefixes.prefix_Q[question], []).append(place)
        parts = [self.prompt_pass.batch([questions[place] for place in places]) for places in groups.values()]
        if len(parts) == 1:
            return parts[0]
        longest = max(part.own_UVBHSC.shape[-2] for part in parts)
        own = [functional.pad(part.own_UVBHSC, (0, 0, 0, longest - part.own_UVBHSC.shape[-2])) for part in parts]
        device, most = question_B.device, max(part.answer_BXD.shape[1] for part in parts)
        answers = [  # of several answer tokens, as cloze questions have them
            functional.pad(part.answer_BXD, (0, 0, 0, 0, 0, most - part.answer_BXD.shape[1])) for part in parts
        ]
        order = torch.tensor([place for places in groups.values() for place in places], device=device).argsort()
        return PromptStates(
            torch.cat(answers)[order],
            torch.cat(own, dim=2)[:, :, order],
            torch.cat([part.length_B for part in parts])[order],
            torch.cat([part.prefix_B for part in parts])[order],
            {index: value for part in parts for index, value in part.prefixes.items()},
            torch.cat([part.position_B for part in parts])[order],
        )
