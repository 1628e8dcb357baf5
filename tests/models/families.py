"""Small random models of many decoder families, as configurations."""

import transformers

COMMON = {"vocab_size": 160, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
LLAMA_LIKE = COMMON | {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
FAMILIES = {
    "llama": ("LlamaConfig", LLAMA_LIKE | {"tie_word_embeddings": True}),
    "llama-bias": ("LlamaConfig", LLAMA_LIKE | {"attention_bias": True, "mlp_bias": True}),
    "mistral": ("MistralConfig", LLAMA_LIKE | {"head_dim": 16}),
    "qwen2": ("Qwen2Config", LLAMA_LIKE),
    "qwen3": ("Qwen3Config", LLAMA_LIKE | {"head_dim": 16}),
    "gemma": ("GemmaConfig", LLAMA_LIKE | {"head_dim": 16}),
    "gemma2": ("Gemma2Config", LLAMA_LIKE | {"head_dim": 16}),
    "gemma3": ("Gemma3TextConfig", LLAMA_LIKE | {"head_dim": 16}),
    "phi": ("PhiConfig", LLAMA_LIKE),
    "phi3": ("Phi3Config", LLAMA_LIKE),
    "stablelm": ("StableLmConfig", LLAMA_LIKE),
    "olmo2": ("Olmo2Config", LLAMA_LIKE),
    "cohere": ("CohereConfig", LLAMA_LIKE),
    "granite": ("GraniteConfig", LLAMA_LIKE),
    "gpt2": ("GPT2Config", COMMON | {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64}),
    "opt": (
        "OPTConfig",
        COMMON
        | {
            "hidden_size": 64,
            "ffn_dim": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 64,
            "word_embed_proj_dim": 32,
        },
    ),
    "gpt-neox": (
        "GPTNeoXConfig",
        COMMON
        | {
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 64,
        },
    ),
    "falcon": ("FalconConfig", COMMON | {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}),
    "bloom": ("BloomConfig", COMMON | {"hidden_size": 64, "n_layer": 2, "n_head": 4}),
    "mixtral": ("MixtralConfig", LLAMA_LIKE | {"num_local_experts": 4}),
    "qwen3-moe": (
        "Qwen3MoeConfig",
        LLAMA_LIKE | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "head_dim": 16},
    ),
    "phimoe": ("PhimoeConfig", LLAMA_LIKE | {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "llama4": (
        "Llama4TextConfig",
        LLAMA_LIKE | {"intermediate_size_mlp": 128, "head_dim": 16, "num_local_experts": 2, "attention_chunk_size": 16},
    ),
}


def config_of(family: str, **changes) -> transformers.PreTrainedConfig:
    """The small configuration of a family."""
    name, settings = FAMILIES[family]
    return getattr(transformers, name)(**(settings | changes))
