"""What calibrated heads and losses read of one layer: how it routed the training questions, and how they went."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class LayerTable:
    """One layer's part of a training-split table.

    The unit is the question, seen at its answer token.

    Args:
        chosen_ES: Questions of each subject routed to each expert.
        correct_ES: Those of them that the model answered correctly.
        asked_S: Questions of each subject.
        right_S: Those of them that the model answered correctly.
        hidden_QD: The router's input for a sample of the questions, drawn at random, float32.
        logits_QE: The pretrained router's logits for them, float32.
        correct_Q: Which of them the model answered correctly.
    """

    chosen_ES: Tensor
    correct_ES: Tensor
    asked_S: Tensor
    right_S: Tensor
    hidden_QD: Tensor
    logits_QE: Tensor
    correct_Q: Tensor

    @property
    def chosen_E(self) -> Tensor:
        """Questions routed to each expert."""
        return self.chosen_ES.sum(-1)

    @property
    def correct_E(self) -> Tensor:
        """Those of them that the model answered correctly."""
        return self.correct_ES.sum(-1)
