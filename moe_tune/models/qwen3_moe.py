"""Qwen3-MoE: top-k weights renormalised to sum to one."""

from typing import TYPE_CHECKING

from moe_tune.models.family import ModelFamily

if TYPE_CHECKING:
    from transformers import Qwen3MoeConfig


class Qwen3Moe(ModelFamily):
    """Qwen3-30B-A3B and its relatives: softmax over all experts, then top-k, renormalised; dense layers are skipped.

    Reference:
        Yang et al. 2025, "Qwen3 Technical Report", https://arxiv.org/abs/2505.09388
    """

    model_type = "qwen3_moe"

    def tiny_config(self) -> "Qwen3MoeConfig":
        return self._config(64, 16, 3, 8, 2, 8)

    def small_config(self, vocab_size: int) -> "Qwen3MoeConfig":
        return self._config(vocab_size, 64, 4, 64, 8, 32)

    @staticmethod
    def _config(vocab: int, width: int, layers: int, experts: int, top_k: int, expert_width: int) -> "Qwen3MoeConfig":
        from transformers import Qwen3MoeConfig

        return Qwen3MoeConfig(
            vocab_size=vocab,
            hidden_size=width,
            intermediate_size=2 * width,
            moe_intermediate_size=expert_width,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=4,
            head_dim=width // 4,
            num_experts=experts,
            num_experts_per_tok=top_k,
            max_position_embeddings=4096,
            norm_topk_prob=True,
            pad_token_id=None,
            bos_token_id=None,
            eos_token_id=None,
        )
