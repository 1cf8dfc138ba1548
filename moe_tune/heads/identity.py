"""The identity: the pretrained router, unchanged."""

from moe_tune.heads.base import HeadTraits, RouterHead


class IdentityHead(RouterHead):
    """Leaves the pretrained router as it is: the baseline of every comparison.

    Formula: ``z = W h``, ``p = softmax(z)``, ``S = topK(z)``, ``w = p[S]``.

    Shape:
        - input ``hidden_TD``: (T, D).
        - output ``logits_TE``: (T, E).

    Reference:
        Muennighoff et al. 2024, "OLMoE: Open Mixture-of-Experts Language Models", https://arxiv.org/abs/2409.02060
    """

    traits = HeadTraits(foldable=True, keeps_mass=True)
