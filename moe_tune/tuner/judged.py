"""What the answers of a batch come to: log-probabilities of the choices, and the task loss."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from moe_tune.base.errors import NumericsError
from moe_tune.data.batching import Batch
from moe_tune.data.packed import PackedChoices


class Judged(NamedTuple):
    """What the answers of a batch come to.

    Args:
        log_probs_BA: Log-probabilities of the choices, -inf where a question has fewer.
        loss_B: Task loss of each question.
        log_likelihood_BA: Log-likelihood of each choice's text under a cloze protocol, 0 where a question has fewer.
        letter_mass_B: Share of the vocabulary's probability that the letters hold, where letters are asked for.

    Shape:
        ``(B x N, A)`` and ``(B x N,)``; the rows of a question, one per head that acts side by side, are neighbours.
    """

    log_probs_BA: Tensor
    loss_B: Tensor
    log_likelihood_BA: Tensor | None = None
    letter_mass_B: Tensor | None = None

    def rows(self) -> dict[str, Tensor]:
        """Return what is kept of each question, by name, on the CPU."""
        return {name: value.cpu() for name, value in self._asdict().items() if value is not None and name != "loss_B"}

    def of_head(self, index: int, heads: int) -> "Judged":
        """Return the part of one of several heads."""
        return Judged(*(None if value is None else value[index::heads] for value in self))  # type: ignore[arg-type]


def judge_choices(logits_MV: Tensor, batch: Batch, choices: PackedChoices, where: str) -> Judged:
    """Return how likely the texts of the choices are, each by its length.

    Formula: ``log softmax_a(log p(text_a | prompt) / characters_a)``; its cross-entropy is the task loss.

    Raises:
        NumericsError: A log-likelihood is not finite.

    Reference:
        lm-evaluation-harness 0.4.13, ``acc_norm``.
    """
    log_likelihood_BA = choices.log_likelihoods(logits_MV)
    if not torch.isfinite(log_likelihood_BA).all():
        raise NumericsError(
            f"expected finite log-likelihoods of choices but some are not ({where}). "
            "Hint: lower the learning rate, or use a base dtype with more range."
        )
    heads = len(log_likelihood_BA) // len(batch.gold_B)
    gold_B, count_B = (one.repeat_interleave(heads) for one in (batch.gold_B, batch.choice_count_B))
    score_BA = log_likelihood_BA / choices.characters_BA.repeat_interleave(heads, dim=0)
    beyond_BA = torch.arange(score_BA.shape[1], device=score_BA.device)[None] >= count_B[:, None]
    log_probs_BA = functional.log_softmax(score_BA.masked_fill(beyond_BA, -torch.inf), dim=-1)
    return Judged(log_probs_BA, functional.nll_loss(log_probs_BA, gold_B, reduction="none"), log_likelihood_BA)
