"""Small configurations of any mixture-of-experts model that transformers knows, by a few rules."""

from typing import Any

from transformers import AutoConfig, PretrainedConfig

EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
"""What families call the number of experts of a layer."""
TOP_K = (
    *("num_experts_per_tok", "num_experts_per_token", "top_k_experts", "moe_topk", "moe_k"),
    "num_selected_experts",
)
"""What families call the number of experts of a token."""
HEADS = 4
"""Attention heads, and heads of whatever a family has beside."""
FOLLOWING = ("layer_types", "mlp_layer_types", "hybrid_override_pattern", "layers_block_type", "rope_scaling")
"""Fields that a configuration derives from others, where they are left out."""
NOT_GIVEN = ("transformers_version", "model_type", "architectures", "dtype")
SPARSE_LAST = {"mlp_layer_types": lambda sizes: ["dense"] + ["sparse"] * (sizes["num_hidden_layers"] - 1)}
FULL = {"layer_types": lambda sizes: ["full_attention"] * sizes["num_hidden_layers"]}
LAST_FULL = {"layer_types": lambda sizes: ["linear_attention"] * (sizes["num_hidden_layers"] - 1) + ["full_attention"]}
ONE_HEAD_SIZE = {"head_dim": lambda sizes: sizes["qk_rope_head_dim"]}
BY_HAND: dict[str, dict[str, Any]] = {
    "axk1": ONE_HEAD_SIZE,
    "bailing_hybrid": LAST_FULL,
    "beam": SPARSE_LAST,
    "deepseek_v3": ONE_HEAD_SIZE,
    "deepseek_v4": {"mlp_layer_types": lambda sizes: ["hash_moe"] + ["moe"] * (sizes["num_hidden_layers"] - 1)},
    "dots3_note_text": {**SPARSE_LAST, "per_layer_config": {}},
    "gemma4_text": {
        **FULL,
        "per_layer_config": {},
        "enable_moe_block": True,
        "hidden_size_per_layer_input": 0,
        "num_experts": lambda sizes: sizes["num_experts"],
        "top_k_experts": lambda sizes: sizes["top_k_experts"],
        "moe_intermediate_size": lambda sizes: sizes["moe_intermediate_size"],
    },
    "granitemoehybrid": LAST_FULL,
    "jamba": {"attn_layer_offset": 1, "attn_layer_period": 2},
    "kimi_linear": LAST_FULL,
    "laguna": {
        **SPARSE_LAST,
        "num_attention_heads_per_layer": lambda sizes: [HEADS] * sizes["num_hidden_layers"],
    },
    "lfm2_moe": FULL,
    "mimo_v2_flash": {**FULL, **SPARSE_LAST},
    "phimoe": {"sliding_window": None},
    "qwen3_5_moe_text": LAST_FULL,
    "qwen3_next": LAST_FULL,
    "qwen4_exp_text": {
        "layer_types": lambda sizes: ["linear_attention"] * (sizes["num_hidden_layers"] - 1) + ["indexed_attention"],
        **dict.fromkeys(("indexer_n_heads", "indexer_compress_ratio"), HEADS),
        "indexer_kv_heads": 1,
        "indexer_head_dim": lambda sizes: sizes["head_dim"],
        "indexer_budget": 8,
    },
}
"""What the rules do not find, by ``model_type``: a value, or what makes one of the sizes."""


def shrunk_config(
    model_type: str, *, vocab_size: int, width: int, layers: int, experts: int, top_k: int, inner: int
) -> PretrainedConfig:
    """Return a small configuration of a model type, of its own default in all that is not a size.

    Args:
        model_type: As transformers knows it.
        vocab_size: Tokens of the vocabulary.
        width: Width of the hidden state, D, a multiple of 8.
        layers: Decoder layers, at least 2: some families' first is dense.
        experts: Experts of a layer, E, a multiple of 4.
        top_k: Experts per token, K.
        inner: Width within an expert.

    Raises:
        ValueError: The family's configuration refuses these sizes.
    """
    default = AutoConfig.for_model(model_type)
    sizes = _sizes(vocab_size, width, layers, experts, top_k, inner)
    given = default.to_dict()
    few = {name: value for name, value in default.to_diff_dict().items() if name not in (*FOLLOWING, *NOT_GIVEN)}
    few |= {name: value for name, value in sizes.items() if name in given}
    hand = BY_HAND.get(model_type, {})
    few |= {name: value(sizes) if callable(value) else value for name, value in hand.items()}
    return type(default)(**few)


def _sizes(vocab_size: int, width: int, layers: int, experts: int, top_k: int, inner: int) -> dict[str, Any]:
    """Return what each name that families have for a size is to be."""
    head = max(8, width // HEADS)
    sizes: dict[str, Any] = {"vocab_size": vocab_size, "max_position_embeddings": 4096}
    for value, names in (
        (width, "hidden_size ffn_hidden_size intermediate_size shared_intermediate_size"),
        (inner, "moe_intermediate_size shared_expert_intermediate_size expert_hidden_size"),
        (inner, "moe_shared_expert_intermediate_size"),
        (layers, "num_hidden_layers num_layers"),
        (HEADS, "num_attention_heads num_key_value_heads linear_num_key_heads linear_num_value_heads mamba_n_heads"),
        (HEADS, "index_n_heads linear_num_heads mamba_num_heads swa_num_attention_heads swa_num_key_value_heads"),
        (experts, " ".join(EXPERTS)),
        (top_k, " ".join(TOP_K)),
        (
            head,
            "head_dim v_head_dim linear_head_dim linear_key_head_dim linear_value_head_dim index_head_dim swa_head_dim",
        ),
        (head // 2, "qk_rope_head_dim qk_nope_head_dim rotary_dim"),
        (head, "qk_head_dim"),
        (width // 2, "q_lora_rank kv_lora_rank o_lora_rank router_hidden_size"),
        (16, "mamba_d_state mamba_chunk_size chunk_size ssm_state_size"),
        (2, "n_group num_expert_group"),
        (1, "topk_group num_limited_groups first_k_dense_replace mamba_n_groups n_groups"),
        (1, "moe_num_shared_experts n_shared_experts num_shared_experts num_dense_layers"),
        (2, "o_groups"),
        (8, "index_topk sliding_window"),
        (2 * width // HEADS, "mamba_d_head mamba_head_dim"),
        (None, "pad_token_id bos_token_id eos_token_id"),
    ):
        sizes |= dict.fromkeys(names.split(), value)
    return sizes
