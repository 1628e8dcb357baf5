"""Small random models in four bits, and what plain PyTorch in float32 makes of them: the oracle of engine tests."""

import copy
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from quatrain.adapters import LoraConfig, adapter_layers, adapter_parameters, attach_lora
from quatrain.adapters.lora import LoraLinear
from quatrain.blocks.block import MOST_ADAPTERS
from quatrain.data import Loader, Sample, Samples
from quatrain.ops.low_rank import Dropout
from quatrain.ops.low_rank.dropout import keep_mask
from quatrain.quantization import QuantizedLinear
from tests.models.families import config_of

VARIANTS = {
    "llama": ("llama", {}),
    "llama-bias": ("llama-bias", {}),
    "mistral": ("mistral", {"sliding_window": 4}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {}),
    "gemma": ("gemma", {}),
    "gemma2": ("gemma2", {"sliding_window": 4, "query_pre_attn_scalar": 9, "attn_logit_softcapping": 3.0}),
    "gemma3": (
        "gemma3",
        {
            "sliding_window": 4,
            "query_pre_attn_scalar": 9,
            "layer_types": ["sliding_attention", "full_attention"],
            "tie_word_embeddings": False,
        },
    ),
    "phi3": ("phi3", {"partial_rotary_factor": 0.5}),
}
"""Each row of the table of families, with what is special about it switched on."""

LENGTHS = (5, 11, 3, 8, 1)
STREAMS = {"q_proj": 0, "k_proj": 1, "v_proj": 2, "qkv_proj": 0, "o_proj": 3, "gate_proj": 4, "up_proj": 5}
STREAMS |= {"gate_up_proj": 4, "down_proj": 6}


def random_model(variant: str, *, blocks=2, device="cpu", dtype=torch.float32, four_bits=True, **lora) -> Any:
    """A model with an adapter that isn't zero."""
    family, changes = VARIANTS[variant]
    torch.manual_seed(0)
    config = config_of(family, **{"num_hidden_layers": blocks, **changes})
    # Plain matrix products: some versions of transformers drop Gemma 2's soft cap where PyTorch's attention is chosen.
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager" if family == "gemma2" else None)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.to(dtype)
    for name, module in list(model.named_modules()):
        if four_bits and isinstance(module, nn.Linear) and ".layers." in name:
            model.set_submodule(name, QuantizedLinear.from_linear(module))
    settings: dict[str, Any] = {"r": 4, "lora_alpha": 6} | lora
    attach_lora(model, LoraConfig(**settings))
    for parameter in adapter_parameters(model).values():
        nn.init.normal_(parameter, std=0.2)
    return model.to(device).eval()


def samples(vocabulary: int = 160, lengths=LENGTHS) -> Samples:
    """Samples in which about half of the tokens are supervised."""
    rng = np.random.default_rng(0)
    made = []
    for length in lengths:
        learned = rng.random(length) < 0.6
        learned[0], learned[-1] = False, length > 1
        made.append(Sample(rng.integers(3, vocabulary, length).astype(np.int32), learned))
    return Samples(made)


def batch_of(of: Samples, *, packing: bool = True):
    """All samples in one micro-batch."""
    longest = int(of.lengths.max())
    (batch,) = Loader(of, max_length=longest, batch_size=len(of), packing=packing).epoch(0)
    return batch


def gradients(model) -> dict[str, Tensor]:
    """The adapter's gradients in float32, by name; they are taken off the model."""
    parameters: dict[str, Any] = dict(adapter_parameters(model))
    found = {name: parameter.grad.float().clone() for name, parameter in parameters.items()}
    model.zero_grad(set_to_none=True)
    return found


def in_float32(model: Any) -> Any:
    """The same model on weights that are dequantized to float32."""
    twin = copy.deepcopy(model)
    for name, module in list(twin.named_modules()):
        if isinstance(module, QuantizedLinear):
            bias = module.bias is not None
            linear: Any = nn.Linear(module.in_features, module.out_features, bias=bias, device=module.codes.device)
            linear.weight = nn.Parameter(module.weight.float(), requires_grad=False)
            if bias:
                linear.bias = module.bias
            twin.set_submodule(name, linear)
    return twin.float()


class _Masked(nn.Module):
    """A LoRA layer in plain PyTorch whose dropout mask is given for the whole packed row."""

    def __init__(self, layer: LoraLinear, keep_TI: Tensor, scale: float):
        super().__init__()
        self.layer, self.keep_TI, self.scale, self.rows = layer, keep_TI, scale, slice(0)

    def forward(self, x: Tensor) -> Tensor:
        layer = self.layer
        dropped = x * self.keep_TI[self.rows] * self.scale
        return layer.base_layer(x) + layer.scaling * (dropped @ layer.lora_A.T) @ layer.lora_B.T


def expected(model, batch, dropout: float = 0.0, seed: Tensor | None = None) -> tuple[float, dict[str, Tensor]]:
    """(summed loss, adapter gradients) by autograd in float32, each sample of the packed row sent through alone."""
    twin = in_float32(model)
    masked = _mask_all(twin, batch.input_ids.shape[1], Dropout(dropout, seed, 0)) if seed is not None else []
    total = torch.zeros((), device=next(twin.parameters()).device)
    bounds = batch.cu_seqlens.tolist()
    for start, end in pairwise(bounds):
        for layer in masked:
            layer.rows = slice(start, end)
        ids, targets = (t[:, start:end].to(total.device) for t in (batch.input_ids, batch.targets))
        logits = twin(input_ids=ids).logits
        total = total + F.cross_entropy(logits[0], targets[0], ignore_index=-100, reduction="sum")
    total.backward()
    names = {id(parameter): name for name, parameter in adapter_parameters_of(twin).items()}
    return total.item(), {names[id(p)]: p.grad for p in twin.parameters() if id(p) in names}


def adapter_parameters_of(twin) -> dict[str, nn.Parameter]:
    """`adapter_parameters` where LoRA layers may be wrapped by a mask."""
    return {name.replace(".layer.lora", ".lora"): parameter for name, parameter in adapter_parameters(twin).items()}


def _mask_all(twin, tokens: int, dropout: Dropout) -> list[_Masked]:
    masked = []
    for name, layer in adapter_layers(twin).items():
        block, leaf = int(name.split(".layers.")[1].split(".")[0]), name.rpartition(".")[2]
        stream = block * MOST_ADAPTERS + STREAMS[leaf]
        keep = keep_mask(dropout._replace(first_stream=stream), 0, tokens, layer.in_features)
        masked.append(_Masked(layer, keep.to(layer.lora_A.device).float(), dropout.scale))
        twin.set_submodule(name, masked[-1])
    return masked


def worst(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest relative error (by norm) of any tensor; NaN counts as infinite."""
    errors = [float((found[name] - expected[name]).norm() / expected[name].norm()) for name in expected]
    return max(error if error == error else float("inf") for error in errors)
