"""Prompts to token ids, with the answer letters proven to be single tokens."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, takewhile
from typing import Any

import numpy as np
import torch

from moe_tune.base.errors import ConfigError, DataError, ModelError
from moe_tune.base.progress import with_bar
from moe_tune.data.chat import BROKEN, ChatTemplate
from moe_tune.data.protocol import AUXILIARY, PromptProtocol
from moe_tune.data.question import Question
from moe_tune.data.validation import BadRow, OnBadRow, bad_rows_message
from moe_tune.routing import PARTS

CHUNK = 256
"""Prompts per tokeniser call: enough to keep its threads busy, few enough to stay small in memory."""
LINE_START = re.compile(r"\S\n(?=\S)")
OTHER_PROTOCOL = (
    "--data.protocol cloze needs no letters, nor does --data.test_protocols '[]' ask for others; or choose a protocol "
    "made for this tokenizer."
)
TAIL = 8
WHOLE = 64
"""The letter tokens are checked behind the last characters of every prompt, and behind this many whole prompts."""


@dataclass(frozen=True, slots=True, eq=False)
class PromptedQuestion:
    """A question as the model sees it.

    Args:
        question: The question asked.
        ids_S: Token ids of the prompt up to, and without, the answer letter; int32. The last predicts it.
        shots: Worked examples in the prompt.
        choices: Token ids of each choice's text under a cloze protocol, int32; else nothing.

    Shape:
        ids_S: ``(S,)``, S tokens.
    """

    question: Question
    ids_S: torch.Tensor
    shots: int
    choices: tuple[torch.Tensor, ...] = ()

    @property
    def gold(self) -> int:
        """Index of the right choice, from 0."""
        return self.question.answer

    @property
    def row_S(self) -> torch.Tensor:
        """The tokens that run: the prompt's, and those of each choice but its last, which predicts nothing."""
        return torch.cat([self.ids_S, *(ids[:-1] for ids in self.choices)]) if self.choices else self.ids_S

    @property
    def length(self) -> int:
        """Number of tokens that run."""
        return len(self.ids_S) + sum(len(ids) - 1 for ids in self.choices)


@dataclass(frozen=True, slots=True, eq=False)
class EncodedSplit:
    """A split's prompts and what was noticed about them.

    Args:
        prompts: One per question that fits the context, in the order of the split.
        letter_ids: Token of each answer letter, up to the largest number of choices; none under a cloze protocol.
        dropped: Questions left out because their prompt is too long even without examples.
        shortened: Question id to the number of examples kept, where whole examples were left out to fit.
        template: sha256 of the chat template, if there is one.
    """

    prompts: list[PromptedQuestion]
    letter_ids: list[int]
    dropped: tuple[BadRow, ...]
    shortened: dict[str, int]
    template: str | None = None


class PromptEncoder:
    """Turns questions into token ids under one protocol, the way lm-evaluation-harness does.

    Prompts begin with the special tokens that the tokenizer puts before a text, and never end with one; a chat template
    that begins a text itself gets no second one. Nothing is ever truncated: a prompt that is too long loses whole
    examples, the last first. Control tokens that occur in a question's text are encoded as plain text.

    Args:
        tokenizer: A fast tokenizer of transformers.
        protocol: How a question becomes text.
        max_length: Most tokens a prompt may have.
        few_shot: Worked examples before the question, from 0.
        examples: The examples of each subject; the first ``few_shot`` are taken.

    Raises:
        ConfigError: The protocol is a chat and the tokenizer has no chat template.
        ModelError: The tokenizer is not a fast one.

    Reference:
        Hendrycks et al. 2021 (examples are left out until the prompt fits); lm-evaluation-harness 0.4.13 (first_n).
    """

    def __init__(
        self,
        tokenizer: Any,
        protocol: PromptProtocol,
        max_length: int,
        few_shot: int = 0,
        examples: Mapping[str, Sequence[Question]] | None = None,
    ) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise ModelError(
                f"expected a fast tokenizer but got {type(tokenizer).__name__} (model.base). "
                "Hint: use a model with a tokenizer.json; only those can encode control tokens as text."
            )
        self.tokenizer = tokenizer
        self.chat = ChatTemplate(tokenizer) if protocol.kind == "chat" else None
        self.prefix = [] if self.chat is not None and self.chat.begins_itself else _prefix(tokenizer)
        self.protocol = protocol
        self.max_length = max_length
        self.few_shot = few_shot
        self.examples = dict(examples or {})

    def encode(self, questions: Sequence[Question], on_bad_row: OnBadRow = "error") -> EncodedSplit:
        """Encode the questions of a split.

        Raises:
            ConfigError: A subject has fewer examples than ``few_shot``.
            DataError: A prompt is too long without examples under ``error``, or none fits.
            ModelError: An answer letter is not one token of its own after every prompt.
        """
        ids: dict[int, tuple[torch.Tensor, tuple[torch.Tensor, ...]]] = {}
        shots = {index: self._shots(one) for index, one in enumerate(questions)}
        lengths: dict[int, int] = {}
        pending = list(shots)
        while pending:
            groups: dict[tuple[str, int], list[int]] = {}
            for index in pending:
                groups.setdefault((questions[index].subject, shots[index]), []).append(index)
            pending = []
            for group in with_bar(groups.values(), "prompts"):
                texts = [self.text(questions[index], shots[index]) for index in group]
                answers = [self.protocol.answers(questions[index]) if self.cloze else [] for index in group]
                for index, one in zip(group, self._with_answers(texts, answers), strict=True):
                    lengths[index] = len(one[0]) + max((len(answer) - 1 for answer in one[1]), default=0)
                    if lengths[index] <= self.max_length:
                        ids[index] = one
                    elif shots[index]:
                        shots[index] -= 1
                        pending.append(index)
        dropped = [
            BadRow(one.id, f"prompt longer than {self.max_length} tokens ({lengths[index]})")
            for index, one in enumerate(questions)
            if index not in ids
        ]
        if dropped and (on_bad_row == "error" or not ids):
            raise DataError(bad_rows_message(dropped, f"protocol {self.protocol.name}, data.max_length"))
        kept = {index: questions[index] for index in sorted(ids)}
        return EncodedSplit(
            [PromptedQuestion(one, ids[index][0], shots[index], ids[index][1]) for index, one in kept.items()],
            [] if self.cloze else self.letter_ids(list(kept.values())),
            tuple(dropped),
            {one.id: shots[index] for index, one in kept.items() if shots[index] < self._shots(one)},
            None if self.chat is None else self.chat.sha256,
        )

    @property
    def cloze(self) -> bool:
        """Whether the choices' texts are scored."""
        return self.protocol.kind == "cloze"

    def letter_ids(self, questions: Sequence[Question]) -> list[int]:
        """Return the token of each answer letter, after checking it behind every prompt.

        ``tokens(prompt + letter) == tokens(prompt) + [token]`` must hold, with another token for each letter. It is
        checked behind the end of every prompt, as no tokenizer looks far back to split a letter, and behind some whole.

        Raises:
            ModelError: A letter is several tokens, merges with the prompt, is unknown, or shares its token.
        """
        letters = self.protocol.letters(max(len(one.choices) for one in questions))
        # In a chat all end with the same text of the template, whose control tokens may be longer than a tail.
        ends = {self.protocol.prompt(one)[-TAIL:] for one in questions} if self.chat is None else set()
        tails = sorted(ends | {self.text(one) for one in questions[:: -(-len(questions) // WHOLE)]})
        plain = list(self._tokens(tails))
        found: list[int] = []
        for letter in letters:
            added = []
            for before_S, after_S in zip(plain, self._tokens(tail + letter for tail in tails), strict=True):
                same = torch.equal(after_S[: len(before_S)], before_S)
                added.append(after_S[len(before_S) :].tolist() if same else after_S.tolist())
            for tail, got in zip(tails, added, strict=True):
                if len(got) != 1 or got != added[0]:
                    raise ModelError(
                        f"expected the answer {letter!r} to be one token, the same after every prompt, but got {got} "
                        f"after {tail[-20:]!r} (protocol {self.protocol.name}). "
                        f"Hint: {OTHER_PROTOCOL}"
                    )
            found += added[0]
        if len(set(found)) != len(letters) or self.tokenizer.unk_token_id in found:
            raise ModelError(
                f"expected a known token per answer letter but got {dict(zip(letters, found, strict=True))} "
                f"(protocol {self.protocol.name}). Hint: {OTHER_PROTOCOL}"
            )
        return found

    def parts(self, prompt: PromptedQuestion) -> torch.Tensor:
        """Return the part of the prompt each of its tokens belongs to, as index into ``PARTS``."""
        examples = self.examples.get(prompt.question.subject, ())[: prompt.shots]
        if self.chat is None:
            pieces = self.protocol.pieces(prompt.question, examples)
        else:
            pieces = self.chat.pieces(self.protocol, prompt.question, examples)
        encoded = self.tokenizer(
            "".join(text for _, text in pieces),
            add_special_tokens=False,
            split_special_tokens=self.chat is None,
            return_offsets_mapping=True,
        )
        spans = [(0, 0)] * len(self.prefix) + encoded["offset_mapping"]
        if len(spans) != len(prompt.ids_S):
            raise ModelError(
                f"expected {len(prompt.ids_S)} tokens again but got {len(spans)} "
                f"(question {prompt.question.id}). Hint: --scopes answer all needs no parts of prompts."
            )
        ends = np.cumsum([len(text) for _, text in pieces])
        codes = np.array([PARTS.index(part) for part, _ in pieces], dtype=np.int8)
        last_S = np.maximum(np.array(spans)[:, 1] - 1, 0)
        return torch.from_numpy(codes[np.searchsorted(ends, last_S, side="right")])

    def _shots(self, question: Question) -> int:
        # Questions without a subject have no examples of their subject.
        return 0 if question.subject == AUXILIARY else self.few_shot

    def text(self, question: Question, shots: int = 0) -> str:
        """Return the text of a prompt, with so many examples of its subject.

        Raises:
            ConfigError: The subject has fewer examples.
        """
        examples = self.examples.get(question.subject, ())
        if shots > len(examples):
            raise ConfigError(
                f"expected {shots} examples of {question.subject!r} in the split dev but got {len(examples)} "
                "(data.few_shot). Hint: lower data.few_shot."
            )
        if self.chat is not None:
            return self.chat.text(self.protocol.messages(question, examples[:shots]))
        return self.protocol.prompt(question, examples[:shots])

    def _with_answers(
        self, texts: list[str], answers: list[list[str]]
    ) -> Iterator[tuple[torch.Tensor, tuple[torch.Tensor, ...]]]:
        """Yield the tokens of each prompt, and those that each of its answers adds to it."""
        whole = iter(
            self._tokens_of_group([text + one for text, given in zip(texts, answers, strict=True) for one in given])
        )
        for text, ids_S, given in zip(texts, self._tokens_of_group(texts), answers, strict=True):
            added = tuple(next(whole)[len(ids_S) :] for _ in given)
            for answer, tokens in zip(given, added, strict=True):
                if not len(tokens):
                    raise ModelError(
                        f"expected tokens of the answer {answer!r} but it adds none to {text[-20:]!r} "
                        f"(protocol {self.protocol.name}). Hint: choose a protocol made for this tokenizer."
                    )
            yield ids_S, added

    def _tokens_of_group(self, texts: list[str]) -> Iterator[torch.Tensor]:
        # Prompts of a subject begin with the same examples, at five shots most of the text: those are encoded once, up
        # to the start of a line well before the prompts part, where that is shown to change nothing.
        if not texts:
            return
        first, last = min(texts), max(texts)
        same = next((at for at, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), len(first))
        cut = max((match.end() for match in LINE_START.finditer(first[: max(same - TAIL, 0)])), default=0)
        ends = [texts[0], texts[-1]]
        head_S, *parts = self._tokens([first[:cut], *(text[cut:] for text in ends), *ends])
        shared = all(torch.equal(torch.cat([head_S, parts[end]]), parts[end + 2]) for end in (0, 1))
        before_S = torch.tensor(self.prefix, dtype=torch.int32)
        if shared:
            before_S = torch.cat([before_S, head_S])
        for rest_S in self._tokens(text[cut if shared else 0 :] for text in texts):
            yield torch.cat([before_S, rest_S])

    def _tokens(self, texts: Iterable[str]) -> Iterator[torch.Tensor]:
        """Yield the tokens of each text alone; what the tokenizer puts around a text is no part of it."""
        remaining = iter(texts)
        while chunk := list(islice(remaining, CHUNK)):
            encoded = self.tokenizer(
                chunk, add_special_tokens=False, split_special_tokens=self.chat is None, return_attention_mask=False
            )
            for text, ids in zip(chunk, encoded["input_ids"], strict=True):
                if self.chat is not None and BROKEN in text:
                    ids = self.chat.ids(text)
                yield torch.from_numpy(np.asarray(ids, dtype=np.int32))


def text_tokens(tokenizer: Any, text: str) -> list[int]:
    """Return the tokens of a text behind the special tokens that the tokenizer begins with, and none at its end."""
    # Not verbose: what is too long is cut, or refused in words of our own.
    made = tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)
    return [*_prefix(tokenizer), *made["input_ids"]]


def _prefix(tokenizer: Any) -> list[int]:
    # Its post-processor decides: add_bos_token is false for many a tokenizer.json that begins every text with one.
    whole = tokenizer("A", return_special_tokens_mask=True)
    pairs = zip(whole["input_ids"], whole["special_tokens_mask"], strict=True)
    return [token for token, special in takewhile(lambda pair: pair[1], pairs)]
