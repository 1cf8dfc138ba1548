"""What answering depends on, as one frozen description."""

from dataclasses import dataclass, field

from moe_tune.answer_path.settings import AnswerPath
from moe_tune.answer_path.way import Reach
from moe_tune.base.ranks import Ranks
from moe_tune.data.module import QuizDataModule
from moe_tune.gates.gated_model import GatedModel


@dataclass(frozen=True, slots=True, eq=False)
class Circumstances:
    """What answering depends on.

    Args:
        gated: The model with heads on it, on its device.
        quiz: The questions, prepared for the model.
        reach: What heads, adapter and losses reach.
        settings: What the user asked for.
        ranks: The processes that answer together.
        path: The base model's path, a label.
        revision: Its revision, a label.
        pass_experts: Experts implementation of the pass over many prompts; ``None`` is the model's own.
    """

    gated: GatedModel
    quiz: QuizDataModule
    reach: Reach
    settings: AnswerPath = field(default_factory=AnswerPath)
    ranks: Ranks = field(default_factory=Ranks)
    path: str = "nano"
    revision: str | None = None
    pass_experts: str | None = None
