"""Where a head acts and a statistic counts."""

from typing import Literal, get_args

Scope = Literal["answer", "all"]
"""Where a head acts or a statistic counts: the last prompt token, or every real token (padding never)."""

Part = Literal["instruction", "examples", "stem", "choices"]
"""Parts of a prompt a statistic may count instead; the instruction is the header and the answer cue."""

PARTS: tuple[Part, ...] = get_args(Part)
