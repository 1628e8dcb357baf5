"""GGUF headers: what the format's own package reads, and refusal of files whose numbers lead out of them."""

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest

from quatrain.models.gguf_header import read_header

U32, STRING, ARRAY = 4, 8, 9


@pytest.fixture
def path(tmp_path: Path) -> Path:
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "llama")
    writer.add_uint8("a.u8", 200)
    writer.add_int8("a.i8", -100)
    writer.add_uint16("a.u16", 60_000)
    writer.add_int16("a.i16", -30_000)
    writer.add_uint32("a.u32", 4_000_000_000)
    writer.add_int32("a.i32", -2_000_000_000)
    writer.add_uint64("a.u64", 2**63 + 1)
    writer.add_int64("a.i64", -(2**62))
    writer.add_float32("a.f32", 0.1)
    writer.add_float64("a.f64", 0.1)
    writer.add_bool("a.bool", True)
    writer.add_string("a.string", "köln ✓")
    writer.add_array("a.words", ["one", "", "three"])
    writer.add_array("a.numbers", [1, -2, 3])
    writer.add_array("a.floats", [0.5, 0.25])
    rng = np.random.default_rng()
    writer.add_tensor("vector", rng.normal(size=77).astype(np.float32))
    writer.add_tensor("cube", rng.normal(size=(3, 5, 32)).astype(np.float16))
    q8 = gguf.GGMLQuantizationType.Q8_0
    writer.add_tensor("q8", gguf.quants.quantize(rng.normal(size=(9, 64)).astype(np.float32), q8), raw_dtype=q8)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tmp_path / "a.gguf"


def test_fields_and_tensors_are_those_that_the_package_reads(path: Path):
    ours, theirs = read_header(path), gguf.GGUFReader(path)
    expected = {name: field.contents() for name, field in theirs.fields.items() if not name.startswith("GGUF.")}
    assert expected.pop("a.words") == ["one", "", "three"]
    found = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in ours.fields.items()}
    assert found == expected
    assert list(ours.tensors) == [tensor.name for tensor in theirs.tensors]
    for tensor in theirs.tensors:
        mine = ours.tensors[tensor.name]
        assert mine.shape == tuple(reversed(tensor.shape.tolist())) and mine.kind == tensor.tensor_type
        assert mine.data.tobytes() == tensor.data.tobytes()


def test_a_file_cut_anywhere_is_refused(path: Path, tmp_path: Path):
    whole = path.read_bytes()
    for length in [*range(0, 1200, 7), len(whole) - 33]:
        (tmp_path / "cut").write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"ends at byte|begin with GGUF|empty"):
            read_header(tmp_path / "cut")


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def header(*, version: int = 3, tensors: int = 0, fields: tuple[bytes, ...] = (), rest: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, len(fields)) + b"".join(fields) + rest


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"GGML" + bytes(40), "begin with GGUF"),
        (header(version=1), "version is 1"),
        (header(version=3 << 24), "version is"),  # big-endian
        (header(tensors=2**60), "within its header"),
        (header(fields=(struct.pack("<Q", 2**63) + b"key",)), "before byte"),
        (header(fields=(text(b"key") + struct.pack("<I", 99),)), "type 99"),
        (header(fields=(text(b"key") + struct.pack("<IIQ", ARRAY, U32, 2**61),)), "before byte"),
        (header(fields=(text(b"key") + struct.pack("<IIQ", ARRAY, STRING, 2**61),)), "within its header"),
        (header(fields=(text(b"key") + struct.pack("<IIQQ", ARRAY, STRING, 2, 2**64 - 1),)), "within its header"),
        (header(fields=(text(b"key") + struct.pack("<IIQ", ARRAY, ARRAY, 1),)), "type 9"),
        (header(fields=(text(b"general.alignment") + struct.pack("<II", U32, 0),)), "aligned to 0"),
        (header(tensors=1, rest=text(b"t") + struct.pack("<I", 1 << 31)), "dimensions"),
        (header(tensors=1, rest=text(b"t") + struct.pack("<IQIQ", 1, 8, 1234, 0)), "1234"),
        (header(tensors=1, rest=text(b"t") + struct.pack("<IQIQ", 1, 33, 8, 0)), "whole blocks of 32"),
        (header(tensors=1, rest=text(b"t") + struct.pack("<IQIQ", 1, 8, 0, 2**62)), "before byte"),
        (header(tensors=1, rest=text(b"t") + struct.pack("<IQQIQ", 2, 2**62, 2**62, 0, 0)), "before byte"),
    ],
)
def test_numbers_that_lead_out_of_the_file_are_refused(tmp_path: Path, content: bytes, message: str):
    (tmp_path / "bad").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_header(tmp_path / "bad")
