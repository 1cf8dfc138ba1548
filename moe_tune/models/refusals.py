"""Which cheaper ways of answering a model does not allow, and why."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Refusals:
    """Why a model cannot be asked in a cheaper way than by whole prompts; ``None`` where it can.

    Args:
        answer_path: From keys and values kept of the prompts, one token per question.
        side_by_side: With the choices of a question side by side after one prompt.
        trunk: From what enters a layer, with the layers below it left out.
    """

    answer_path: str | None = None
    side_by_side: str | None = None
    trunk: str | None = None
