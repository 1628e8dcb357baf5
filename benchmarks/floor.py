"""What the hardware allows: the least time of a piece of work, from its operations and bytes and the measured ceilings.

A floor holds what no implementation in bfloat16 can leave out (matrix products, attention, dequantization) and nothing
else: no norms, no optimizer, no launch gaps. Ceilings are rates that this machine reached in the case `ceilings`, at
the shapes in question; peak rates from a data sheet would put the floor where nobody has stood.

N frozen parameters of linears, V·h of the head, P of the adapter, s tokens of a sample, L blocks, and here h = heads ×
head size. FLOPs per token, causal attention over half of s × s:

| | products | attention |
|---|---|---|
| forward | 2N + 2Vh + 2P | 2shL |
| backward: inputs' gradients, and the adapter's weights' | 2N + 2Vh + 4P | 5shL |
| all of them, nothing recomputed | 4N + 4Vh + 6P | 7shL |
| with the blocks' forward run again | 6N + 4Vh + 8P | 9shL |
"""

from dataclasses import dataclass
from typing import Literal

from benchmarks.case import Figures
from benchmarks.shapes import Shape

Recompute = Literal["nothing", "products", "everything"]
"""What a block runs again before its backward; "products": all but attention, whose output was kept."""

BYTES_4BIT = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Of a parameter in NF4 with double quantization: half a byte, a scale byte for 64, a float32 for 256 scales."""
BYTES_DEQUANTIZED = BYTES_4BIT + 2
"""Read and written to turn one parameter into bfloat16."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What a machine reaches at the shapes of one model and batch, per second."""

    products: float
    """FLOP/s of the blocks' products in bfloat16."""
    attention_forward: float
    attention_backward: float
    """FLOP/s of causal attention."""
    copy: float
    """Bytes/s, read and written both counted."""


def step_floor_ms(
    shape: Shape, rates: Rates, *, samples: int, length: int, r: int, recompute: Recompute = "nothing"
) -> float:
    """Milliseconds of a training step on `samples` × `length` tokens in one micro-batch.

    Every linear is dequantized once for forward and once for backward, and once more where it runs again.
    """
    tokens = samples * length
    again = recompute != "nothing"
    n, head, p = shape.linear_parameters, shape.head_parameters, shape.lora_parameters(r)
    products = tokens * ((6 if again else 4) * n + 4 * head + (8 if again else 6) * p) / rates.products
    forwards = 2 if recompute == "everything" else 1
    one_forward = attention_flops(shape, samples=samples, length=length)
    attention = forwards * one_forward / rates.attention_forward + 2.5 * one_forward / rates.attention_backward
    dequantizing = (3 if again else 2) * n * BYTES_DEQUANTIZED / rates.copy
    return 1e3 * (products + attention + dequantizing)


def attention_flops(shape: Shape, *, samples: int, length: int) -> int:
    """Of the forward of causal attention in all blocks; backward has five products where forward has two."""
    return 2 * samples * length * length * shape.heads * shape.head_size * shape.blocks


def load_floor_ms(shape: Shape, host_to_device: float) -> float:
    """A 16-bit checkpoint crosses the bus once, at `host_to_device` bytes/s."""
    return 1e3 * shape.bytes_16bit / host_to_device


def decode_floor_ms(shape: Shape, copy: float) -> float:
    """One token of every sequence of a small batch: all weights are read once, linears in 4 bits, the head in 16."""
    return 1e3 * (shape.linear_parameters * BYTES_4BIT + 2 * shape.head_parameters) / copy


def product_floor_ms(rows: int, outputs: int, inputs: int, copy: float) -> float:
    """A 4-bit product with so few rows that the weight's bytes decide: weight, x and y move once."""
    return 1e3 * (outputs * inputs * BYTES_4BIT + 2 * rows * (outputs + inputs)) / copy


# The rows of the case `ceilings`, by name: written by `measurements/ceilings.py`, read below.
COPY, HOST_TO_DEVICE, DEVICE_TO_HOST, BOTH_WAYS = "copy", "host to device", "device to host", "both ways at once"


def products_label(model: str, tokens: int) -> str:
    return f"products {model}, {tokens} tokens"


def attention_label(model: str, samples: int, length: int, direction: Literal["forward", "backward"]) -> str:
    return f"attention {model}, {samples}×{length}, {direction}"


def rates_for(ceilings: Figures, model: str, *, samples: int, length: int) -> Rates:
    """The rates that `ceilings` measured for this batch. LookupError names the row that is missing."""
    forward, backward = (attention_label(model, samples, length, way) for way in ("forward", "backward"))
    return Rates(
        products=1e12 * ceilings[products_label(model, samples * length)]["teraflops"],
        attention_forward=1e12 * ceilings[forward]["teraflops"],
        attention_backward=1e12 * ceilings[backward]["teraflops"],
        copy=copy_rate(ceilings),
    )


def copy_rate(ceilings: Figures) -> float:
    """Bytes/s, read and written, of a copy on the device."""
    return 1e12 * ceilings[COPY]["terabytes_per_second"]
