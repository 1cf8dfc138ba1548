"""The prompts to go on from: one of the command line, or those of a file."""

import json
from pathlib import Path
from typing import Any

from moe_tune.base.errors import DataError
from moe_tune.data.encoding import text_tokens
from moe_tune.data.validation import text_fault

SUFFIXES = (".txt", ".jsonl")


def read_prompts(file: Path) -> list[str]:
    """Return the prompts of a file: the lines of a ``.txt`` that hold something, or ``prompt`` of each row of JSONL.

    Raises:
        DataError: It is another kind of file, cannot be read, or holds no prompt.
    """
    if file.suffix not in SUFFIXES:
        raise DataError(
            f"expected prompts as {' or '.join(SUFFIXES)} but got {file} (--prompts). Hint: a prompt a line, or rows "
            'such as {"prompt": "The capital of"}.'
        )
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as fault:
        raise DataError(f"expected a file of UTF-8 text but got {fault} (--prompts). Hint: check the path.") from fault
    kept = [(place, line) for place, line in enumerate(lines, start=1) if line.strip()]
    prompts = [line if file.suffix == ".txt" else _of_row(line, f"{file}:{place}") for place, line in kept]
    if not prompts:
        raise DataError(f"expected prompts but got none ({file}). Hint: a prompt a line.")
    return prompts


def encoded_prompts(tokenizer: Any, prompts: list[str], room: int, context: int) -> list[list[int]]:
    """Return the tokens of each prompt, none of which is cut.

    Args:
        tokenizer: The model's own.
        prompts: The texts.
        room: Tokens that are generated behind each.
        context: Most tokens the model takes.

    Raises:
        DataError: A prompt has no token, or does not fit the context with what is generated behind it.
    """
    for place, one in enumerate(prompts, start=1):
        if fault := text_fault(one):
            raise DataError(f"expected a prompt but prompt {place} {fault}. Hint: a text to go on from.")
    encoded = [text_tokens(tokenizer, one) for one in prompts]
    for place, (text, ids) in enumerate(zip(prompts, encoded, strict=True), start=1):
        if not 0 < len(ids) <= context - room:
            raise DataError(
                f"expected a prompt that fits the context of {context} tokens with {room} new ones but prompt {place} "
                f"has {len(ids)}: {text[:40]!r}. Hint: a smaller --max_new_tokens, or a prompt of another length; "
                "prompts are not cut."
            )
    return encoded


def _of_row(line: str, where: str) -> str:
    try:
        row = json.loads(line)
    except ValueError as fault:
        raise DataError(f"expected a row of JSON but got {line[:40]!r} ({where}). Hint: one object a line.") from fault
    prompt = row.get("prompt") if isinstance(row, dict) else None
    if not isinstance(prompt, str):
        came = sorted(row) if isinstance(row, dict) else type(row).__name__
        raise DataError(f'expected a text under "prompt" but got {came} ({where}). Hint: {{"prompt": "..."}} a line.')
    return prompt
