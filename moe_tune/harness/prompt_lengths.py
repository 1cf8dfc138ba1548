"""Prompts are not cut: those that do not fit the context are refused before the model is asked anything."""

from collections.abc import Iterable, Mapping
from typing import Any

from lm_eval.models.utils import normalize_gen_kwargs

from moe_tune.base.errors import DataError
from moe_tune.base.progress import with_bar


def refuse_cut_prompts(model: Any, tasks: Mapping[str, Any]) -> None:
    """Refuse tasks of whose prompts lm-eval would cut one from the left.

    Documents of a rolling log-likelihood are not cut: lm-eval scores a long one window by window.

    Args:
        model: lm-eval's model, which encodes as it does when it answers.
        tasks: lm-eval's tasks by name, with their requests.

    Raises:
        DataError: A prompt with its continuation, or with the tokens that may be generated behind it, is longer than
            the context.
    """
    most = int(model.max_length)
    for name, task in tasks.items():
        # The last token of a continuation is predicted and not read.
        needed = list(_lengths(model, with_bar(task.instances, f"lengths, {name}")))
        long = [(tokens, room) for tokens, room in needed if tokens + room > most]
        if long:
            tokens, room = max(long, key=sum)
            what = f"{tokens} tokens and {room} that may be generated" if room else f"{tokens} tokens"
            remedy = "or fewer --gen_kwargs max_gen_toks=N" if room else "or another task"
            raise DataError(
                f"expected prompts that fit the context of {most} tokens but {len(long)} of {len(needed)} do not, the "
                f"longest has {what} (task {name}). Hint: a smaller --num_fewshot, {remedy}; prompts are not cut."
            )


def _lengths(model: Any, requests: Iterable[Any]) -> Iterable[tuple[int, int]]:
    for request in requests:
        if request.request_type == "loglikelihood":
            prompt, continuation = request.args
            pair = model._encode_pair(prompt, continuation) if prompt else ([0], model.tok_encode(continuation))
            yield sum(map(len, pair)) - 1, 0
        elif request.request_type == "generate_until":
            prompt, settings = request.args
            room = normalize_gen_kwargs(settings, model.max_gen_toks)["max_gen_toks"]
            yield len(model.tok_encode(prompt)), room
