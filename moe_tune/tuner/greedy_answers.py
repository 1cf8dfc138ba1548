"""The one pass over short questions: what a model says when it takes the likeliest token each time."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from transformers import GenerationConfig

from moe_tune.base.ranks import joined_over_ranks
from moe_tune.base.replaced import replaced
from moe_tune.data.exact_match import first_line
from moe_tune.data.short_batching import ShortBatch
from moe_tune.gates.gated_model import GatedModel

NOTHING = -1
"""Stands behind the last token of an answer that is shorter than it may be."""


class GreedyAnswers(NamedTuple):
    """What was said.

    Args:
        question_Q: Index of each question, ascending.
        texts: The first line of each answer.

    Shape:
        ``(Q,)``, on the CPU.
    """

    question_Q: Tensor
    texts: list[str]


def greedy_answers(
    gated: GatedModel,
    batches: Iterable[ShortBatch],
    tokenizer: Any,
    max_new_tokens: int,
    numerics: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> GreedyAnswers:
    """Return what all processes' questions are answered with; every process has to come here.

    It is ``generate`` of transformers with a cache and nothing but the largest logit: whatever a model's own generation
    settings say of sampling, penalties or caches does not count, its end tokens do. An answer ends there, at the first
    line break, or after ``max_new_tokens``. Heads act at their scope: ``answer`` is the last prompt token and every
    generated one, ``all`` every real token. A head that chooses questions is asked at the last prompt token, and what
    it says stands for the tokens that are generated. What acts is the session's around it.

    Args:
        gated: The model with heads on it.
        batches: Prompts, padded on the left.
        tokenizer: The model's own.
        max_new_tokens: At most so many tokens are generated, at least 1.
        numerics: Gives the context of a forward pass, such as autocast.
    """
    model: Any = gated.model
    ends = _ends(model.generation_config, tokenizer)
    pad = next(one for one in (tokenizer.pad_token_id, *ends, 0) if one is not None)
    plain = GenerationConfig(
        max_new_tokens=max_new_tokens, do_sample=False, use_cache=True, eos_token_id=ends or None, pad_token_id=pad
    )

    def line_has_ended(ids_BS: Tensor, scores: object, **more: object) -> Tensor:
        return torch.tensor(["\n" in one for one in tokenizer.batch_decode(ids_BS[:, -1:])], device=ids_BS.device)

    found: list[tuple[Tensor, Tensor]] = []
    training = gated.training
    gated.train(False)
    try:
        for given in batches:
            batch = given.to(gated.device)
            # What a call leaves open is filled in from the model's own settings, which may sample or punish.
            with gated.session(needs=()), replaced(model, generation_config=plain), numerics():
                ids_BS = model.generate(
                    batch.input_ids_BS, attention_mask=batch.attention_mask_BS, stopping_criteria=[line_has_ended]
                )
            new_BN = ids_BS[:, batch.input_ids_BS.shape[1] :].cpu()
            lacking = max_new_tokens - new_BN.shape[1]
            found.append((batch.question_B.cpu(), functional.pad(new_BN, (0, lacking), value=NOTHING)))
    finally:
        gated.train(training)
    question_Q, new_QN = (joined_over_ranks(torch.cat(parts)) for parts in zip(*found, strict=True))
    order_Q = question_Q.argsort()
    said = (_until(ids, {NOTHING, *ends}) for ids in new_QN[order_Q].tolist())
    return GreedyAnswers(question_Q[order_Q], [first_line(tokenizer.decode(ids)) for ids in said])


def _ends(settings: Any, tokenizer: Any) -> list[int]:
    """Return the tokens that end an answer; chat models have several."""
    given = settings.eos_token_id if settings.eos_token_id is not None else tokenizer.eos_token_id
    listed = given if isinstance(given, list) else [given]
    return [one for one in listed if one is not None]


def _until(ids: list[int], ends: set[int]) -> list[int]:
    """Return the tokens before the first that ends the answer."""
    return ids[: next((place for place, one in enumerate(ids) if one in ends), len(ids))]
