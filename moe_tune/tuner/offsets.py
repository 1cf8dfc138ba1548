"""Offsets of router logits, one set per question, that gradient descent moves at the answer position."""

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from moe_tune.answer_path.answering import Answering
from moe_tune.answer_path.circumstances import Circumstances
from moe_tune.answer_path.settings import AnswerPath
from moe_tune.answer_path.way import Reach
from moe_tune.base.errors import ConfigError
from moe_tune.data.module import QuizDataModule
from moe_tune.gates.gated_model import GatedModel
from moe_tune.heads.base import HeadTraits, RouterHead
from moe_tune.tuner.examiner import Examiner


class _OffsetHead(RouterHead):
    """Adds to each token's logits the offset of the question it is of."""

    traits = HeadTraits(trainable=True)

    def __init__(self, offset_BE: nn.Parameter, question_T: Tensor) -> None:
        super().__init__()
        self.offset_BE, self.question_T = offset_BE, question_T

    def score(self, hidden_TD: Tensor, logits_TE: Tensor) -> Tensor:
        return logits_TE + self.offset_BE[self.question_T]


class Offsets:
    """Offsets for a batch of questions in some layers, 0 at first, that Adam moves.

    Adam moves every number by itself: with a loss that is a sum over questions each goes its way as if it were alone.

    Args:
        gated: The model they are for.
        layers: Which layers.
        questions: How many questions.
        rate: Adam's learning rate.
    """

    def __init__(self, gated: GatedModel, layers: Iterable[int], questions: int, rate: float) -> None:
        size, device = (questions, gated.rule.num_experts), gated.device
        self.by_layer = {layer: nn.Parameter(torch.zeros(size, device=device)) for layer in layers}
        self._optimizer = torch.optim.Adam([*self.by_layer.values()], lr=rate)

    def heads(self, question_T: Tensor) -> dict[int, RouterHead]:
        """Return heads for a session over answer tokens, token t of the question ``question_T[t]``."""
        return {layer: _OffsetHead(offset_BE, question_T).eval() for layer, offset_BE in self.by_layer.items()}

    def step(self, loss: Tensor) -> None:
        """Take a step down a loss."""
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()


def examiner_of(gated: GatedModel, questions: QuizDataModule, answer_path: AnswerPath | None) -> Examiner:
    """Return who asks a model's questions at the answer position; ``None`` keeps nothing of the prompts."""
    refusals = gated.family.refusals(gated.model.config)
    reach = Reach.of(gated.layers, "answer", gated.adapter is not None, {}, refusals)
    way = answer_path or AnswerPath(limit_gb=0, above_limit="stream")
    return Examiner(Answering(Circumstances(gated, questions, reach, way)))


def why_not_there(examiner: Examiner, split: str) -> str | None:
    """Return why a split cannot be asked by answer tokens alone, ``None`` where it can, whatever the heads' scope."""
    if examiner.quiz.is_cloze(split):
        return "choices whose texts are scored"
    return replace(examiner.answering.circumstances.reach, scope="answer", wide_loss=None).why_not


def on_answer_path(examiner: Examiner, split: str, layers: Iterable[int]) -> Examiner:
    """Return an examiner of answer tokens alone, whatever the heads' scope; it takes all the questions there are.

    Raises:
        ConfigError: The answer path is not exact here, or choices' texts are scored.
    """
    here = examiner.answering.circumstances
    if why_not := why_not_there(examiner, split):
        raise ConfigError(
            f"expected letters asked for at the answer position, to seek routing there, but got: {why_not} "
            f"(split {split}). Hint: leave out what seeks it, such as OracleDistillationLoss."
        )
    kept = 0.0 if here.settings.use == "never" else here.settings.limit_gb
    settings = replace(here.settings, use="always", limit_gb=kept, above_limit="stream")
    there = replace(here, reach=Reach(min(layers), refusals=here.reach.refusals), settings=settings)
    return Examiner(Answering(there), examiner.task_loss, examiner.numerics)
