"""Writing a base back to disk in four bits, in bitsandbytes' form, so that others can load it.

The files are those of any Hugging Face checkpoint: shards of at most 5 GB with an index, `config.json`, the generation
settings and the tokenizer. transformers with bitsandbytes loads them, and so does `load_model`, byte for byte. What
bitsandbytes has no module for (INT4, 4-bit embeddings) is written in the same fields under `quant_method: "quatrain"`.
"""

import json
from pathlib import Path

from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.core_model_loading import revert_weight_conversion

from quatrain.adapters import adapter_layers
from quatrain.errors import ModelError
from quatrain.models.identity import note_origin
from quatrain.models.safetensors_folder import INDEX
from quatrain.quantization import QuantizedModule

MAX_SHARD = "5GB"


def save_quantized(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, folder: str | Path) -> None:
    """Writes a quantized base, so that it never has to be quantized again.

    Args:
        model: A model from `load_model`, without adapters.
        tokenizer: Its tokenizer, saved beside it.
        folder: Where to; created if missing. A folder that holds another checkpoint is refused.

    Raises:
        ModelError: Nothing is quantized, an adapter is attached, or the folder already holds weights.
    """
    folder = Path(folder)
    if not any(isinstance(module, QuantizedModule) for module in model.modules()):
        raise ModelError("Only a quantized model can be saved in four bits; use model.save_pretrained for this one.")
    if adapter_layers(model):
        raise ModelError(
            "A base is saved without its adapter; write that one with `save_adapter(model, folder)`, and take it off "
            "with `detach_lora(model)` before this."
        )
    if any(folder.glob("*.safetensors")):
        raise ModelError(f"A checkpoint must go into a folder without weights; {folder} has some. Choose another.")
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor for name, tensor in model.state_dict().items() if name not in model.all_tied_weights_keys}
    # Names and shapes as published checkpoints have them: one tensor per expert, for instance.
    _write_shards(revert_weight_conversion(model, state), folder)
    note_origin(model)
    model.config.save_pretrained(folder)
    if model.generation_config is not None:
        model.generation_config.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


def _write_shards(state: dict[str, Tensor], folder: Path) -> None:
    """One shard at a time is copied to host memory, so a model on the GPU never lies on the host as a whole."""
    split = split_torch_state_dict_into_shards(
        state, filename_pattern="model{suffix}.safetensors", max_shard_size=MAX_SHARD
    )
    for file, names in split.filename_to_tensors.items():
        shard = {name: state[name].cpu().contiguous() for name in names}
        save_file(shard, folder / file, metadata={"format": "pt"})
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
