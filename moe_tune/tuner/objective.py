"""What training makes small: the task loss and the auxiliary losses, and what is refused of them."""

from collections.abc import Sequence
from typing import Literal

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor
from torch.nn import functional

from moe_tune.base.errors import ConfigError, NumericsError, require
from moe_tune.data.batching import Batch
from moe_tune.data.module import QuizDataModule
from moe_tune.gates.gated_model import GatedModel
from moe_tune.losses.base import CONTEXT_EXTRAS, AuxLoss, LossContext
from moe_tune.routing import Scope
from moe_tune.tuner.judged import Judged, judge_choices

TaskLoss = Literal["letters", "vocabulary"]
"""Cross-entropy over the answer letters, or over the full vocabulary; at the answer position."""
Parts = dict[str, tuple[float, Tensor]]
"""The weight and the unscaled value of each loss by name; ``task`` is the task loss."""


def judge(logits_BV: Tensor, batch: Batch, letters: Sequence[int], task_loss: TaskLoss, where: str) -> Judged:
    """Return letter log-probabilities and the task loss of each question; of a cloze batch those of its choices.

    Raises:
        NumericsError: A letter's logit is not finite.
    """
    if batch.choices is not None:
        return judge_choices(logits_BV, batch, batch.choices, where)
    letters_A = torch.tensor(letters, device=logits_BV.device)
    letters_BA = logits_BV[:, letters_A]
    heads = len(logits_BV) // len(batch.gold_B)
    gold_B, count_B = (one.repeat_interleave(heads) for one in (batch.gold_B, batch.choice_count_B))
    beyond_BA = torch.arange(len(letters_A), device=logits_BV.device)[None] >= count_B[:, None]
    if not torch.isfinite(letters_BA).all():
        raise NumericsError(
            f"expected finite letter logits but some are not ({where}). "
            "Hint: lower the learning rate, or use a base dtype with more range."
        )
    log_probs_BA = functional.log_softmax(letters_BA.masked_fill(beyond_BA, -torch.inf), dim=-1)
    if task_loss == "letters":
        return Judged(log_probs_BA, functional.nll_loss(log_probs_BA, gold_B, reduction="none"))
    return Judged(log_probs_BA, functional.cross_entropy(logits_BV, letters_A[gold_B], reduction="none"))


def words_read(
    gated: GatedModel, batch: Batch, letters: Sequence[int], task_loss: TaskLoss, *, whole: bool
) -> tuple[list[int] | None, Sequence[int]]:
    """Return the words whose logits a batch needs, ``None`` for all, and the letters' places among them.

    Args:
        gated: The model.
        batch: The batch.
        letters: Token ids of the letters.
        task_loss: Which cross-entropy.
        whole: Whether something else reads the whole vocabulary: the letters' mass, or a loss.
    """
    if whole or task_loss != "letters" or batch.choices is not None or not gated.can_ask_few_words:
        return None, letters
    return list(letters), range(len(letters))


def letter_mass(logits_BV: Tensor, batch: Batch, letters: Sequence[int]) -> Tensor:
    """Return the share of the vocabulary's probability that each question's letters hold (B x N,), float32.

    Formula: ``sum_letters exp(logit) / sum_vocabulary exp(logit)``; near 0 the model wants to say something else.
    """
    letters_BA = logits_BV[:, torch.tensor(letters, device=logits_BV.device)]
    count_B = batch.choice_count_B.repeat_interleave(len(logits_BV) // len(batch.gold_B))
    beyond_BA = torch.arange(len(letters), device=logits_BV.device)[None] >= count_B[:, None]
    held_B = letters_BA.masked_fill(beyond_BA, -torch.inf).logsumexp(-1)
    return (held_B - logits_BV.logsumexp(-1)).exp()


class Objective:
    """The task loss and the auxiliary losses of a training step.

    Args:
        losses: Auxiliary losses by name.
        task_loss: Which cross-entropy.
        task_weight: Factor on the task loss.
    """

    def __init__(self, losses: dict[str, AuxLoss], task_loss: TaskLoss, task_weight: float) -> None:
        self.losses, self.task_loss, self.task_weight = losses, task_loss, task_weight
        wanted = frozenset[str]().union(*(loss.needs for loss in losses.values()))
        self.needs = wanted - CONTEXT_EXTRAS
        """Costly extras of the routing that a training step records."""
        self.wants_teacher, self.wants_table = "teacher" in wanted, "table" in wanted
        self.wants_neighbours = "neighbours" in wanted
        searches = {loss.search for loss in losses.values() if loss.search is not None}
        hint = "let the losses that read it agree on steps and rate."
        require(len(searches) < 2, "one search for the oracle's routing", [*searches], "model.losses", hint)
        self.search = next(iter(searches), None)
        """How the oracle's routing is sought, if a loss reads it."""
        samplings = {loss.sampling for loss in losses.values() if loss.sampling is not None}
        hint = "let the losses that read it agree on routes and seed."
        require(len(samplings) < 2, "one sampling of routes", [*samplings], "model.losses", hint)
        self.sampling = next(iter(samplings), None)
        """How routes are sampled, if a loss reads them."""
        self._told_constant = False

    def require_loss_for(self, quiz: QuizDataModule) -> None:
        """Refuse a loss over the vocabulary where there is no answer position.

        Raises:
            ConfigError: The quiz trains under a cloze protocol.
        """
        if quiz.task != "next_token" and quiz.is_cloze("train") and self.task_loss == "vocabulary":
            raise ConfigError(
                f"expected task_loss letters but got vocabulary (model.task_loss, protocol {quiz.protocol.name}): "
                "a cloze question has no answer position. Hint: letters is the cross-entropy over its choices there."
            )

    def require_probabilities(self, gated: GatedModel) -> None:
        """Refuse losses of router probabilities where no closed form says what they are.

        Raises:
            ConfigError: There is such a loss.
        """
        if all(gate.rule.described for gate in gated.gates.values()):
            return
        reading = sorted(name for name, loss in self.losses.items() if loss.reads_probabilities)
        hint = "losses of logits, weights or the answer, such as ZLoss, can be used."
        what = "no loss of probabilities, as this router weighs in no known closed form,"
        require(not reading, what, reading, "model.losses", hint)

    def counts_tokens(self, scope: Scope) -> bool:
        """Return whether a loss is a mean over all tokens, given where the heads act."""
        return any(loss.counts_tokens(scope) for loss in self.losses.values())

    def parts(
        self, gated: GatedModel, context: LossContext, task: Tensor, share: float, tokens: float, where: str
    ) -> Parts:
        """Return every loss of a batch that has just gone through the model.

        Args:
            gated: The model, with the batch's trace.
            context: What losses may read beside it.
            task: The batch's task loss, of its share.
            share: What the batch counts among those of other processes.
            tokens: What it counts more where tokens are counted (``token_share``).
            where: The step, for messages.

        Raises:
            ConfigError: A loss reaches no trainable parameter.
            NumericsError: A loss is not finite.
        """
        parts: Parts = {"task": (self.task_weight, task)}
        for name, loss in self.losses.items():
            factor = share * tokens if loss.counts_tokens(gated.scope) else share
            parts[name] = (loss.current_weight(context.progress), loss.compute(gated.trace, context) * factor)
        _refuse(parts, gated, where)
        if not self._told_constant:
            self._told_constant = True
            _tell_constant(parts, gated)
        return parts

    def after_step(self) -> None:
        """Let losses move what they carry from step to step."""
        for loss in self.losses.values():
            loss.after_step()


def _refuse(parts: Parts, gated: GatedModel, where: str) -> None:
    for name, (_, value) in parts.items():
        if not value.requires_grad:
            raise ConfigError(
                f"expected every loss to reach a trainable parameter but {name!r} does not (model.losses). "
                f"Hint: {gated.head_name} at scope {gated.scope} gives it no gradient path; drop the loss."
            )
        if not torch.isfinite(value):
            raise NumericsError(
                f"expected finite losses but {name!r} is {value.item()} at {where}. Nothing was updated. "
                "Hint: lower the learning rate or the loss weight."
            )


def _tell_constant(parts: Parts, gated: GatedModel) -> None:
    """Name the losses that the head cannot move."""
    parameters = list(gated.trainable().values())
    for name, (_, value) in parts.items():
        if name == "task":
            continue
        gradients = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
        if not any(one is not None and one.any() for one in gradients):
            rank_zero_warn(
                f"loss {name!r} has no gradient at the first step: it is constant on {gated.head_name}, "
                f"or already at its bound ({value.item():.4g})."
            )
