"""OLMoE: 64 experts, top-8, weights not renormalised."""

from typing import Any

import transformers

from moe_tune.models.family import ModelFamily, small_sizes


class Olmoe(ModelFamily):
    """OLMoE-1B-7B and its relatives: softmax over all experts, then top-k, not renormalised, no bias, no shared expert.

    Reference:
        Muennighoff et al. 2024, "OLMoE: Open Mixture-of-Experts Language Models", https://arxiv.org/abs/2409.02060
    """

    model_type = "olmoe"

    def tiny_config(self) -> "transformers.OlmoeConfig":
        return self._config(small_sizes(64, 16, 3, 8, 2), 8)

    def small_config(self, vocab_size: int) -> "transformers.OlmoeConfig":
        return self._config(small_sizes(vocab_size, 64, 4, 64, 8), 32)

    @staticmethod
    def _config(sizes: dict[str, Any], inner: int) -> "transformers.OlmoeConfig":
        return transformers.OlmoeConfig(**sizes, intermediate_size=inner, norm_topk_prob=False)
