"""Prompt protocols: how a question becomes text, kept as data in ``protocols/*.yaml``."""

import re
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from moe_tune.base.errors import ConfigError, did_you_mean, require
from moe_tune.base.strict_yaml import load_yaml
from moe_tune.data.question import LETTERS, Question

if TYPE_CHECKING:
    from moe_tune.routing import Part  # it brings torch, which the command line does without

FOLDER = Path(__file__).parent / "protocols"
Kind = Literal["letters", "chat", "cloze"]
"""How a question is asked: for a letter, for a letter in a conversation, or for the text of each choice."""
AUXILIARY = "auxiliary"
"""The subject of questions that have none, such as MMLU's ``auxiliary_train``."""


@dataclass(frozen=True, slots=True)
class PromptProtocol:
    """The text around a question; every field is a template and the prompt is their plain concatenation.

    ``prompt = header + example + separator + ... + question + choices + answer_cue``

    Args:
        name: Short name, also the file's stem.
        description: Where the format comes from, in a sentence.
        header: Opening line; may hold ``{subject}`` (underscores become spaces). In a chat it is the system message.
        header_without_subject: The same for questions without a subject.
        question: Holds ``{stem}`` (stripped of surrounding white space), or ``{raw_stem}`` (as it is).
        choice: One line per choice; holds ``{letter}`` and ``{choice}``.
        answer_cue: What stands right before the answer letter.
        letter: The continuation that is scored; holds ``{letter}``, or ``{choice}`` in a cloze protocol.
        separator: What follows each worked example; not used in a chat.
        kind: ``letters``; ``chat`` puts the texts into the tokenizer's own chat template, worked examples as turns;
            ``cloze`` scores the text of each choice, its log-likelihood divided by its characters.
    """

    name: str
    description: str
    header: str
    header_without_subject: str
    question: str
    choice: str
    answer_cue: str
    letter: str
    separator: str
    kind: Kind = "letters"

    def prompt(self, question: Question, examples: Sequence[Question] = ()) -> str:
        """Return the prompt text up to, and without, the answer letter."""
        return "".join(text for _, text in self.pieces(question, examples))

    def pieces(self, question: Question, examples: Sequence[Question] = ()) -> list[tuple["Part", str]]:
        """Return the prompt cut into its parts, in order; the header and the answer cue are the instruction."""
        shown = "".join(
            "".join(text for _, text in self.body(one)) + self.answers(one)[one.answer] + self.separator
            for one in examples
        )
        return [("instruction", self.opening(question.subject)), ("examples", shown), *self.body(question)]

    def messages(self, question: Question, examples: Sequence[Question] = ()) -> list[dict[str, str]]:
        """Return the prompt as the messages of a conversation, each with ``role`` and ``content``."""
        opening = self.opening(question.subject)
        said = [("system", opening)] if opening else []
        for one in examples:
            said += [
                ("user", "".join(text for _, text in self.body(one))),
                ("assistant", self.answers(one)[one.answer]),
            ]
        said.append(("user", "".join(text for _, text in self.body(question))))
        return [{"role": role, "content": content} for role, content in said]

    def opening(self, subject: str) -> str:
        """Return the header for a subject."""
        if subject == AUXILIARY:
            return self.header_without_subject
        return self.header.replace("{subject}", subject.replace("_", " "))

    def letters(self, count: int) -> list[str]:
        """Return the continuations that stand for the first ``count`` answers."""
        return [self.letter.replace("{letter}", letter) for letter in LETTERS[:count]]

    def answers(self, question: Question) -> list[str]:
        """Return the continuations that stand for the answers of a question."""
        letters = self.letters(len(question.choices))
        return [text.replace("{choice}", choice) for text, choice in zip(letters, question.choices, strict=True)]

    def body(self, question: Question) -> list[tuple["Part", str]]:
        """Return the question itself cut into its parts: stem, choices and answer cue."""
        choices = "".join(
            self.choice.replace("{letter}", letter).replace("{choice}", choice)
            for letter, choice in zip(LETTERS, question.choices, strict=False)
        )
        raw = "{raw_stem}" in self.question
        stem = self.question.replace("{raw_stem}" if raw else "{stem}", question.stem if raw else question.stem.strip())
        return [("stem", stem), ("choices", choices), ("instruction", self.answer_cue)]


def known_protocols() -> dict[str, Path]:
    """Return the shipped protocols by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}


def load_protocol(name: str) -> PromptProtocol:
    """Load a protocol by short name, or from a YAML file of the user's own.

    Raises:
        ConfigError: There is no such protocol, or the file is no YAML, lacks a field, has an unknown one, or
            one that is no text.
    """
    known = known_protocols()
    path = Path(name) if name.endswith((".yaml", ".yml")) else known.get(name)
    if path is None or not path.is_file():
        raise ConfigError(
            f"expected a prompt protocol but got {name!r} (data.protocol). Hint: {did_you_mean(name, known)}"
        )
    values = load_yaml(path)
    wanted = [field.name for field in fields(PromptProtocol) if field.default is MISSING]
    if not isinstance(values, dict) or set(values) - {"kind"} != set(wanted):
        came = sorted(map(str, values)) if isinstance(values, dict) else type(values).__name__
        raise ConfigError(
            f"expected the fields {wanted} but got {came} ({path}). Hint: copy {FOLDER / 'lm_eval.yaml'}."
        )
    odd = {field: value for field, value in values.items() if not isinstance(value, str)}
    if odd:
        raise ConfigError(f"expected text in every field but got {odd} ({path}). Hint: put quotes around it.")
    hint = "letters, digits, _ and -: files of a run are called by it."
    plain = re.fullmatch(r"[A-Za-z0-9_-]{1,64}", values["name"])
    require(plain is not None, "a plain word as name", values["name"], f"name of {path}", hint)
    kind = values.get("kind", "letters")
    if kind not in get_args(Kind):
        raise ConfigError(
            f"expected a kind of {list(get_args(Kind))} but got {kind!r} ({path}). "
            f"Hint: {did_you_mean(kind, get_args(Kind))}"
        )
    return PromptProtocol(**values)
