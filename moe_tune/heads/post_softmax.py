"""Softmax after the choice: the chosen experts' weights sum to one."""

from moe_tune.heads.base import HeadTraits, RouterHead
from moe_tune.heads.renormalised import renormalised
from moe_tune.routing import Decision, StockRouter


class PostSoftmaxHead(RouterHead):
    """Takes the softmax over the chosen experts alone, so that every token's weights sum to 1.

    Formula: ``S = topK(z)``, ``w = softmax(z_S)``, which is ``p_i / sum_S p``: the renormalised form with factor 1. In
    families that renormalise it changes nothing; elsewhere the layer's output grows by ``1 / sum_S p`` from the start,
    which a frozen model never saw (``RenormalisedHead`` keeps the scale on average).

    Shape:
        - ``weights_TK``: (T, K), each row with sum 1.

    Reference:
        Jiang et al. 2024, "Mixtral of Experts", https://arxiv.org/abs/2401.04088 (softmax over the top K logits).
    """

    traits = HeadTraits(
        exact_start=False, reason="weights sum to 1, more than in families that take the softmax before the choice"
    )

    def weigh(self, decision: Decision) -> Decision:
        return renormalised(decision)

    def fold(self, router: StockRouter) -> StockRouter:
        return router if router.rule.renormalised() == router.rule else super().fold(router)
