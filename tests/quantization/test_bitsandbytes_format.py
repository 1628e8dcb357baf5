"""The form on disk: field for field bitsandbytes', in both directions, and nothing damaged gets through."""

import json

import pytest
import torch
from bitsandbytes import functional as bnb
from bitsandbytes.nn.modules import Linear4bit, Params4bit
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import BitsAndBytesConfig

from quatrain.errors import QuantizationError
from quatrain.quantization import QuantizedLinear, quantize_4bit
from quatrain.quantization.bitsandbytes_format import from_bitsandbytes, quantization_config, to_bitsandbytes

STATE = "w.quant_state.bitsandbytes__nf4"


def theirs_of(x: torch.Tensor, **options) -> dict[str, torch.Tensor]:
    """What bitsandbytes stores for ``x`` under the name "w"."""
    codes, state = bnb.quantize_4bit(x, **options)
    return {"w": codes, **{f"w.{key}": tensor for key, tensor in state.as_dict(packed=True).items()}}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
@pytest.mark.parametrize("double_quant", [True, False])
@pytest.mark.parametrize("shape", [(96, 64), (33, 7), (1, 1), (1000,), (2, 3, 130)])
def test_every_field_equals_that_of_bitsandbytes(shape, double_quant, quant_type, dtype):
    x = torch.randn(shape).to(dtype)
    theirs = theirs_of(x, quant_type=quant_type, compress_statistics=double_quant, blocksize=128)
    ours = to_bitsandbytes(quantize_4bit(x, quant_type, 128, double_quant), "w")
    assert set(ours) == set(theirs)
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype and torch.equal(ours[name], tensor), name


@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
@pytest.mark.parametrize("double_quant", [True, False])
def test_bitsandbytes_reads_ours_and_we_read_theirs(double_quant, quant_type):
    x = torch.randn(64, 128, dtype=torch.bfloat16)
    ours = quantize_4bit(x, quant_type, 64, double_quant)
    stored = to_bitsandbytes(ours, "w")
    codes = stored.pop("w")
    state = bnb.QuantState.from_dict({k.removeprefix("w."): v for k, v in stored.items()}, torch.device("cpu"))
    assert torch.equal(bnb.dequantize_4bit(codes, state), ours.dequantize())

    read = from_bitsandbytes(theirs_of(x, quant_type=quant_type, compress_statistics=double_quant, blocksize=64), "w")
    assert (read.shape, read.dtype, read.quant_type, read.block_size) == (x.shape, x.dtype, quant_type, 64)
    assert torch.equal(read.dequantize(), ours.dequantize())


@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_of_bitsandbytes_and_ours_load_each_others_state(bias):
    linear = nn.Linear(128, 64, bias=bias)
    theirs = Linear4bit(128, 64, bias=bias, compute_dtype=torch.float32, quant_type="nf4")
    theirs.load_state_dict(linear.state_dict())
    theirs = theirs.to("cpu")
    ours = QuantizedLinear.from_linear(nn.Linear(128, 64, bias=bias))
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(3, 128)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)

    stored = ours.state_dict()
    fields = {k.removeprefix("weight."): v for k, v in stored.items() if k.startswith("weight.")}
    parameter = Params4bit.from_prequantized(stored["weight"], fields, device="cpu")
    assert torch.equal(bnb.dequantize_4bit(parameter.data, parameter.quant_state), ours.weight)


@pytest.mark.parametrize("storage", [torch.bfloat16, torch.float32])
def test_codes_declared_as_wider_numbers_are_read(storage):
    """``bnb_4bit_quant_storage``, which FSDP checkpoints use."""
    x = torch.randn(64, 64)
    stored = theirs_of(x, quant_type="nf4", quant_storage=storage)
    assert stored["w"].dtype is storage
    assert torch.equal(from_bitsandbytes(stored, "w").codes, quantize_4bit(x).codes)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=3),
    st.sampled_from(["nf4", "fp4", "int4"]),
    st.sampled_from([32, 64, 4096]),
    st.booleans(),
)
def test_a_round_trip_changes_nothing(shape, quant_type, block_size, double_quant):
    weight = quantize_4bit(torch.randn(shape), quant_type, block_size, double_quant)
    read = from_bitsandbytes(to_bitsandbytes(weight, "a.weight"), "a.weight")
    assert torch.equal(read.dequantize(), weight.dequantize())
    assert to_bitsandbytes(read, "w").keys() == to_bitsandbytes(weight, "w").keys()


def altered_state(stored: dict[str, torch.Tensor], **changes) -> dict[str, torch.Tensor]:
    state = json.loads(bytes(stored[STATE].tolist())) | changes
    text = json.dumps({key: value for key, value in state.items() if value is not ...})
    return stored | {STATE: torch.tensor(list(text.encode()), dtype=torch.uint8)}


@pytest.fixture
def stored() -> dict[str, torch.Tensor]:
    return to_bitsandbytes(quantize_4bit(torch.randn(40, 50)), "w")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": [40, 51]}, "'?w'? must be 1020"),
        ({"shape": [2**40, 2**40]}, "must be"),
        ({"shape": [-40, -50]}, "positive sizes"),
        ({"shape": [40.0, 50]}, "positive sizes"),
        ({"shape": []}, "positive sizes"),
        ({"shape": None}, "positive sizes"),
        ({"blocksize": 128}, "absmax must be 16"),
        ({"blocksize": 65}, "blocksize"),
        ({"blocksize": True}, "blocksize"),
        ({"blocksize": [64]}, "blocksize"),
        ({"dtype": "float64"}, "dtype"),
        ({"dtype": ["float32"]}, "dtype"),
        ({"quant_type": "fp4"}, "quant_type"),
        ({"nested_offset": float("nan")}, "finite nested_offset"),
        ({"nested_offset": 1e300}, "finite nested_offset"),
        ({"nested_offset": ...}, "finite nested_offset"),
        ({"nested_blocksize": 64}, "nested_blocksize"),
        ({"nested_dtype": "float16"}, "nested_dtype"),
    ],
)
def test_a_state_that_contradicts_the_tensors_is_refused(stored, changes, message):
    with pytest.raises(QuantizationError, match=message):
        from_bitsandbytes(altered_state(stored, **changes), "w")


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b"\xff\xfe", b"[" * 4000, b"null", b" " * 5000])
def test_a_state_that_is_not_our_json_is_refused(stored, text):
    stored[STATE] = torch.tensor(list(text), dtype=torch.uint8)
    with pytest.raises(QuantizationError, match="must"):
        from_bitsandbytes(stored, "w")


@pytest.mark.parametrize("field", ["", ".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map"])
def test_missing_and_damaged_fields_are_refused(stored, field):
    name = f"w{field}"
    damaged = [stored[name][:-1], stored[name].to(torch.int64), stored[name].double()]
    if stored[name].dtype is torch.float32:
        damaged += [stored[name] * float("nan"), stored[name].half()]
    for tensor in damaged:
        with pytest.raises(QuantizationError, match="must"):
            from_bitsandbytes(stored | {name: tensor}, "w")
    del stored[name]
    with pytest.raises(QuantizationError, match="is missing"):
        from_bitsandbytes(stored, "w")


def test_the_state_must_be_there_once(stored):
    with pytest.raises(QuantizationError, match="exactly one"):
        from_bitsandbytes(stored | {"w.quant_state.bitsandbytes__fp4": stored[STATE]}, "w")
    del stored[STATE]
    with pytest.raises(QuantizationError, match="exactly one"):
        from_bitsandbytes(stored, "w")


def test_another_codebook_is_refused(stored):
    stored["w.quant_map"] = stored["w.quant_map"].flip(0)
    with pytest.raises(QuantizationError, match="standard table"):
        from_bitsandbytes(stored, "w")


def test_quantization_config_is_what_transformers_writes():
    ours = quantization_config(
        quant_type="nf4", double_quant=True, compute_dtype=torch.bfloat16, skip_modules=["lm_head"]
    )
    theirs = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=["lm_head"],
    )
    assert ours == theirs.to_dict()
