"""ReLU routing: an expert is used where its logit is positive, and by that much."""

import torch
from torch import Tensor

from moe_tune.base.errors import require
from moe_tune.heads.base import HeadTraits, RouterHead
from moe_tune.routing import Decision, ScoringRule


class ReluHead(RouterHead):
    r"""Uses every expert with a positive logit, weighed by that logit, so that routing is continuous in the logits.

    Formula: ``w = relu(z)``, ``S = {i: z_i > 0}``, its ``slots`` largest where there are more; ``y = 0`` where there is
    none. How many experts a token gets is trained by an L1 penalty on the weights, not set here: at the start it is
    whatever the pretrained logits make it, another gate than theirs. There is nothing to train in it: put it in a
    stack, after a head that has.

    Args:
        slots: Most experts per token, >= 1; no more than the layer has are used.

    Shape:
        - ``weights_TK``: (T, ``slots``).

    Raises:
        ConfigError: ``slots`` is below 1.

    Reference:
        Wang et al. 2024, "ReMoE: Fully Differentiable Mixture-of-Experts with ReLU Routing",
        https://arxiv.org/abs/2412.14711; the bound on the number of experts is this project's.
    """

    traits = HeadTraits(
        exact_start=False,
        replaces_probabilities=True,
        replaces_weights=True,
        variable_k=True,
        reason="positive logits take the place of softmax and top-k",
    )

    def __init__(self, slots: int = 16) -> None:
        super().__init__()
        require(slots >= 1, "at least 1 slot", slots, "head.slots", "the default is 16.")
        self.most = slots

    def slots_for(self, rule: ScoringRule) -> int:
        return self.most

    def admit(self, logits_TE: Tensor, probs_TE: Tensor, experts_TK: Tensor) -> Tensor:
        place_K = torch.arange(experts_TK.shape[1], device=experts_TK.device)
        return (logits_TE.gather(-1, experts_TK) > 0) & (place_K < self.most)

    def weigh(self, decision: Decision) -> Decision:
        return decision.with_scores(torch.relu(decision.logits_TE.float()))
