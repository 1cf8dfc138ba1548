"""Answering: takes the batches of a split the cheapest exact way."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from moe_tune.answer_path.build import build_store
from moe_tune.answer_path.circumstances import Circumstances
from moe_tune.answer_path.description import cache_folder, describe_cache, prompt_hashes
from moe_tune.answer_path.forward import answer_logits, choice_logits, logits_from
from moe_tune.answer_path.packed_prompts import packed_logits
from moe_tune.answer_path.prefixes import SharedPrefixes, shared_prefixes
from moe_tune.answer_path.prompt_pass import PromptPass, StreamedStates
from moe_tune.answer_path.proof import prove_answer_path
from moe_tune.answer_path.states import PromptStates
from moe_tune.answer_path.store import PromptStore, StorePlan, open_store
from moe_tune.answer_path.trunk import TrunkPass, trunk_hidden, trunk_plan
from moe_tune.answer_path.way import Way, WayDecision, decide_way
from moe_tune.base.errors import ConfigError
from moe_tune.data.batching import Batch
from moe_tune.data.encoding import PromptedQuestion
from moe_tune.models.state_shape import StateShape


class StateSource(Protocol):
    """Gives the states of any batch of a split."""

    def batch(self, question_B: Tensor) -> PromptStates:
        """Return the states of questions, in the order asked."""


class Answering:
    """Decides, split by split, which way batches go, and takes them there.

    Args:
        circumstances: What it depends on.
    """

    def __init__(self, circumstances: Circumstances) -> None:
        self.circumstances = self.here = circumstances
        self.ways: dict[str, Way] = {}
        """How the batches of each split go, as far as it is decided."""
        self._sources: dict[str, StateSource] = {}
        self._shapes: dict[str, StateShape] = {}
        self._hashes: dict[tuple[str, int], dict[str, str]] = {}

    # Deciding

    def decide(self, split: str) -> WayDecision:
        """Return how a split goes, as the first process decides it; a sample that it asks for is the caller's to take.

        Raises:
            ConfigError: The answer path is demanded where it is not exact, or a question alone is above the limit.
        """
        if split in self.ways:
            return WayDecision(self.ways[split])
        here = self.here
        decided: WayDecision | ConfigError | None = None
        if not here.ranks.rank:
            try:
                reach = replace(here.reach, cloze=here.quiz.is_cloze(split))
                decided = decide_way(split, reach, here.settings, _Sizes(self, split))
            except ConfigError as fault:  # the others must not wait for a decision that never comes
                decided = fault
        decided = here.ranks.broadcast(decided)
        if isinstance(decided, ConfigError):
            raise decided
        assert isinstance(decided, WayDecision)
        if decided.sample is None:
            self.ways[split] = decided.way
        return decided

    def way(self, split: str) -> Way:
        """Return how the batches of a split go."""
        decided = self.decide(split)
        assert decided.sample is None, "the sample is taken before the way is gone"
        return decided.way

    def describe(self) -> str:
        """Return in words how every split asked for goes."""
        use, why_not = self.here.settings.use, self.here.reach.why_not
        if use != "trunk":
            if use == "never" or why_not:
                return f"answer path off ({'switched off' if use == 'never' else why_not}): full prompts"
            if not self.ways:
                return "answer path on"
        splits = "; ".join(
            f"{', '.join(name for name in self.ways if self.ways[name] == way)} {way}"
            for way in sorted(set(self.ways.values()))
        )
        return splits if use == "trunk" else f"answer path on ({splits})"

    # Going

    def logits(self, batch: Batch, split: str, words: Sequence[int] | None = None) -> Tensor:
        """Return the logits over the vocabulary at the answer position, (B x N, V); N heads side by side, or 1.

        Of a cloze batch they are those at the tokens that predict a choice's, (M x N, V). With ``words`` they are those
        of these tokens alone.
        """
        way, gated = self.way(split), self.here.gated
        if way is Way.FULL_PROMPTS:
            if batch.choices is not None:
                return packed_logits(gated, batch, batch.choices)
            return gated(batch.input_ids_BS, batch.attention_mask_BS, batch.answer_position_B, words)
        return self.logits_of(self.states(batch, split), batch, split, words)

    def _proved(self) -> None:
        """Prove, once per model, that a family without a file may be asked on the answer path."""
        gated = self.here.gated
        if not gated.family.plain_tail and not gated.answers_proved:
            prove_answer_path(gated, self._shape(self._first_layer))
            gated.answers_proved = True

    def states(self, batch: Batch, split: str) -> PromptStates:
        """Return the states of a batch's prompts, where they do not go in full; the next call may write over them."""
        return self.source(split).batch(batch.question_B).to(batch.question_B.device)

    def logits_of(self, states: PromptStates, batch: Batch, split: str, words: Sequence[int] | None = None) -> Tensor:
        """Return what ``logits`` does, from states that were read before: as often as is wanted."""
        way, gated = self.way(split), self.here.gated
        if batch.choices is not None:
            return choice_logits(gated, self._shapes[split], states, batch, batch.choices)
        if way is not Way.TRUNK:
            return answer_logits(gated, self._shapes[split], states, words)
        hidden_BSD = trunk_hidden(gated, self._first_layer, states, batch.attention_mask_BS)
        rows_B = torch.arange(len(hidden_BSD), device=hidden_BSD.device)
        return gated.vocabulary_logits(hidden_BSD[rows_B, batch.answer_position_B], words)

    def logits_from(
        self,
        layer: int,
        hidden_BD: Tensor,
        states: PromptStates,
        batch: Batch,
        split: str,
        words: Sequence[int] | None = None,
    ) -> Tensor:
        """Return what ``logits_of`` does on the answer path, where what enters a layer at the answer token is known."""
        assert batch.choices is None
        return logits_from(self.here.gated, self._shapes[split], states, layer, hidden_BD, words)

    def keep(self, split: str) -> None:
        """Build or open the prompt cache of a split that has one."""
        if self.way(split) in (Way.CACHED, Way.TRUNK):
            self.source(split)

    def source(self, split: str) -> StateSource:
        """Return where the states of a split come from; its cache is built when first asked for."""
        if split not in self._sources:
            way = self.way(split)
            self._shapes[split] = self._shape(self._first_layer)
            if way in (Way.CACHED, Way.STREAMED):
                self._proved()
            if way is Way.STREAMED:
                self._sources[split] = StreamedStates(self._prompt_pass(split))
            elif way is Way.CACHED and (kept := self._kept_by_all(split)) is not None:
                # A cache that starts at a lower layer serves as well: the layers between have no heads.
                self._shapes[split] = self._shape(kept[0])
                self._sources[split] = kept[1]
            else:
                trunk = way is Way.TRUNK
                description, plan = self._description(split, self._first_layer, trunk), self.plan(split, trunk)
                folder = cache_folder(description, self.here.settings.folder)
                computed = self._trunk_pass(split) if trunk else self._prompt_pass(split)
                self._sources[split] = build_store(folder, plan, description, computed, self.here.ranks)
        return self._sources[split]

    def _kept_by_all(self, split: str) -> tuple[int, StateSource] | None:
        # The first process decides: one that comes later might see what another run has published meanwhile.
        kept = self.kept(split)
        return kept if self.here.ranks.broadcast(kept is not None) else None

    def kept(self, split: str) -> tuple[int, PromptStore] | None:
        """Return the kept prompts of a split that serve, and the layer they enter; ``None`` where there are none."""
        for first in range(self._first_layer, -1, -1):
            store = open_store(cache_folder(self._description(split, first), self.here.settings.folder))
            if store is not None:
                store.touch()
                return first, store
        return None

    def _prompt_pass(self, split: str) -> PromptPass:
        here, shape = self.here, self._shape(self._first_layer)
        return PromptPass(
            here.gated, shape, self._prompts(split), self._prefixes(split), here.quiz.pad_id, here.pass_experts
        )

    def _trunk_pass(self, split: str) -> TrunkPass:
        return TrunkPass(self.here.gated, self._first_layer, self._prompts(split), self.here.quiz.pad_id)

    # What a cache is of

    @property
    def _first_layer(self) -> int:
        return self.here.reach.first_layer

    def _prompts(self, split: str) -> list[PromptedQuestion]:
        return self.here.quiz.encoded(split).prompts

    def _prefixes(self, split: str) -> SharedPrefixes:
        return shared_prefixes(self._prompts(split))

    def _shape(self, first_layer: int) -> StateShape:
        gated = self.here.gated
        lower = tuple(layer for layer in gated.gates if layer < first_layer)
        return gated.family.state_shape(gated.model.config, first_layer, lower, gated.model.dtype)

    def plan(self, split: str, trunk: bool = False) -> StorePlan:
        """Return the sizes of a split's cache."""
        shape = self._shape(self._first_layer)
        if trunk:
            return trunk_plan(shape, self._prompts(split))
        lengths_Q = torch.tensor([len(one.ids_S) for one in self._prompts(split)])
        shared = self._prefixes(split)
        prefix_Q = torch.tensor(shared.prefix_Q)
        before_Q = torch.tensor([shared.length(index) for index in range(len(lengths_Q))])
        prefix_length_G = torch.tensor([len(one) for one in shared.tokens_G], dtype=torch.long)
        answers_Q = None
        if self.here.quiz.is_cloze(split):
            answers_Q = torch.tensor([one.length for one in self._prompts(split)]) - lengths_Q + 1
        return StorePlan(shape, lengths_Q - before_Q - 1, prefix_Q, prefix_length_G, lengths_Q - 1, answers_Q)

    def _description(self, split: str, first_layer: int, trunk: bool = False) -> dict[str, Any]:
        questions = len(self._prompts(split))
        if (split, questions) not in self._hashes:
            self._hashes[split, questions] = prompt_hashes(self.here.quiz.encoded(split))
        return describe_cache(self.here, split, first_layer, trunk, self._hashes[split, questions])


@dataclass(frozen=True)
class _Sizes:
    """What the caches of a split take, computed where it is asked for."""

    answering: Answering
    split: str

    @property
    def questions(self) -> int:
        return len(self.answering.here.quiz.encoded(self.split).prompts)

    @cached_property
    def prompt_bytes(self) -> int:
        return self.answering.plan(self.split).bytes

    @property
    def trunk_bytes(self) -> int:
        return self.answering.plan(self.split, trunk=True).bytes

    @property
    def kept(self) -> bool:
        return self.answering.kept(self.split) is not None
