"""Route regret: the router prefers those of its sampled routes that answer a training question better."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from moe_tune.base.errors import require
from moe_tune.losses.base import AuxLoss, LossContext, RouteSampling
from moe_tune.routing import RouterOutput, RoutingTrace


class RouteRegretLoss(AuxLoss):
    """Raises the score of sampled routes of the last layer that answer a training question above those that do worse.

    Formula: ``mean_q mean_(i,j) softplus(s_j - s_i)`` over pairs of a question's routes with ``u_i - u_j > margin``; a
    question without a pair counts as 0. A route i is K experts of the last layer with a head, at the answer position:
    the K largest of ``z + g``, g standard Gumbel noise. ``s_i``, its score, is the sum over its experts of ``log p_e``
    under the head as it is at each step. ``u_i``, its utility, is the log-probability of the right letter where this
    layer routes by i, weighted by the model's own rule from ``z``, and all others as pretrained.

    Routes and utilities are made once, before training, with the pretrained router's ``z``; neither is refreshed. So
    the routes are not drawn from the head that is trained, nor weighted by it, and a lower layer that something else
    trains leaves the utilities behind. They cost ``routes`` forward passes over one token per training question,
    through the layers from this one up. The gradient reaches the head of the last layer alone, and no head below it
    through the hidden state. Where all pairs can be told apart nothing bounds the scores, and the gate sharpens without
    end. Value ``ln 2`` for a uniform gate, times the share of questions with a pair; 0 where the utilities of each
    question are equal.

    Args:
        weight: Factor on the loss; positive raises the better routes.
        routes: Routes sampled per training question, at least 2.
        margin: By how much the utilities of a pair differ, in nats, at least 0; closer ones teach mostly rounding.
        seed: Of the sampling noise, at least 0; the same seed gives the same routes.

    Shape:
        - reads ``own_probs_TE`` (T, E), ``experts_QNK`` (Q, N, K) and ``utility_QN`` (Q, N), N the routes.
        - returns a scalar.

    Raises:
        ConfigError: ``routes``, ``margin`` or ``seed`` is out of range, or the loss looks at another layer than the
            last with a head.

    Reference:
        After https://arxiv.org/abs/2605.07260. Only its abstract and summaries could be read, so the pairs, the score,
        the margin and the defaults are this project's.
    """

    needs = frozenset({"routes", "own_probs"})
    scopes = ("answer",)
    last_layer = True

    def __init__(
        self, weight: float = 1.0, routes: int = 32, margin: float = 0.01, seed: int = 0, **shared: Any
    ) -> None:
        super().__init__(weight, **shared)
        name = type(self).__name__
        require(routes >= 2, "at least 2 routes", routes, f"{name}.routes", "the default is 32.")
        require(0 <= margin < float("inf"), "a margin of at least 0", margin, f"{name}.margin", "the default is 0.01.")
        require(seed >= 0, "a seed of at least 0", seed, f"{name}.seed", "the default is 0.")
        self.margin, self.sampling = margin, RouteSampling(routes, seed)

    def compute(self, trace: RoutingTrace, context: LossContext) -> Tensor:
        routes = context.routes
        assert routes is not None
        question_T = trace.question_T[trace.answer_T]
        wanted, known = self.chosen_layers(trace, context), [*routes.utility_QN]
        where, hint = f"{type(self).__name__}.layers", "null takes the last layer with a head."
        require({*wanted} <= {*known}, f"the last layer with a head, {known},", list(wanted), where, hint)

        def layer(output: RouterOutput) -> Tensor:
            assert output.own_probs_TE is not None
            experts_TNK = routes.experts_QNK[output.layer][question_T].long()
            scores_TN = route_scores(output.own_probs_TE, experts_TNK)
            return preference_loss(scores_TN, routes.utility_QN[output.layer][question_T], self.margin).mean()

        return self.mean_over_layers(trace, context, layer)


def route_scores(probs_TE: Tensor, experts_TNK: Tensor) -> Tensor:
    """Return the sum of the log-probabilities of each route's experts, in nats.

    Shape:
        - returns (T, N).

    Example:
        >>> route_scores(torch.tensor([[0.5, 0.25, 0.25]]), torch.tensor([[[0, 1], [1, 2]]])).exp()
        tensor([[0.1250, 0.0625]])
    """
    # The floor keeps value and gradient finite where a probability underflows.
    log_probs_TE = probs_TE.clamp(min=torch.finfo(probs_TE.dtype).tiny).log()
    return log_probs_TE.gather(1, experts_TNK.flatten(1)).view(experts_TNK.shape).sum(-1)


def preference_loss(scores_TN: Tensor, utility_TN: Tensor, margin: float) -> Tensor:
    """Return each question's mean logistic loss over its pairs of a better and a worse route; 0 without a pair.

    Shape:
        - returns (T,).

    Example:
        >>> preference_loss(torch.zeros(2, 2), torch.tensor([[-1.0, -2.0], [-1.0, -1.0]]), 0.0)
        tensor([0.6931, 0.0000])
    """
    better_TNN = utility_TN[:, :, None] - utility_TN[:, None] > margin
    loss_TNN = functional.softplus(scores_TN[:, None] - scores_TN[:, :, None])  # worse less better
    return (loss_TNN * better_TNN).sum((1, 2)) / better_TNN.sum((1, 2)).clamp(min=1)
