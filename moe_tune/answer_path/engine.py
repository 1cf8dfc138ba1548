"""Which way a batch goes: kept prompt states, states computed on the fly, a trunk cache, or the full prompts."""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor

from moe_tune.answer_path.build import build_store
from moe_tune.answer_path.forward import answer_logits
from moe_tune.answer_path.prefixes import SharedPrefixes, shared_prefixes
from moe_tune.answer_path.prompt_pass import PromptPass
from moe_tune.answer_path.settings import AnswerPath
from moe_tune.answer_path.states import PromptStates
from moe_tune.answer_path.store import StorePlan, cache_root, open_store
from moe_tune.answer_path.streamed import StreamedStates
from moe_tune.answer_path.trunk import TrunkPass, trunk_hidden, trunk_shape
from moe_tune.base.errors import ConfigError
from moe_tune.data.batching import Batch
from moe_tune.data.encoding import EncodedSplit
from moe_tune.models.state_shape import StateShape

if TYPE_CHECKING:
    from moe_tune.tuner.router_tuner import RouterTuner

LABELS = ("model", "revision", "split", "protocol", "few_shot")
"""Parts of a cache's description that are for people; the hashes beside them say the same, exactly."""


class StateSource(Protocol):
    """Gives the states of any batch of a split."""

    def batch(self, question_B: Tensor) -> PromptStates:
        """Return the states of questions, in the order asked."""
        ...


def why_not(tuner: "RouterTuner") -> str | None:
    """Return why the answer path would not be exact for a tuner, or ``None`` where it is."""
    if tuner.peft:
        return "a LoRA changes every token"
    if tuner.scope != "answer":
        return f"scope {tuner.scope}"
    wide = sorted(name for name, loss in tuner.losses.items() if loss.scope == "all" and loss.reads == "routing")
    if wide:
        return f"loss {wide[0]} looks at all tokens"
    return tuner.routers.family.answer_path_refusal(tuner.routers.model.config)


class AnswerEngine:
    """Decides, split by split, which way batches go, and takes them there.

    Args:
        tuner: A tuner whose model is loaded and whose trainer has a quiz.
        settings: What the user asked for.

    Raises:
        ConfigError: The answer path is demanded where it is not exact.
    """

    def __init__(self, tuner: "RouterTuner", settings: AnswerPath) -> None:
        self.tuner, self.settings = tuner, settings
        reason = why_not(tuner)
        if settings.use == "always" and reason:
            raise ConfigError(
                f"expected heads and losses of the answer position but got {reason} (model.answer_path.use). "
                "Hint: auto takes the full prompts where the answer path is not exact."
            )
        self.reason = "switched off" if settings.use == "never" else reason
        self.ways: dict[str, str] = {}
        """How the batches of each split go, in words."""
        self._sources: dict[str, StateSource] = {}
        self._shapes: dict[str, StateShape] = {}
        self._hashes: dict[tuple[str, int], dict[str, str]] = {}

    # Deciding

    def settle(self, split: str) -> str:
        """Decide how the batches of a split go, and return it in words; training above the limit is cut to a sample.

        Args:
            split: A split of the quiz.
        """
        if split not in self.ways:
            self.ways[split] = self._settle(split)
        return self.ways[split]

    def _settle(self, split: str) -> str:
        settings, training = self.settings, split == "train"
        if settings.use == "trunk":
            return self._trunk_or_prompts(split) if training else "full prompts"
        if self.reason:
            return "full prompts"
        size, limit = self._plan(split).bytes, settings.limit_gb * 1e9
        sampling = training and settings.above_limit == "sample"
        # What is on disk must not decide which questions train.
        if size <= limit or (not sampling and self._kept(split) is not None):
            return "cached"
        if not training or settings.above_limit == "stream":
            return "streamed"
        if settings.above_limit == "trunk":
            return self._trunk_or_prompts(split)
        quiz = self.tuner.quiz
        every = len(quiz.encoded(split).prompts)
        while size > limit:
            fewer = int(len(quiz.encoded(split).prompts) * min(0.98, limit / size))
            if fewer < 1:
                raise ConfigError(
                    f"expected room for a question's cache but got {settings.limit_gb:g} GB "
                    "(model.answer_path.limit_gb). Hint: --model.answer_path.above_limit stream keeps nothing."
                )
            quiz.limit(split, fewer)
            size = self._plan(split).bytes
        rank_zero_info(
            f"training on {len(quiz.encoded(split).prompts):,} of {every:,} questions, a sample by subject: their "
            f"cache stays within {settings.limit_gb:g} GB (model.answer_path.limit_gb, above_limit)"
        )
        return "cached"

    def _trunk_or_prompts(self, split: str) -> str:
        looked_at = [layer for loss in self.tuner.losses.values() for layer in loss.layers or ()]
        if self.tuner.peft:
            return "full prompts"
        below = min(looked_at, default=self._first_layer) < self._first_layer
        size = self._plan(split, trunk=True).bytes
        fits = size <= self.settings.limit_gb * 1e9
        return "trunk cache" if self._first_layer and fits and not below else "full prompts"

    def describe(self) -> str:
        """Return in words how every split asked for goes."""
        if self.settings.use != "trunk":
            if self.reason:
                return f"answer path off ({self.reason}): full prompts"
            if not self.ways:
                return "answer path on"
        splits = "; ".join(
            f"{', '.join(name for name in self.ways if self.ways[name] == way)} {way}"
            for way in sorted(set(self.ways.values()))
        )
        return splits if self.settings.use == "trunk" else f"answer path on ({splits})"

    # Going

    def logits(self, batch: Batch, split: str) -> Tensor:
        """Return the logits over the vocabulary at the answer position, (B x N, V); N heads of the panel, or 1.

        Args:
            batch: A batch of the data module.
            split: Its split.
        """
        way = self.settle(split)
        if way == "full prompts":
            full_BV: Tensor = self.tuner(batch)
            return full_BV
        device = batch.question_B.device
        states = self.source(split).batch(batch.question_B).to(device)
        if way != "trunk cache":
            return answer_logits(self.tuner.routers, self._shapes[split], states)
        hidden_BSD = trunk_hidden(self.tuner.routers, self._first_layer, states, batch)
        rows_B = torch.arange(len(hidden_BSD), device=device)
        model = self.tuner.routers.model
        logits: Tensor = model.get_output_embeddings()(hidden_BSD[rows_B, batch.answer_position_B])
        return logits

    def source(self, split: str) -> StateSource:
        """Return where the states of a split come from; its cache is built when first asked for.

        Args:
            split: A split of the quiz.
        """
        if split not in self._sources:
            way = self.settle(split)
            self._shapes[split] = self._shape(self._first_layer)
            if way == "streamed":
                self._sources[split] = StreamedStates(self._prompt_pass(split))
            elif way == "cached" and (kept := self._kept_by_all(split)) is not None:
                # A cache that starts at a lower layer serves as well: the layers between have no heads.
                self._shapes[split] = self._shape(kept[0])
                self._sources[split] = kept[1]
            else:
                trunk = way == "trunk cache"
                trainer = self.tuner.trainer
                self._sources[split] = build_store(
                    self._folder(split, self._first_layer, trunk),
                    self._plan(split, trunk),
                    self._description(split, self._first_layer, trunk),
                    self._trunk_pass(split) if trunk else self._prompt_pass(split),
                    trainer.global_rank,
                    trainer.world_size,
                    trainer.strategy.barrier,
                    trainer.strategy.broadcast,
                )
        return self._sources[split]

    def _kept_by_all(self, split: str) -> "tuple[int, StateSource] | None":
        # The first process decides: one that comes later might see what another run has published meanwhile.
        kept = self._kept(split)
        return kept if self.tuner.trainer.strategy.broadcast(kept is not None) else None

    def _kept(self, split: str) -> "tuple[int, StateSource] | None":
        for first in range(self._first_layer, -1, -1):
            store = open_store(self._folder(split, first))
            if store is not None:
                store.touch()
                return first, store
        return None

    def _prompt_pass(self, split: str) -> PromptPass:
        tuner, shape = self.tuner, self._shape(self._first_layer)
        prompts, prefixes = self._encoded(split).prompts, self._prefixes(split)
        return PromptPass(tuner.routers, shape, prompts, prefixes, tuner.quiz.pad_id, tuner.pass_experts)

    def _trunk_pass(self, split: str) -> TrunkPass:
        prompts, pad_id = self._encoded(split).prompts, self.tuner.quiz.pad_id
        return TrunkPass(self.tuner.routers, self._first_layer, prompts, pad_id)

    # What a cache is of

    @property
    def _first_layer(self) -> int:
        return min(self.tuner.routers.layers)

    def _encoded(self, split: str) -> EncodedSplit:
        return self.tuner.quiz.encoded(split)

    def _prefixes(self, split: str) -> SharedPrefixes:
        return shared_prefixes(self._encoded(split).prompts)

    def _shape(self, first_layer: int) -> StateShape:
        routers = self.tuner.routers
        lower = tuple(layer for layer in routers.gates if layer < first_layer)
        return routers.family.state_shape(routers.model.config, first_layer, lower, routers.model.dtype)

    def _plan(self, split: str, trunk: bool = False) -> StorePlan:
        shape = self._shape(self._first_layer)
        lengths_Q = torch.tensor([len(one.ids_S) for one in self._encoded(split).prompts])
        if trunk:
            none = torch.full_like(lengths_Q, -1)
            return StorePlan(trunk_shape(shape), lengths_Q, none, torch.zeros(0, dtype=torch.long), lengths_Q - 1)
        shared = self._prefixes(split)
        prefix_Q = torch.tensor(shared.prefix_Q)
        before_Q = torch.tensor([shared.length(index) for index in range(len(lengths_Q))])
        prefix_length_G = torch.tensor([len(one) for one in shared.tokens_G], dtype=torch.long)
        return StorePlan(shape, lengths_Q - before_Q - 1, prefix_Q, prefix_length_G, lengths_Q - 1)

    def _description(self, split: str, first_layer: int, trunk: bool = False) -> dict[str, Any]:
        tuner, questions = self.tuner, len(self._encoded(split).prompts)
        if (split, questions) not in self._hashes:
            self._hashes[split, questions] = _prompt_hashes(self._encoded(split))
        autocast = torch.is_autocast_enabled(tuner.device.type)
        return {
            "model": tuner.base.path,
            "revision": tuner.base.revision,
            "split": split,
            "protocol": tuner.quiz.protocol_name(split),
            "few_shot": tuner.quiz.few_shot,
            "questions": questions,
            "kind": "trunk" if trunk else "prompts",
            "weights_sha256": tuner.fingerprint,
            "config_sha256": _config_hash(tuner.routers.model.config.to_dict()),
            **self._hashes[split, questions],
            "dtype": str(tuner.routers.model.dtype).removeprefix("torch."),
            "autocast": str(torch.get_autocast_dtype(tuner.device.type)) if autocast else None,
            "routing_dtype": tuner.routing_dtype,
            "first_layer": first_layer,
            "layers": len(tuner.routers.model.base_model.layers),
        }

    def _folder(self, split: str, first_layer: int, trunk: bool = False) -> Path:
        exact = {key: value for key, value in self._description(split, first_layer, trunk).items() if key not in LABELS}
        key = hashlib.sha256(json.dumps(exact, sort_keys=True).encode()).hexdigest()[:16]
        return cache_root(self.settings.folder) / key


def _prompt_hashes(split: EncodedSplit) -> dict[str, str]:
    """Return hashes of which questions are asked, in order, and of every token of their prompts."""
    ids, tokens = hashlib.sha256(), hashlib.sha256()
    for one in split.prompts:
        ids.update(f"{one.question.id}\n".encode())
        tokens.update(f"{len(one.ids_S)}\n".encode() + one.ids_S.numpy().tobytes())
    return {"questions_sha256": ids.hexdigest(), "tokens_sha256": tokens.hexdigest()}


def _config_hash(config: dict[str, Any]) -> str:
    """Return a hash of what a model's configuration says about its computation."""
    told_elsewhere = ("dtype", "torch_dtype", "transformers_version", "architectures", "experts_implementation")
    kept = {key: value for key, value in config.items() if not key.startswith("_") and key not in told_elsewhere}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()
