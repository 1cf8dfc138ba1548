"""lm-eval's own model of transformers, with heads on: its batches, its encoding, its scores."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from lm_eval.api.registry import register_model
from lm_eval.models import huggingface
from lm_eval.models.huggingface import HFLM
from torch import Tensor

from moe_tune.base.replaced import replaced
from moe_tune.gates.gated_model import GatedModel
from moe_tune.harness.batches import NotedBatches, Request, token_masks
from moe_tune.harness.kept_tasks import KeptTasks

NAME = "moe_tune"
"""Under what lm-eval's registry knows it."""


@register_model(NAME)
class GatedLM(HFLM):
    """A model with its heads on, or the pretrained one under it, as lm-eval asks models.

    Heads act at their scope: ``all`` is every real token, ``answer`` the last prompt token and every token of the
    continuation but the last; in generation the last position of every step.

    Args:
        gated: The model; its heads act as they do in the session around it.
        tokenizer: The model's own.
        tasks: The tasks it is going to be asked; none of their prompts is cut.
        base_path: Where the base model was loaded from.
        base_only: Whether it is the pretrained one.
        batch_size: Requests a call, or ``auto``, as lm-eval's own models take it.
        max_batch_size: Most requests a call under ``auto``.

    Raises:
        DataError: When it is asked: a prompt does not fit the context.
    """

    def __init__(
        self,
        gated: GatedModel,
        tokenizer: Any,
        tasks: KeptTasks,
        *,
        base_path: str,
        base_only: bool,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
    ) -> None:
        sizes = {"batch_size": batch_size} | ({"max_batch_size": max_batch_size} if max_batch_size else {})
        super().__init__(gated.model, backend="causal", tokenizer=tokenizer, **sizes)
        self.gated, self.tasks, self.base_path, self.base_only = gated, tasks, base_path, base_only
        self._batch: Sequence[Request] | None = None

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        self.tasks.refuse_cut_prompts(self)
        answers: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm)
        return answers

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        self.tasks.refuse_cut_prompts(self)
        answers: list[float] = super().loglikelihood_rolling(requests, disable_tqdm)
        return answers

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        self.tasks.refuse_cut_prompts(self)
        answers: list[str] = super().generate_until(requests, disable_tqdm)
        return answers

    def get_model_info(self) -> dict[str, Any]:
        """Return what lm-eval writes of the model, and what this program knows of it."""
        gated = self.gated
        own: dict[str, Any] = {
            "base": self.base_path,
            "fingerprint": gated.fingerprint,
            "routing_dtype": gated.routing_dtype,
        }
        if not self.base_only:
            own |= {"head": gated.head_name, "scope": gated.scope, "layers": gated.layers}
        return {**super().get_model_info(), NAME: own}

    def _loglikelihood_tokens(self, requests: list[Request], *given: Any, **named: Any) -> list[tuple[float, bool]]:
        # lm-eval runs requests of the same tokens once; where their prompts end at different places heads may differ.
        ends: dict[tuple[int, ...], set[int]] = {}
        for _, prompt, continuation in requests:
            ends.setdefault((*prompt, *continuation[:-1]), set()).add(len(continuation))
        once = self.logits_cache and all(len(lengths) == 1 for lengths in ends.values())
        batches = partial(NotedBatches, partial(setattr, self, "_batch"))
        with replaced(huggingface, Collator=batches), replaced(self, logits_cache=once):
            answers: list[tuple[float, bool]] = super()._loglikelihood_tokens(requests, *given, **named)
        return answers

    def _model_call(self, inps: Tensor, *given: Any, **named: Any) -> Tensor:
        # Without a batch lm-eval is trying out how many rows fit into memory.
        real_BS, answer_BS = (None, None) if self._batch is None else token_masks(self._batch, inps)
        with self.gated.session(needs=(), base_only=self.base_only, real_BS=real_BS, answer_BS=answer_BS):
            logits_BSV: Tensor = super()._model_call(inps, *given, **named)
        return logits_BSV

    def _model_generate(self, *given: Any, **named: Any) -> Tensor:
        with self.gated.session(needs=(), base_only=self.base_only):
            ids_BS: Tensor = super()._model_generate(*given, **named)
        return ids_BS
