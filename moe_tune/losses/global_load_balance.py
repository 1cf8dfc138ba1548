"""Load balancing over everything an optimiser step sees: all its micro-batches on all processes."""

import torch
from torch import Tensor

from moe_tune.base.ranks import summed_over_ranks
from moe_tune.losses.base import AuxLoss, LossContext
from moe_tune.losses.load_balance import balance_of
from moe_tune.routing import RouterOutput, RoutingTrace


class GlobalLoadBalanceLoss(AuxLoss):
    """Pushes each layer towards using its experts alike over a whole optimiser step, not within each micro-batch.

    Formula: ``E sum_i F_i P_i`` per layer, then the mean over layers; ``F_i`` is expert i's share of the choices of all
    micro-batches since the last optimiser step, this one included, on all processes (no gradient), ``P_i`` its mean
    probability in this micro-batch. Value 1 when F or P is uniform, (E/K) times the probability mass on the set when
    all tokens choose one set of K. One micro-batch on one process gives ``LoadBalanceLoss``; more let a micro-batch of
    one subject specialise. The counts are kept by layer between micro-batches and forgotten after the step.

    Args:
        weight: Factor on the loss; 0.01 is customary.

    Reference:
        Qiu et al. 2025, "Demons in the Detail", https://arxiv.org/abs/2501.11873
    """

    def compute(self, trace: RoutingTrace, context: LossContext) -> Tensor:
        self._count(self.outputs(trace, context))
        return self.mean_over_layers(
            trace, context, lambda output: balance_of(self.state[_key(output)], output.probs_TE)
        )

    def after_step(self) -> None:
        self.state = {}

    def _count(self, outputs: list[RouterOutput]) -> None:
        # All layers in one message, from every process, whether or not it has tokens that count.
        counts_LE = summed_over_ranks(torch.stack([output.counts_E() for output in outputs]))
        for output, counts_E in zip(outputs, counts_LE, strict=True):
            before_E = self.state.get(_key(output), torch.zeros_like(counts_E))
            self.state[_key(output)] = before_E.to(counts_E.device) + counts_E


def _key(output: RouterOutput) -> str:
    return f"counts_{output.layer}"
