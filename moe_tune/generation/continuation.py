"""What a model says behind a prompt: transformers' own generation with a cache, heads on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig

from moe_tune.base.replaced import replaced
from moe_tune.gates.gated_model import GatedModel
from moe_tune.generation.decoding import Decoding


@dataclass(frozen=True, slots=True)
class Continuation:
    """What was said.

    Args:
        ids: The tokens, with the one that ended it if there was one.
        text: The text, without special tokens.
    """

    ids: tuple[int, ...]
    text: str


def continuation(gated: GatedModel, tokenizer: Any, prompt_ids: Sequence[int], how: Decoding) -> Continuation:
    """Return what a model says behind a prompt.

    Of the model's own generation settings its end tokens count, and nothing else. Heads act at their scope: ``answer``
    is the last prompt token and every generated one. What acts is the session's around it.

    Args:
        gated: The model with heads on it.
        tokenizer: Its tokenizer.
        prompt_ids: The prompt, which fits the context with what is generated.
        how: How the next token is chosen.
    """
    model: Any = gated.model
    ends = model.generation_config.eos_token_id
    ends = tokenizer.eos_token_id if ends is None else ends
    # What a call leaves open is filled in from the model's own settings, which may cut the tail or punish.
    chosen = {"do_sample": True, "temperature": how.temperature, "top_k": 0, "top_p": 1.0} if how.temperature else {}
    plain = GenerationConfig(
        **({"do_sample": False} | chosen),
        max_new_tokens=how.max_new_tokens,
        use_cache=True,
        eos_token_id=ends,
        pad_token_id=0,  # one row needs none
    )
    ids_BS = torch.tensor([prompt_ids], device=gated.device)
    gpus = [ids_BS.device] if ids_BS.is_cuda else []
    gated.train(False)
    with gated.session(needs=()), replaced(model, generation_config=plain), torch.random.fork_rng(gpus):
        torch.manual_seed(how.seed)
        whole_BS = model.generate(ids_BS, attention_mask=torch.ones_like(ids_BS))
    ids = whole_BS[0, len(prompt_ids) :].tolist()
    return Continuation(tuple(ids), tokenizer.decode(ids, skip_special_tokens=True))


def shared_tokens(one: Continuation, other: Continuation) -> int | None:
    """Return how many tokens two continuations begin with in common before they part; ``None`` if they are the same.

    Example:
        >>> shared_tokens(Continuation((5, 6), ""), Continuation((5, 7, 8), ""))
        1
        >>> shared_tokens(Continuation((5, 6), ""), Continuation((5, 6, 8), ""))
        2
    """
    if one.ids == other.ids:
        return None
    pairs = zip(one.ids, other.ids, strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(one.ids), len(other.ids)))


def parted_text(said: Continuation, shared: int | None, tokenizer: Any) -> tuple[str, str]:
    """Return a text in two: what comes from its first ``shared`` tokens, and the rest; ``None`` shares all of it.

    A character of several tokens that the cut goes through belongs to the rest.
    """
    if shared is None:
        return said.text, ""
    same = tokenizer.decode(said.ids[:shared], skip_special_tokens=True)
    while not said.text.startswith(same):
        same = same[:-1]
    return same, said.text[len(same) :]
