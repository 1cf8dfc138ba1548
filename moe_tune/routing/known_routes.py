"""What losses read of the training questions one by one: routing that answers them, that of their like, samples."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class OracleRoutes:
    """The routing at the answer position that offsets of the logits, sought for each question, lead to.

    Args:
        probs_QE: Probabilities under the offsets, float32, by layer.
        right_Q: Which questions are answered correctly under them.
    """

    probs_QE: Mapping[int, Tensor]
    right_Q: Tensor

    def of(self, question_B: Tensor) -> "OracleRoutes":
        """Return those of the questions of a batch, on its device."""
        rows_B, device = question_B.to(self.right_Q.device), question_B.device
        probs_QE = {layer: one[rows_B].to(device) for layer, one in self.probs_QE.items()}
        return OracleRoutes(probs_QE, self.right_Q[rows_B].to(device))


@dataclass(frozen=True, slots=True)
class NeighbourRoutes:
    """The routing at the answer position of each question's nearest questions among those answered correctly.

    Args:
        probs_RE: Probabilities of the questions that are looked among, float32, by layer.
        neighbour_QN: Which of them are a question's neighbours, the nearest first.
        weight_QN: How much each counts; they sum to one, or to 0 where there is no neighbour at all.
    """

    probs_RE: Mapping[int, Tensor]
    neighbour_QN: Tensor
    weight_QN: Tensor

    def of(self, question_B: Tensor) -> "NeighbourRoutes":
        """Return those of the questions of a batch, on its device; the probabilities stay where they are."""
        rows_B, device = question_B.to(self.weight_QN.device), question_B.device
        return NeighbourRoutes(self.probs_RE, self.neighbour_QN[rows_B], self.weight_QN[rows_B].to(device))

    def probs_QNE(self, layer: int) -> Tensor:
        """Return the probabilities of each question's neighbours in a layer, (Q, N, E)."""
        return self.probs_RE[layer][self.neighbour_QN].to(self.weight_QN.device)


@dataclass(frozen=True, slots=True)
class SampledRoutes:
    """Routes sampled for each question at the answer position, and how well it is answered by each.

    Args:
        experts_QNK: The K experts of each of N routes, best first, by layer; a route is of one layer alone.
        utility_QN: Log-probability of the right letter, in nats, by layer of the route.
    """

    experts_QNK: Mapping[int, Tensor]
    utility_QN: Mapping[int, Tensor]

    def of(self, question_B: Tensor) -> "SampledRoutes":
        """Return those of the questions of a batch, on its device."""

        def rows(of_all: Mapping[int, Tensor]) -> dict[int, Tensor]:
            return {layer: one[question_B.to(one.device)].to(question_B.device) for layer, one in of_all.items()}

        return SampledRoutes(rows(self.experts_QNK), rows(self.utility_QN))
