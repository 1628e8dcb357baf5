"""What the memory planner has to know of a base: its config, without its weights, and of an architecture that the
planner doesn't know, the sizes of its modules.

The planner reads configs by itself (`memory/architectures.py`). Where it can't, transformers builds the model on the
meta device, whose parameters have shapes and no storage; what a step keeps of it is then an upper bound.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig

from quatrain.adapters.extras import match_modules, table_names
from quatrain.adapters.lora import LoraLinear
from quatrain.adapters.targets import block_index, ends_with, no_match
from quatrain.errors import ModelError
from quatrain.memory.architectures import Treatment
from quatrain.memory.shape import Extras, Linear, LooseBlock, ModelShape
from quatrain.models.gguf_file import GgufFile
from quatrain.models.parts import head
from quatrain.models.skeleton import build_skeleton
from quatrain.models.sources import checked_file, locate
from quatrain.quantization import QuantizedModule
from quatrain.quantization.linears import is_linear, is_transposed


def config_of_base(
    source: str | Path, *, revision: str | None = None, trust_remote_code: bool = False
) -> dict[str, Any]:
    """The configuration of a hub name, a folder, a GGUF file or a `config.json`; no weight is fetched or read.

    Raises:
        ModelError: there is none, or it isn't one.
    """
    path = Path(source).expanduser()
    if path.suffix != ".json":
        where = locate(source, revision=revision, weights=False, trust_remote_code=trust_remote_code)
        if where.gguf_file is not None:
            return GgufFile(where.folder / where.gguf_file).config().to_dict()
        path = checked_file(where.folder, "config.json")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} must hold a model's configuration as JSON: {error}") from error
    if not isinstance(config, dict) or "model_type" not in config:
        raise ModelError(f"{path} must be a model's configuration; it names no `model_type`")
    return config


def loose_shape(config: Mapping[str, Any], treatment: Treatment) -> ModelShape:
    """The shape of a model of any architecture that transformers knows.

    Raises:
        ModelError: transformers doesn't know it.
    """
    model, embedding, output = _skeleton(config)
    linears: dict[int | None, list[Linear]] = defaultdict(list)
    others: dict[int | None, int] = defaultdict(int)
    widths: dict[int | None, int] = defaultdict(int)
    experts = config.get("num_experts_per_tok") or 1
    for name, module in model.named_modules():
        index = block_index(name)
        if is_linear(module) and module is not output:
            linears[index].append(_linear(name, module, treatment))
            continue
        for parameter in module.parameters(recurse=False) if module not in (embedding, output) else ():
            others[index] += parameter.numel()
            widths[index] += experts * sum(parameter.shape[-2:]) if parameter.dim() > 2 else 0
    blocks = sorted(index for index in linears if index is not None) + [None] * (None in linears)
    vocabulary, hidden = embedding.weight.shape
    return ModelShape(
        blocks=tuple(
            LooseBlock(linears=tuple(linears[i]), other_parameters=others[i], other_widths=widths[i]) for i in blocks
        ),
        hidden=hidden,
        vocabulary=vocabulary,
        tied=output.weight is embedding.weight or bool(model.config.tie_word_embeddings),
        other_parameters=sum(count for index, count in others.items() if index not in linears),
        head_bias=getattr(output, "bias", None) is not None,
        item=treatment.item,
        block_size=treatment.block_size,
        double_quant=treatment.double_quant,
        embedding_four_bits=treatment.quantize_embeddings,
        head_four_bits=treatment.quantize_head,
        dropout=treatment.dropout,
    )


def extras_of(
    config: Mapping[str, Any], *, magnitudes: bool, modules: Sequence[str], rows: Mapping[str, int], new_tokens: int
) -> Extras:
    """What is trained beside low-rank updates.

    Args:
        magnitudes: DoRA's. modules: endings of names of modules that are trained whole.
        rows: how many rows of each table, by the ending of its name; "" stands for the input embedding.
        new_tokens: how many tokens are added, each of which has a trained row in every table.

    Raises:
        ModelError: transformers doesn't know the architecture.
        AdapterError: a name matches nothing.
    """
    if not modules and not rows and not new_tokens:
        return Extras(magnitudes=magnitudes)
    model, embedding, output = _skeleton(config)
    whole = match_modules(model, modules)
    embedding_name, head_name = table_names(model)
    tables = {embedding_name: new_tokens} | ({head_name: new_tokens} if head_name else {})
    for ending, count in rows.items():
        name = embedding_name
        if ending:
            name = next((table for table in tables if ends_with(table, ending)), None)
        if name is None:
            raise no_match("trainable_token_indices", [ending], list(tables))
        tables[name] += count
    tied = output.weight is embedding.weight or bool(model.config.tie_word_embeddings)
    counts = [max(tables.values())] if tied else list(tables.values())
    return Extras(
        magnitudes=magnitudes,
        modules=tuple(tuple(p.numel() for p in model.get_submodule(name).parameters()) for name in whole),
        token_rows=tuple(count for count in counts if count),
        head=head_name in whole or counts[-1] > 0,
    )


def treatment_of(model: nn.Module) -> Treatment:
    """What was done to a model that is loaded: which linears are in four bits, and which carry an adapter."""
    modules: dict[str, Any] = dict(model.named_modules())
    packed: Any = next((m.quantized for m in modules.values() if isinstance(m, QuantizedModule)), None)
    ends = [isinstance(found, QuantizedModule) for found in (head(model), model.get_input_embeddings())]  # pyright: ignore
    rates = [module.lora_dropout for module in modules.values() if isinstance(module, LoraLinear)]

    def rank(name: str) -> int:
        return modules[name].r if isinstance(modules[name], LoraLinear) else 0

    def four_bits(name: str) -> bool:
        return isinstance(getattr(modules[name], "base_layer", modules[name]), QuantizedModule)

    return Treatment(
        four_bits=four_bits,
        rank=rank,
        dropout=any(rates),
        block_size=64 if packed is None else packed.block_size,
        double_quant=packed is None or packed.is_double_quantized,
        quantize_head=ends[0],
        quantize_embeddings=ends[1],
        item=model.dtype.itemsize,  # pyright: ignore
    )


def loose_names(config: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """(outputs, inputs) of the linears that can carry an adapter, by their full names.

    Raises:
        ModelError: transformers doesn't know the architecture.
    """
    model, _, output = _skeleton(config)
    found = {n: m for n, m in model.named_modules() if is_linear(m) and m is not output}
    return {name: _sizes(module) for name, module in found.items()}


def _skeleton(config: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """(model on the meta device, input embedding, head)."""
    values = dict(config)
    try:
        made = AutoConfig.for_model(values.pop("model_type"), **values)
    except (KeyError, ValueError, TypeError) as error:
        raise ModelError(
            f"`model_type` must be one that the planner or transformers knows, found "
            f"{config.get('model_type')!r}. A newer transformers may know it"
        ) from error
    model: Any = build_skeleton(made, dtype=torch.bfloat16)
    embedding, output = model.get_input_embeddings(), model.get_output_embeddings()
    if embedding is None or output is None:
        raise ModelError(f"{type(model).__name__} has no embedding and head that transformers knows: it can't train")
    return model, embedding, output


def _linear(name: str, module: nn.Module, treatment: Treatment) -> Linear:
    outputs, inputs = _sizes(module)
    return Linear(
        name=name,
        outputs=outputs,
        inputs=inputs,
        bias=module._parameters.get("bias") is not None,
        rank=treatment.rank(name),
        four_bits=treatment.four_bits(name),
    )


def _sizes(module: Any) -> tuple[int, int]:
    first, second = module.weight.shape
    return (second, first) if is_transposed(module) else (first, second)
