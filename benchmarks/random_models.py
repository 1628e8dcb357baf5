"""Models of random 4-bit weights in the shapes of real ones, made block by block where they are to stay.

Speed and memory don't depend on the values, so codes and scales are drawn directly: nothing is quantized, and neither
the model in 16 bits nor all of its 4-bit weights need exist on the device. The scales lie around what keeps activations
at their size from block to block.
"""

from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.checkpoints import config_of
from benchmarks.shapes import Shape
from quatrain.models.skeleton import build_skeleton
from quatrain.models.streaming import StreamedBlocks
from quatrain.offload import Streaming
from quatrain.ops.codebooks import codebook
from quatrain.quantization import QuantizedLinear, QuantizedTensor

_BLOCK_SIZE, _NESTED = 64, 256


def random_model(shape: Shape, device: torch.device, streaming: Streaming | None = None) -> Any:
    """A frozen Llama in NF4 with double quantization, its blocks' weights where `streaming` says."""
    model = build_skeleton(config_of(shape), dtype=torch.bfloat16)
    model.model.rotary_emb.to(device)
    streamed = StreamedBlocks(model, streaming, device) if streaming else None
    _fill_norm(model.model.norm, shape, device)
    for table in (model.model.embed_tokens, model.lm_head):
        drawn = torch.randn(shape.vocabulary, shape.hidden, device=device, dtype=torch.bfloat16)
        table.weight = nn.Parameter(drawn.mul_(shape.hidden**-0.5), requires_grad=False)
    if shape.tied:
        model.tie_weights()
    for index, block in enumerate(model.model.layers):
        _fill_block(block, shape, device)
        if streamed is not None:
            streamed.take_complete(f"model.layers.{index}.", lambda _: None)
    if streamed is not None:
        streamed.weights.settle()
    return model


def _fill_block(block: nn.Module, shape: Shape, device: torch.device) -> None:
    for name, module in list(block.named_modules()):
        if isinstance(module, nn.Linear):
            weight = random_weight(module.out_features, module.in_features, device)
            block.set_submodule(name, QuantizedLinear.from_quantized(weight, None, torch.bfloat16))
        else:
            _fill_norm(module, shape, device)


def _fill_norm(module: Any, shape: Shape, device: torch.device) -> None:
    if type(module).__name__ == "LlamaRMSNorm":
        drawn = torch.randn(shape.hidden, device=device).mul_(0.1).add_(1).bfloat16()
        module.weight = nn.Parameter(drawn, requires_grad=False)


def random_weight(outputs: int, inputs: int, device: torch.device) -> QuantizedTensor:
    """[outputs, inputs] with a standard deviation of about 1/√inputs."""
    blocks = outputs * inputs // _BLOCK_SIZE
    mean = inputs**-0.5 / codebook("nf4").std(correction=0).item()
    return QuantizedTensor(
        codes=_random_bytes(outputs * inputs // 2, device),
        scales=_random_bytes(blocks, device),
        nested_scales=torch.full((-(-blocks // _NESTED),), 0.1 * mean, device=device),
        offset=torch.tensor(mean, device=device),
        shape=torch.Size((outputs, inputs)),
        dtype=torch.bfloat16,
        quant_type="nf4",
        block_size=_BLOCK_SIZE,
    )


def _random_bytes(count: int, device: torch.device) -> Tensor:
    return torch.randint(-(1 << 62), 1 << 62, (-(-count // 8),), device=device).view(torch.uint8)[:count]
