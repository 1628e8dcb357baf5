"""The adapter that a run trains: one that is stored, one that the model already carries, or a new one."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from quatrain.adapters import LoraConfig, adapter_layers, adapter_parameters, attach_lora, load_adapter
from quatrain.adapters.trained import load_trained
from quatrain.data import Loader, Prepared
from quatrain.data.batch import IGNORED
from quatrain.models.new_tokens import Pieces, start_rows
from quatrain.training.config import RunConfig


def attach_stored(model: nn.Module, config: RunConfig, checkpoint: Path | None) -> bool:
    """Put the adapter of a checkpoint, or the one that the config goes on from, on the model.

    Returns:
        Whether the model now carries an adapter, which may have been there before.
    """
    if checkpoint is not None:
        load_trained(model, checkpoint)
    elif config.adapter is not None:
        load_adapter(model, config.adapter, trainable=True)
    for parameter in adapter_parameters(model).values():
        parameter.requires_grad_(True)
    return bool(adapter_layers(model))


def attach_new(
    model: nn.Module,
    lora: LoraConfig,
    pieces: Pieces,
    *,
    config: RunConfig,
    data: Prepared,
    tokenizer: Any,
    progress: Callable[[str, int, int], None],
) -> None:
    """Put a new adapter on the model.

    Args:
        lora: what it looks like, the rows of new tokens included.
        pieces: of each new token.
        config: the run.
        data: the rows that EVA looks at.
        tokenizer: theirs.
        progress: told of long work.
    """
    started = partial(progress, "starting the adapter from the weights")
    attach_lora(model, lora, seed=config.seed, batches=_inputs(data, config, tokenizer), progress=started)
    start_rows(model, pieces)


def _inputs(data: Prepared, config: RunConfig, tokenizer: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """Token ids, and the positions from which something is learned, in the order of the first epoch."""
    loader = Loader(
        data.samples,
        max_length=config.max_length,
        batch_size=config.per_device_train_batch_size,
        packing=False,
        pad_token_id=tokenizer.pad_token_id or 0,
        seed=config.seed,
    )
    for batch in loader.epoch(0):
        yield batch.input_ids, batch.targets != IGNORED
