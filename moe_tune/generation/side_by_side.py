"""The texts of base and tuned models behind the same prompts, and the experts that served their tokens."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from moe_tune.analysis.prompt_trace import BASE, ROUTERS, PromptTrace, trace_tokens
from moe_tune.base.progress import with_bar
from moe_tune.generation.continuation import Continuation, continuation, parted_text, shared_tokens
from moe_tune.generation.decoding import Decoding
from moe_tune.generation.prompts import encoded_prompts
from moe_tune.settings.opened_runs import RunToOpen, opened_runs

TRACED = 4
"""Of so many prompts, the first, the routing is kept: a picture has a row for every token of every layer."""


@dataclass(frozen=True, slots=True)
class PromptTexts:
    """What each model said behind one prompt.

    Args:
        prompt: The text.
        prompt_ids: Its tokens.
        said: By model, ``base`` first, then each run's name.
        halves: By run, its text up to where it parts from the base's, and from there on.
        traces: By model, the routing of prompt and text: a run's beside the pretrained routers on the same tokens.
    """

    prompt: str
    prompt_ids: Sequence[int]
    said: dict[str, Continuation] = field(default_factory=dict)
    halves: dict[str, tuple[str, str]] = field(default_factory=dict)
    traces: dict[str, PromptTrace] = field(default_factory=dict)

    def shared(self, run: str) -> int | None:
        """Return how many tokens a run's text shares with the base's before they part; ``None`` if it is the same."""
        return shared_tokens(self.said[BASE], self.said[run])


def texts_side_by_side(
    runs: Sequence[RunToOpen], prompts: Sequence[str], how: Decoding, device: torch.device
) -> list[PromptTexts]:
    """Return what the base model, without heads, and each run say behind each prompt, alone in its batch.

    Args:
        runs: Runs of one base model.
        prompts: The texts.
        how: How the next token is chosen.
        device: Where the model is to be.

    Raises:
        DataError: A prompt does not fit the context with what is generated.
        ModelError: A checkpoint is not intact, or was made for another base model.
    """
    base = runs[0].asked.base
    tokenizer, context = base.load_tokenizer(), int(base.load_config().max_position_embeddings)
    encoded = encoded_prompts(tokenizer, list(prompts), how.max_new_tokens, context)
    found = [PromptTexts(text, ids) for text, ids in zip(prompts, encoded, strict=True)]
    for place, (run, opened) in enumerate(opened_runs(runs, device)):
        for name in [*([] if place else [BASE]), run.name]:
            routers = (BASE,) if name == BASE else tuple(ROUTERS)
            for number, one in enumerate(with_bar(found, f"texts, {name}")):
                with opened.gated.session(base_only=name == BASE):
                    said = one.said[name] = continuation(opened.gated, tokenizer, one.prompt_ids, how)
                if name != BASE:
                    one.halves[name] = parted_text(said, one.shared(name), tokenizer)
                if number < TRACED:
                    whole = [*one.prompt_ids, *said.ids]
                    one.traces[name] = trace_tokens(opened.gated, tokenizer, whole, len(one.prompt_ids), routers)
    return found


def of_models(found: Sequence[PromptTexts]) -> Iterator[tuple[str, str]]:
    """Yield each model's key and how a heading calls it: one run alone is ``tuned``."""
    names = list(found[0].said)
    yield BASE, BASE
    for name in names[1:]:
        yield name, "tuned" if len(names) == 2 else name


def plain(found: Sequence[PromptTexts], about: Mapping[str, Any]) -> dict[str, Any]:
    """Return the texts as plain values: for each prompt and model text, token ids, and tokens shared with the base."""
    return {
        **about,
        "prompts": [
            {
                "prompt": one.prompt,
                "prompt_tokens": len(one.prompt_ids),
                "models": {
                    name: {"text": said.text, "ids": list(said.ids)}
                    | ({} if name == BASE else {"parts": one.shared(name) is not None, "shared": one.shared(name)})
                    for name, said in one.said.items()
                },
            }
            for one in found
        ],
    }
