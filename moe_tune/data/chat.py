"""Prompts as conversations: the tokenizer's own chat template, applied as lm-evaluation-harness applies it."""

import hashlib
import re
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from moe_tune.base.errors import ConfigError, ModelError
from moe_tune.data.conversation import template_fault
from moe_tune.data.protocol import PromptProtocol
from moe_tune.data.question import Question

if TYPE_CHECKING:
    from moe_tune.routing import Part

Message = dict[str, str]
BROKEN = "\x00"
"""Put into a control token that a question's text holds, so that it stays text; no question holds this character."""


class ChatTemplate:
    """The chat template of a tokenizer.

    The control tokens of the template are control tokens; those that occur in a question's text are text.

    Args:
        tokenizer: A fast tokenizer of transformers.

    Raises:
        ConfigError: It has no chat template.
    """

    def __init__(self, tokenizer: Any) -> None:
        if not tokenizer.chat_template:
            raise ConfigError(
                f"expected a tokenizer with a chat template but {tokenizer.name_or_path or 'this one'} has none "
                "(data.protocol). Hint: use a model tuned for chat, or --data.protocol lm_eval."
            )
        self.tokenizer = tokenizer
        special = [one.content for one in tokenizer.added_tokens_decoder.values() if one.special]
        self.control = re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))) or r"(?!)")

    @cached_property
    def begins_itself(self) -> bool:
        """Whether the template writes the token that texts begin with, so that no second one is put before it."""
        known = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        first = next((one for one in known if one is not None), None)
        return first is not None and self.text([{"role": "user", "content": "A"}]).startswith(
            self.tokenizer.decode([first])
        )

    @property
    def sha256(self) -> str:
        """Hash of the template, or of its several templates."""
        return hashlib.sha256(str(self.tokenizer.chat_template).encode()).hexdigest()

    def text(self, messages: Sequence[Message]) -> str:
        """Return a conversation up to, and without, the next answer; a template that rejects the system gets none.

        Raises:
            ModelError: The template rejects what is left, too.
        """
        safe = [{**one, "content": self.control.sub(_broken, one["content"])} for one in messages]
        try:
            return self._rendered(safe)
        except Exception:  # a template is somebody's program: it may raise anything
            try:
                return self._rendered([one for one in safe if one["role"] != "system"])
            except Exception as fault:
                raise ModelError(
                    "expected a chat template that takes turns of user and assistant but the tokenizer's chat template "
                    f"refuses it: {template_fault(fault)} (model.base). "
                    "Hint: --data.protocol lm_eval asks without a template."
                ) from fault

    def _rendered(self, messages: Sequence[Message]) -> str:
        return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    def ids(self, text: str) -> list[int]:
        """Return the tokens of a text that ``text`` has made, where it holds control tokens that are to stay text."""
        ids: list[int] = []
        start = 0
        for found in [*self.control.finditer(text), None]:
            piece = text[start : None if found is None else found.start()].replace(BROKEN, "")
            ids += self.tokenizer(piece, add_special_tokens=False, split_special_tokens=True)["input_ids"]
            if found is not None:
                ids.append(self.tokenizer.convert_tokens_to_ids(found[0]))
                start = found.end()
        return ids

    def pieces(
        self, protocol: PromptProtocol, question: Question, examples: Sequence[Question]
    ) -> list[tuple["Part", str]]:
        """Return the conversation cut into the parts of the protocol; the template's own text is instruction.

        Raises:
            ModelError: The template changes the question.
        """
        text, body = self.text(protocol.messages(question, examples)), protocol.body(question)
        asked = "".join(text for _, text in body)
        end = text.rfind(asked)
        start = text.find(protocol.body(examples[0])[0][1]) if examples else end
        if not 0 <= start <= end:
            raise ModelError(
                f"expected a chat template that leaves questions as they are but it changes {question.id} "
                "(model.base). Hint: --scopes answer all needs no parts of prompts."
            )
        shown: list[tuple[Part, str]] = [("instruction", text[:start]), ("examples", text[start:end])]
        return [*shown, *body, ("instruction", text[end + len(asked) :])]


def _broken(found: re.Match[str]) -> str:
    return f"{found[0][0]}{BROKEN}{found[0][1:]}"
