"""The rule of what is quantized, on names and shapes alone."""

import pytest

from quatrain.errors import ConfigError, QuantizationError
from quatrain.quantization.selection import Candidate, Decision, Role, select


def decide(name: str, shape: tuple[int, ...], role: Role = "linear", full_precision=False, **options) -> Decision:
    candidate = Candidate(name=name, shape=shape, role=role, full_precision=full_precision)
    return select([candidate], block_size=64, **options)[name]


def test_linears_of_the_body_and_nothing_else():
    assert decide("model.layers.0.mlp.up_proj.weight", (176, 64)).quantize
    assert decide("model.layers.0.mlp.gate.weight", (176, 64)).quantize, "wider than its input: no router"
    kept = {
        "vector": decide("model.norm.weight", (64,), "other"),
        "3-D": decide("model.layers.0.mlp.experts.gate_up_proj", (4, 128, 64), "other"),
        "head": decide("lm_head.weight", (512, 64), "head"),
        "embedding: looked up": decide("model.embed_tokens.weight", (512, 64), "embedding"),
        "neither": decide("model.embed_positions.weight", (512, 64), "other"),
        "router": decide("model.layers.0.mlp.gate.weight", (8, 64)),
        "thin": decide("model.layers.0.scorer.weight", (8, 64)),
        "float32": decide("model.layers.0.wo.weight", (64, 64), full_precision=True),
        "whole blocks": decide("embed.weight", (512, 96), "embedding", quantize_embeddings=True),
    }
    for reason, decision in kept.items():
        assert not decision.quantize
        assert reason in decision.reason


def test_head_and_embedding_on_request():
    assert decide("lm_head.weight", (512, 64), "head", quantize_head=True).quantize
    assert decide("embed.weight", (512, 128), "embedding", quantize_embeddings=True).quantize


@pytest.mark.parametrize("pattern", ["up_proj", "mlp.up_proj", "layers.3.*", "model.layers.3.mlp.up_proj", "?p_proj"])
def test_patterns_match_whole_components(pattern: str):
    name = "model.layers.3.mlp.up_proj.weight"
    assert decide(name, (176, 64), keep_in_16bit=(pattern,)) == Decision(
        quantize=False, reason=f"keep_in_16bit: {pattern}"
    )


@pytest.mark.parametrize("pattern", ["proj", "p_proj", "layers.33.*", "weight", "lm_head"])
def test_a_pattern_without_effect_is_an_error(pattern: str):
    with pytest.raises(ConfigError, match="up_proj"):
        decide("model.layers.3.mlp.up_proj.weight", (176, 64), keep_in_16bit=(pattern,))


def test_an_empty_matrix_is_an_error():
    with pytest.raises(QuantizationError, match="must have elements"):
        decide("model.layers.3.mlp.up_proj.weight", (0, 64))
