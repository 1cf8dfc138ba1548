"""The questions of a source of short answers: read, checked, put into prompts, encoded, each when first asked for."""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from moe_tune.base.errors import require
from moe_tune.data.encoding import text_tokens
from moe_tune.data.question import text_hash
from moe_tune.data.short_answer_source import ShortAnswerSource
from moe_tune.data.short_batching import EncodedShort, ShortQuestion
from moe_tune.data.source import RawRow
from moe_tune.data.source_items import SourceItems
from moe_tune.data.validation import BadRow, OnBadRow, text_fault

PLACE = "{question}"


class ShortAnswers(SourceItems[ShortQuestion, EncodedShort]):
    """The questions of a source of short answers.

    Args:
        source: Where they come from.
        on_bad_row: ``error`` stops at rows that are no question, or leave no room for the answer; ``drop`` leaves them
            out and records them.
        limit: At most so many questions: those with the smallest content hashes; ``None`` takes all.

    Raises:
        ConfigError: The source's template has no place for the question, or it allows no new token.
    """

    noun, lacking = "short questions", "cannot be asked"

    def __init__(self, source: ShortAnswerSource, on_bad_row: OnBadRow = "error", limit: int | None = None) -> None:
        where, hint = "of short answers", "--data.test_sources.NAME"
        template, tokens = source.template, source.max_new_tokens
        plain = f"{hint}.template 'Question: {PLACE} Answer:'."
        require(PLACE in template, f"a text with {PLACE}", template, f"template {where}", plain)
        require(tokens > 0, "1 token or more", tokens, f"max_new_tokens {where}", f"{hint}.max_new_tokens 16.")
        super().__init__(source, on_bad_row, limit)
        self.source = source

    @property
    def few(self) -> str:
        return "give the source more rows of a question and its answer."

    def rows(self) -> Iterator[RawRow]:
        return self.source.short_questions()

    def fault(self, values: Mapping[str, Any]) -> str | None:
        question, accepted = values.get("question"), values.get("accepted")
        if fault := text_fault(question):
            return f"the question {fault}"
        if not accepted:
            return f"the answer is no text and no list of texts but {accepted!r}"
        return next((f"the answer {fault}" for one in accepted if (fault := text_fault(one))), None)

    def key(self, values: Mapping[str, Any]) -> str:
        return text_hash(values["question"])

    def item(self, row: RawRow, identifier: str, key: str) -> ShortQuestion:
        prompt = self.source.template.replace(PLACE, row.values["question"].strip())
        return ShortQuestion(prompt, tuple(row.values["accepted"]), identifier, key, row.where)

    def encode(self, tokenizer: Any, item: ShortQuestion, context: int) -> EncodedShort | BadRow:
        ids, most = text_tokens(tokenizer, item.prompt), context - self.source.max_new_tokens
        less = f"fewer than the model's {context} positions"
        require(most > 0, less, self.source.max_new_tokens, "max_new_tokens of short answers", "16 is the default.")
        if len(ids) > most:
            return BadRow(item.where, f"a prompt of {len(ids)} tokens, where {most} leave room for the answer")
        return EncodedShort(item, torch.tensor(ids, dtype=torch.int32))

    def counts(self, made: list[EncodedShort]) -> dict[str, Any]:
        asked = {"template": self.source.template, "max_new_tokens": self.source.max_new_tokens}
        sizes = {"questions": len(made), "longest": max(one.length for one in made)}
        return asked | sizes | {"sha256": asked_hash(made)}


def asked_hash(questions: list[EncodedShort]) -> str:
    """Return the sha256 over ids, tokens and accepted texts of questions, in order."""
    lines = (f"{one.question.id}\t{one.ids_S.tolist()}\t{one.question.accepted}\n" for one in questions)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
