"""Conversations to learn from: the tokenizer's own template, and which of its tokens the assistant wrote."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from jinja2 import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

from moe_tune.base.errors import ConfigError
from moe_tune.data.validation import text_fault

ROLES = ("system", "user", "assistant", "tool")
RENAMED = dict.fromkeys(("human", "prompter"), "user") | dict.fromkeys(("gpt", "bot", "model", "ai"), "assistant")
"""What other formats call the roles."""
TAGGED = re.compile(r"\{%-?\s*generation\b")
"""How a template marks what the assistant wrote, where it does."""
ASKED = ({"role": "user", "content": "A"},)
"""What a template is shown to see how it opens an answer."""
STAND_IN = "\N{OBJECT REPLACEMENT CHARACTER}"
"""What stands for a turn's content to see where a template puts it."""


def messages_fault(messages: Any) -> str | None:
    """Return why a value is no conversation to learn from, or ``None``.

    Example:
        >>> messages_fault([{"role": "user", "content": "Hello"}])
        'messages have no turn of the assistant'
    """
    if messages is None:
        return "messages are missing or null"
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        return "messages are no list of turns"
    for place, one in enumerate(messages):
        if not isinstance(one, Mapping) or not {"role", "content"} <= one.keys():
            shared = isinstance(one, Mapping) and {"from", "value"} <= one.keys()
            keys = " but from and value: name them role and content" if shared else ""
            return f"messages[{place}] has no role and content{keys}"
        if one["role"] not in ROLES:
            known = RENAMED.get(str(one["role"]).lower())
            mend = f": rename it to {known}" if known else ""
            return f"messages[{place}] has the role {one['role']!r}, not one of {', '.join(ROLES)}{mend}"
        if (fault := text_fault(one["content"])) and not (one["content"] == "" and one["role"] != "assistant"):
            return f"messages[{place}].content {fault}"
    return None if any(one["role"] == "assistant" for one in messages) else "messages have no turn of the assistant"


def conversation_tokens(tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> tuple[list[int], list[bool]]:
    """Return the tokens of a conversation, and which of them the assistant wrote.

    A template that marks the assistant's text (``{% generation %}``) says so itself. Of another the assistant's tokens
    are those of every turn of its own, up to its end, behind what the template opens an answer with
    (``add_generation_prompt``): that header is not the assistant's, in the first turn of a conversation as in later
    ones. Of a template that opens none, the header is what it writes before the turn's content.

    Args:
        tokenizer: A fast tokenizer of transformers with a chat template.
        messages: The turns.

    Raises:
        ConfigError: It has no chat template.
        ValueError: The template refuses the turns, a turn holds a control token, or what an earlier turn is written as
            hangs on later ones.
    """
    if not tokenizer.chat_template:
        raise ConfigError(
            f"expected a tokenizer with a chat template but {tokenizer.name_or_path or 'this one'} has none "
            "(data.text.source, messages). Hint: use a model tuned for chat, or give plain text."
        )
    control = [one.content for one in tokenizer.added_tokens_decoder.values() if one.special]
    for place, one in enumerate(messages):
        if held := next((token for token in control if token in one["content"]), None):
            raise ValueError(f"messages[{place}] holds the control token {held!r}")
    whole, spans = (_marked if TAGGED.search(str(tokenizer.chat_template)) else _by_turns)(tokenizer, messages)
    made = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    written = [any(start < last and end > first for first, last in spans) for start, end in made["offset_mapping"]]
    return list(made["input_ids"]), written


def template_fault(fault: Exception) -> str:
    """Return in one line what a template raised; what is no fault of jinja's own is named."""
    name = "" if isinstance(fault, TemplateError) else f"{type(fault).__name__}: "
    return name + " ".join(str(fault).split())


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except Exception as fault:  # a template is somebody's program: it may divide by zero
        raise ValueError(f"the tokenizer's chat template refuses it: {template_fault(fault)}") from fault


def _marked(tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> tuple[str, list[tuple[int, int]]]:
    # Not transformers' own masks: where the last character of what is marked has no token, they run on to the end.
    with _refusals():
        texts, spans = render_jinja_template(
            conversations=[list(messages)],
            chat_template=tokenizer.get_chat_template(),
            return_assistant_tokens_mask=True,
            **tokenizer.special_tokens_map,
        )
    return texts[0], list(spans[0])


def _by_turns(tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> tuple[str, list[tuple[int, int]]]:
    def text(turns: Sequence[Mapping[str, str]], opened: bool = False) -> str:
        with _refusals():
            return str(tokenizer.apply_chat_template(list(turns), tokenize=False, add_generation_prompt=opened))

    whole, spans = text(messages), []
    for place, one in enumerate(messages):
        if one["role"] != "assistant":
            continue
        earlier, after = messages[:place], text(messages[: place + 1])
        opened = text(earlier or ASKED, opened=True)
        header = opened.removeprefix(text(earlier or ASKED))
        if not header or (not earlier and header not in after):
            known = text([*earlier, {**one, "content": STAND_IN}]).partition(STAND_IN)[0]
        else:
            known = opened if earlier else after[: after.index(header) + len(header)]
        if not (whole.startswith(after) and after.startswith(known)):
            raise ValueError("the tokenizer's chat template writes earlier turns in another way once there are later")
        spans.append((len(known), len(after)))
    return whole, spans
