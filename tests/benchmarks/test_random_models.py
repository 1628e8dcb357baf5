"""Models of random 4-bit weights: of the right shape, where they were asked for, and giving sane numbers."""

import torch

from benchmarks.random_models import random_model, random_weight
from benchmarks.shapes import SHAPES
from quatrain.models.streaming import streamed_weights
from quatrain.offload import Streaming
from quatrain.quantization import QuantizedModule


def test_a_random_model_runs_and_lies_where_it_was_asked_to(tmp_path):
    shape = SHAPES["tiny"]
    model = random_model(shape, torch.device("cpu"), Streaming(host=(0,), disk=(1,), folder=tmp_path))
    quantized = [module for module in model.modules() if isinstance(module, QuantizedModule)]
    assert sum(module.quantized.numel for module in quantized) == shape.linear_parameters
    weights = streamed_weights(model)
    assert weights is not None and weights.nbytes > shape.linear_parameters // 2
    assert not any(parameter.is_meta for parameter in model.parameters())
    logits = model(input_ids=torch.arange(16)[None]).logits
    assert logits.isfinite().all() and 0.1 < logits.float().std() < 10


def test_random_weights_have_the_size_of_a_fresh_networks():
    weight = random_weight(256, 512, torch.device("cpu")).dequantize(torch.float32)
    assert abs(weight.std().item() * 512**0.5 - 1) < 0.1
    assert abs(weight.mean().item()) < 0.1 * weight.std().item()
