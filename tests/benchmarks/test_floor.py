"""The arithmetic of floors, against the figures that were worked out by hand for one H200."""

import pytest

from benchmarks import floor
from benchmarks.floor import Rates, load_floor_ms, product_floor_ms, step_floor_ms
from benchmarks.measurements import decoding, dequantizing, loading, products, starting, training
from benchmarks.measurements.ceilings import batches
from benchmarks.registry import CASES
from benchmarks.shapes import SHAPES

H200 = Rates(products=690e12, attention_forward=503e12, attention_backward=378e12, copy=4.27e12)
LONG = Rates(products=690e12, attention_forward=565e12, attention_backward=487e12, copy=4.27e12)
EIGHT, ONE = SHAPES["8b"], SHAPES["1b"]


def test_parameters_of_the_known_models():
    """Llama-3.1-8B has 8,030,261,248 parameters, Llama-3.2-1B 1,235,814,400; norms are 2L + 1 vectors of them."""
    for shape, known, embeddings in ((EIGHT, 8_030_261_248, 2), (ONE, 1_235_814_400, 1)):
        norms = (2 * shape.blocks + 1) * shape.hidden
        assert shape.linear_parameters + embeddings * shape.head_parameters + norms == known
    assert EIGHT.lora_parameters(16) == 41_943_040
    assert EIGHT.bytes_16bit == 2 * (8_030_261_248 - 65 * 4096)


@pytest.mark.parametrize(
    ("shape", "samples", "length", "r", "recompute", "expected", "rounding"),
    [
        (EIGHT, 4, 2048, 16, "nothing", 406, 2),
        (EIGHT, 4, 2048, 16, "everything", 587, 3),
        (EIGHT, 1, 2048, 16, "nothing", 108, 1),
        (EIGHT, 16, 512, 64, "nothing", 400, 50),
        (ONE, 4, 2048, 16, "nothing", 73, 4),
        (ONE, 1, 1024, 16, "nothing", 10, 1),
    ],
)
def test_steps(shape, samples, length, r, recompute, expected, rounding):
    """Floors worked out with the rates of 8B at 4×2048; small shapes, whose rates are lower, were rounded up."""
    found = step_floor_ms(shape, H200, samples=samples, length=length, r=r, recompute=recompute)
    assert found == pytest.approx(expected, abs=rounding)


@pytest.mark.parametrize(("recompute", "tokens_per_second"), [("nothing", 21_000), ("everything", 14_500)])
def test_steps_when_everything_runs_at_one_rate(recompute, tokens_per_second):
    """4N + 4Vh + 6P + 7shL, or 6N + 4Vh + 8P + 9shL, at 690 TFLOP/s, and two or three passes of dequantizing."""
    rates = Rates(products=690e12, attention_forward=690e12, attention_backward=690e12, copy=4.27e12)
    milliseconds = step_floor_ms(EIGHT, rates, samples=4, length=2048, r=16, recompute=recompute)
    assert 8192 / (milliseconds / 1e3) == pytest.approx(tokens_per_second, rel=5e-3)

    n, head, p = EIGHT.linear_parameters, EIGHT.head_parameters, EIGHT.lora_parameters(16)
    attention = 2048 * 4096 * 32
    again = recompute == "everything"
    flops = 6 * n + 4 * head + 8 * p + 9 * attention if again else 4 * n + 4 * head + 6 * p + 7 * attention
    by_hand = 8192 * flops / 690e12 + (3 if again else 2) * n * (0.5 + 1 / 64 + 1 / 4096 + 2) / 4.27e12
    assert milliseconds == pytest.approx(1e3 * by_hand)


def test_recomputing_products_alone_leaves_attention_once():
    common = {"samples": 1, "length": 65536, "r": 16}
    nothing, products_again, everything = (
        step_floor_ms(EIGHT, LONG, **common, recompute=what) for what in ("nothing", "products", "everything")
    )
    attention = 1e3 * 2 * 65536**2 * 4096 * 32 / 565e12
    assert everything - products_again == pytest.approx(attention)
    assert nothing < products_again < 13_200  # the target must lie above its floor


def test_smaller_pieces():
    """A pass of dequantizing 8B, loading it, a token of it, a product of one row."""
    assert 1e3 * EIGHT.linear_parameters * floor.BYTES_DEQUANTIZED / 4.27e12 == pytest.approx(4.1, abs=0.05)
    assert load_floor_ms(EIGHT, 55.5e9) == pytest.approx(290, rel=0.01)
    assert 1e3 / floor.decode_floor_ms(EIGHT, 4.2e12) == pytest.approx(900, rel=0.02)
    assert product_floor_ms(1, 14336, 4096, 4.2e12) == pytest.approx(7.2e-3, rel=0.01)


def test_every_floor_finds_its_ceilings():
    """The rows that the case `ceilings` writes are those that the floors look up."""
    every = {"teraflops": 600.0, "terabytes_per_second": 4.0, "gigabytes_per_second": 50.0}
    labels = [floor.COPY, floor.HOST_TO_DEVICE]
    for model, samples, length in batches():
        labels.append(floor.products_label(model, samples * length))
        labels += [floor.attention_label(model, samples, length, way) for way in ("forward", "backward")]
    ceilings = dict.fromkeys(labels, every)
    have = [case for case in CASES.values() if case.floor is not None]
    assert {case.kind for case in have} == {kind.KIND for kind in (training, loading, decoding, dequantizing, products)}
    for case in have:
        assert case.floor is not None
        rows = case.floor(ceilings)
        assert set(case.target) <= set(rows)
        assert all(value > 0 for row in rows.values() for value in row.values())


def test_a_missing_ceiling_is_named():
    with pytest.raises(LookupError, match=r"attention 8b, 4×2048|products 8b, 8192"):
        floor.rates_for({floor.COPY: {"terabytes_per_second": 4.0}}, "8b", samples=4, length=2048)


def test_starts_have_no_floor():
    assert all(case.floor is None for case in starting.CASES)
