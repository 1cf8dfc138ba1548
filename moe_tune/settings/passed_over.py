"""Arguments that a configuration behind them passes over: what comes last counts."""

import re
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_info

from moe_tune.base.redact import without_secrets
from moe_tune.settings.arguments import CONFIG_WORDS, content_of, options_of

KEY = re.compile(r"--([a-z_][\w.]*)(?:=(.*))?", re.DOTALL)


def tell_passed_over(argv: list[str]) -> None:
    """Print a line for each argument before a ``--config`` that says something else of the same key."""
    for line in passed_over(argv):
        rank_zero_info(without_secrets(line))


def passed_over(argv: list[str]) -> list[str]:
    """Return a line for each argument of a verb that a configuration behind it passes over.

    Example:
        >>> passed_over(["--model.scope=all", "--config", "{model: {scope: answer}}"])
        ['--model.scope all does not count: a --config behind it says answer, and what comes last counts']
        >>> passed_over(["--config", "{model: {scope: answer}}", "--model.scope=all"])
        []
    """
    given: dict[str, str] = {}
    lines: dict[str, str] = {}
    waiting = ""
    for name, value, written in options_of(argv):
        if name in CONFIG_WORDS and value is not None:
            content = content_of(value)
            for key, before in given.items():
                after = _said(content, key.split("."))
                if after is not None and not _same(before, after):
                    told = f"a --config behind it says {after}, and what comes last counts"
                    lines[key] = f"--{key} {before} does not count: {told}"
        elif option := KEY.fullmatch(written[0]):
            key, said = option.groups()
            lines.pop(key, None)
            waiting = key if said is None else ""
            if said is not None:
                given[key] = said
        elif waiting:
            given[waiting], waiting = written[0], ""
    return list(lines.values())


def _said(content: Any, parts: list[str]) -> str | None:
    """Return what a configuration says at a dotted key, as text; ``None`` where that is nothing, or no one word."""
    for part in parts:
        if not isinstance(content, dict):
            return None
        inner = content.get("init_args")
        content = content[part] if part in content else inner.get(part) if isinstance(inner, dict) else None
    if isinstance(content, dict):
        content = content.get("class_path")
    return None if content is None else str(content)


def _same(before: str, after: str) -> bool:
    try:
        return float(before) == float(after)
    except ValueError:
        return before.lower() == after.lower() or after.endswith(f".{before}")
