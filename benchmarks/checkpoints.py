"""Checkpoints of random weights in the shapes of real models, because speed and memory don't depend on the values.

python -m benchmarks.checkpoints 8b FOLDER

Weights are drawn on the GPU where there is one and written shard by shard (16 GB in some 20 seconds). They are drawn as
a fresh network's are, with standard deviation 1/√inputs and norms around one, so that activations keep their size from
block to block and a wrong result shows in the loss. A folder appears under its name when it is complete. Its tokenizer
knows bytes and three special tokens; another one's files may be put in its place.
"""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.shapes import SHAPES, Shape

BLOCKS_A_SHARD = 4
END_TOKEN = 2
INDEX = "model.safetensors.index.json"


def ensure(name: str, folder: Path) -> None:
    """Makes ``folder/name`` unless it is there; `name` is one of `SHAPES`, with trained weights for "smollm2"."""
    target = folder / name
    if target.exists():
        return
    half_made = folder / f"{name}.part"
    shutil.rmtree(half_made, ignore_errors=True)
    half_made.mkdir(parents=True)
    if name == "smollm2":
        from benchmarks.smollm2 import write_16bit

        write_16bit(half_made)
    else:
        write(SHAPES[name], half_made)
    half_made.rename(target)


def write(shape: Shape, folder: Path) -> None:
    """A Llama checkpoint in bfloat16 with a tokenizer."""
    config_of(shape).save_pretrained(folder)
    _write_tokenizer(folder)
    files: dict[str, str] = {}
    for number, tensors in enumerate(_shards(shape)):
        name = f"model-{number:05d}.safetensors"
        save_file({key: tensor.cpu() for key, tensor in tensors.items()}, folder / name, metadata={"format": "pt"})
        files |= dict.fromkeys(tensors, name)
    index = {"metadata": {"total_size": shape.bytes_16bit}, "weight_map": files}
    (folder / INDEX).write_text(json.dumps(index), encoding="utf-8")


def _shards(shape: Shape) -> Iterator[dict[str, Tensor]]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator(device).manual_seed(0)

    def matrix(outputs: int, inputs: int) -> Tensor:
        drawn = torch.randn(outputs, inputs, device=device, generator=generator, dtype=torch.bfloat16)
        return drawn.mul_(inputs**-0.5)

    def norm() -> Tensor:
        drawn = torch.randn(shape.hidden, device=device, generator=generator)
        return drawn.mul_(0.1).add_(1).bfloat16()

    ends = {"model.embed_tokens.weight": matrix(shape.vocabulary, shape.hidden), "model.norm.weight": norm()}
    if not shape.tied:
        ends["lm_head.weight"] = matrix(shape.vocabulary, shape.hidden)
    yield ends
    for first in range(0, shape.blocks, BLOCKS_A_SHARD):
        tensors = {}
        for block in range(first, min(first + BLOCKS_A_SHARD, shape.blocks)):
            prefix = f"model.layers.{block}"
            for name, (outputs, inputs) in shape.linears.items():
                tensors[f"{prefix}.{name}.weight"] = matrix(outputs, inputs)
            for name in ("input_layernorm", "post_attention_layernorm"):
                tensors[f"{prefix}.{name}.weight"] = norm()
        yield tensors


def config_of(shape: Shape) -> Any:
    """What transformers knows such a model by."""
    from transformers import LlamaConfig

    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.feed_forward,
        num_hidden_layers=shape.blocks,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_size,
        max_position_embeddings=131072,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
        rms_norm_eps=1e-5,
        tie_word_embeddings=shape.tied,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=END_TOKEN,
        dtype="bfloat16",
    )


def _write_tokenizer(folder: Path) -> None:
    """Libraries ask for a tokenizer, though nobody tokenizes anything."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<s>", "</s>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*special, *alphabet])}
    core = Tokenizer(models.BPE(vocabulary, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    ensure(sys.argv[1], Path(sys.argv[2]))
