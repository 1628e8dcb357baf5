"""Telling selection what each parameter of a model is, and squaring its answer with ties and with the checkpoint.

The rule itself is in `quantization/selection.py` and knows names, shapes and roles only; here is who plays which role.
"""

import torch
from torch import nn
from transformers import PreTrainedModel

from quatrain.errors import ConfigError
from quatrain.quantization.linears import is_linear, is_transposed
from quatrain.quantization.selection import Candidate, Decision, Role, select


def choose(
    model: PreTrainedModel,
    *,
    already_quantized: bool,
    dtype: torch.dtype,
    block_size: int,
    keep_in_16bit: tuple[str, ...],
    quantize_head: bool,
    quantize_embeddings: bool,
) -> dict[str, Decision]:
    """Decides for each parameter of the skeleton whether the loader quantizes it.

    Args:
        model: The skeleton.
        already_quantized: The checkpoint has 4-bit weights of its own; what it left in 16 bits then stays so.
        dtype: The compute dtype.
        block_size: Elements per scale.
        keep_in_16bit: As for `load_model`.
        quantize_head: As for `load_model`.
        quantize_embeddings: As for `load_model`.

    Raises:
        ConfigError: The wishes contradict the checkpoint, or would tear a tied head from its embedding.
    """
    if already_quantized:
        if keep_in_16bit or quantize_head or quantize_embeddings:
            raise ConfigError(
                "A checkpoint that is in four bits already has made its choice; `keep_in_16bit`, `quantize_head` and "
                "`quantize_embeddings` only apply to 16-bit ones. Drop them, or load the 16-bit checkpoint."
            )
        kept = Decision(quantize=False, reason="16-bit in the 4-bit checkpoint")
        return dict.fromkeys(model.state_dict(), kept)
    decisions = select(
        _candidates(model, dtype),
        block_size=block_size,
        keep_in_16bit=keep_in_16bit,
        quantize_head=quantize_head,
        quantize_embeddings=quantize_embeddings,
    )
    for target, source in model.all_tied_weights_keys.items():
        if decisions[target].quantize != decisions[source].quantize:
            reason = decisions[target].reason or decisions[source].reason
            raise ConfigError(
                f"{target} and {source} are one tensor in this model, so both or none can be in four bits; one can't: "
                f"{reason}. Ask for both with quantize_head=True and quantize_embeddings=True, or for none."
            )
    return {name: decisions.get(name, Decision(quantize=False, reason="a buffer")) for name in model.state_dict()}


def _candidates(model: PreTrainedModel, dtype: torch.dtype) -> list[Candidate]:
    """What selection needs to know about each parameter."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    found = []
    for module_name, module in model.named_modules():
        for leaf, parameter in module.named_parameters(recurse=False):
            shape = tuple(parameter.shape)
            role: Role = "other"
            if leaf == "weight" and module is head:
                role = "head"
            elif leaf == "weight" and module is embedding and type(module) is nn.Embedding:
                role = "embedding"
            elif leaf == "weight" and is_linear(module):
                role = "linear"
            found.append(
                Candidate(
                    name=f"{module_name}.{leaf}" if module_name else leaf,
                    shape=shape[::-1] if is_transposed(module) else shape,
                    role=role,
                    full_precision=parameter.dtype == torch.float32 != dtype,
                )
            )
    return found
