"""Do our own blocks compute what a model's own layers compute? Found out on the model itself, before it trains.

A table of architectures may be wrong: a variant of a known one, code that ships with a checkpoint, a new version of
transformers. So two samples are sent through the model, each alone, and every block of ours gets, in one packed row,
what the layer got. Layer by layer, because in 16 bits two correct computations of a whole deep model drift apart.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from quatrain.blocks import Row
from quatrain.blocks.kept import Kept
from quatrain.errors import ModelError
from quatrain.models.autograd_objective import AutogradObjective
from quatrain.models.engine import Engine
from quatrain.models.parts import body
from quatrain.models.probes import probe_tokens, tolerance
from quatrain.ops.block_attention import Segments

_LENGTHS = (5, 6)


@torch.no_grad()
def check_agreement(engine: Engine) -> None:
    """Compare every block, the embedding, the final norm and the head with the model's own.

    Raises:
        ModelError: something gives other results; says what, and how far off it is.
    """
    model, decoder = engine.model, body(engine.model)
    if not AutogradObjective(model, packing=False).chunks_head:
        raise ModelError("the head does more than a product")
    samples = [probe_tokens(model, length, seed) for seed, length in enumerate(_LENGTHS)]
    was_training = model.training
    model.eval()
    layers, last = _layers_alone(decoder, samples)
    engine.stack.refresh()
    model.train(was_training)
    embedded = engine.spec.embedding(torch.cat(samples, dim=1)[0])
    _check("the embedding", embedded, layers[0][0], torch.zeros_like(embedded))
    row = _row(engine.device)
    for index, (block, (x_TH, expected_TH)) in enumerate(zip(engine.stack.blocks, layers, strict=True)):
        engine.stack.prepare(index, range(index + 1, len(layers)))
        residual, branch = block.forward(x_TH, None, row, Kept())
        _check(f"block {index}", residual + branch, expected_TH, x_TH)
    hidden, _ = engine.stack.finish(layers[-1][1], torch.zeros_like(last))
    _check("the final norm", hidden, last, torch.zeros_like(last))


def _row(device: torch.device) -> Row:
    positions = torch.cat([torch.arange(length) for length in _LENGTHS]).to(device)
    ends = torch.tensor([0, *_LENGTHS], dtype=torch.int32).cumsum(0, dtype=torch.int32).to(device)
    return Row(positions, Segments(ends, max(_LENGTHS)), None)


def _layers_alone(decoder: Any, samples: Sequence[Tensor]) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
    """((input, output) of each layer, hidden states behind the final norm), the samples' one after the other."""
    seen: list[list[tuple[Tensor, Tensor]]] = [[] for _ in decoder.layers]
    with _watching(decoder.layers, seen):
        last = [decoder(input_ids=sample, use_cache=False).last_hidden_state[0] for sample in samples]
    joined = [tuple(torch.cat(tensors) for tensors in zip(*of_layer, strict=True)) for of_layer in seen]
    return joined, torch.cat(last)  # pyright: ignore[reportReturnType]


@contextmanager
def _watching(layers: nn.ModuleList, seen: list[list[tuple[Tensor, Tensor]]]) -> Iterator[None]:
    """Note what goes into each layer and what comes out, [T, H]."""

    def note(index: int):
        def hook(_module: nn.Module, inputs: tuple, output: Any) -> None:
            output = output[0] if isinstance(output, tuple) else output
            seen[index].append((inputs[0][0], output[0]))

        return hook

    handles = [layer.register_forward_hook(note(index)) for index, layer in enumerate(layers)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _check(what: str, found: Tensor, expected: Tensor, passed_through: Tensor) -> None:
    """Compare two results, given the stream that they were added to, whose own rounding is no error of theirs."""
    dtype = expected.dtype
    found, expected, passed_through = found.float(), expected.float(), passed_through.float()
    rounding = 2 * torch.finfo(dtype).eps * expected.norm()
    allowed = tolerance(dtype) * (expected - passed_through).norm() + rounding
    error = (found - expected).norm()
    # Written so that a NaN doesn't pass.
    if not error <= allowed:
        raise ModelError(f"{what} of ours gives other results (off by {error:.2g}, rounding explains {allowed:.2g})")
