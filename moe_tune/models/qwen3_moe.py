"""Qwen3-MoE: top-k weights renormalised to sum to one."""

from typing import Any

import transformers

from moe_tune.models.family import ModelFamily, small_sizes


class Qwen3Moe(ModelFamily):
    """Qwen3-30B-A3B and its relatives: softmax over all experts, then top-k, renormalised; dense layers are skipped.

    Reference:
        Yang et al. 2025, "Qwen3 Technical Report", https://arxiv.org/abs/2505.09388
    """

    model_type = "qwen3_moe"

    def tiny_config(self) -> "transformers.Qwen3MoeConfig":
        return self._config(small_sizes(64, 16, 3, 8, 2), 8)

    def small_config(self, vocab_size: int) -> "transformers.Qwen3MoeConfig":
        return self._config(small_sizes(vocab_size, 64, 4, 64, 8), 32)

    @staticmethod
    def _config(sizes: dict[str, Any], inner: int) -> "transformers.Qwen3MoeConfig":
        width = sizes["hidden_size"]
        widths = {"intermediate_size": 2 * width, "moe_intermediate_size": inner, "head_dim": width // 4}
        return transformers.Qwen3MoeConfig(**sizes, **widths, norm_topk_prob=True)
