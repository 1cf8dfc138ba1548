"""What a training step on text makes small: the loss of the next token at every scored place."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from moe_tune.answer_path.text_way import Split, TextWay
from moe_tune.base.errors import ConfigError, NumericsError, require
from moe_tune.data.text_batching import TextBatch
from moe_tune.losses.base import CONTEXT_EXTRAS, AuxLoss, LossContext
from moe_tune.routing import Scope

KNOWN_OF_TEXT = frozenset({"teacher"})
"""What can be given to losses beside a trace, of text."""


class Predicted(NamedTuple):
    """How the scored tokens of a batch are predicted; M counts them, row by row.

    Args:
        logits_MV: Logits over the vocabulary, float32.
        next_M: The tokens that come.
        loss_M: Their losses in nats.
    """

    logits_MV: Tensor
    next_M: Tensor
    loss_M: Tensor

    def context(self, way: TextWay, progress: float, teacher_MV: Tensor | None) -> LossContext:
        """Return what losses may read beside the trace: each scored token stands for a question without letters."""
        gated, none_MA = way.here.gated, self.logits_MV[:, :0]
        answers = (none_MA, self.next_M, self.logits_MV)
        return LossContext(gated.rule, gated.layers, gated.scope, progress, *answers, gated.views, teacher_MV)


def predicted(way: TextWay, batch: TextBatch, split: Split, where: str) -> Predicted:
    """Return how the scored tokens of a batch are predicted.

    Formula: ``l_t = - log p(x_t | x_<t)``.

    Args:
        way: The way of text.
        batch: Blocks.
        split: Whose they are.
        where: The step, for messages.

    Raises:
        NumericsError: A loss is not finite.
    """
    hidden_BSD = way.hidden(batch, split)
    row_M, place_M = batch.answer_BS.nonzero(as_tuple=True)
    logits_MV = way.here.gated.vocabulary_logits(hidden_BSD[row_M, place_M]).float()
    next_M = batch.next_BS[row_M, place_M]
    loss_M = functional.cross_entropy(logits_MV, next_M, reduction="none")
    if not torch.isfinite(loss_M).all():
        raise NumericsError(
            f"expected finite losses of tokens but some are not ({split} text, {where}). "
            "Hint: lower the learning rate, or use a base dtype with more range."
        )
    return Predicted(logits_MV, next_M, loss_M)


def refuse_of_text(task: str, scope: Scope, losses: Mapping[str, AuxLoss]) -> None:
    """Refuse what means nothing where text is trained on.

    Args:
        task: ``next_token``, or ``both``, where auxiliary losses are those of the quiz.
        scope: Where the heads act.
        losses: Auxiliary losses by name.

    Raises:
        ConfigError: The heads act at the answer position alone, or a loss reads what only a quiz has.
    """
    if scope != "all":
        raise ConfigError(
            f"expected scope all but got {scope} (model.scope, model.task {task}): a text has no answer position. "
            "Hint: --model.scope all."
        )
    if task == "both":
        require("text" not in losses, "another name than text", "text", "model.losses", "the text's loss is called so.")
        return
    for name, loss in losses.items():
        read = sorted(loss.needs & CONTEXT_EXTRAS - KNOWN_OF_TEXT)
        if read:
            raise ConfigError(
                f"expected losses of the routing but {name!r} reads {', '.join(read)} of the quiz (model.losses, "
                f"model.task {task}). Hint: --model.task both, or leave it out."
            )
