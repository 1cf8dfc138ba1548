"""OLMoE: 64 experts, top-8, weights not renormalised."""

from typing import TYPE_CHECKING

from moe_tune.models.family import ModelFamily

if TYPE_CHECKING:
    from transformers import OlmoeConfig


class Olmoe(ModelFamily):
    """OLMoE-1B-7B and its relatives: softmax over all experts, then top-k, not renormalised, no bias, no shared expert.

    Reference:
        Muennighoff et al. 2024, "OLMoE: Open Mixture-of-Experts Language Models", https://arxiv.org/abs/2409.02060
    """

    model_type = "olmoe"

    def tiny_config(self) -> "OlmoeConfig":
        return self._config(64, 16, 3, 8, 2, 8)

    def small_config(self, vocab_size: int) -> "OlmoeConfig":
        return self._config(vocab_size, 64, 4, 64, 8, 32)

    @staticmethod
    def _config(vocab: int, width: int, layers: int, experts: int, top_k: int, expert_width: int) -> "OlmoeConfig":
        from transformers import OlmoeConfig

        return OlmoeConfig(
            vocab_size=vocab,
            hidden_size=width,
            intermediate_size=expert_width,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=4,
            num_experts=experts,
            num_experts_per_tok=top_k,
            max_position_embeddings=4096,
            norm_topk_prob=False,
            pad_token_id=None,
            bos_token_id=None,
            eos_token_id=None,
        )
