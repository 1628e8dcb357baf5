"""The assembly of the 4-bit product, which Triton's interpreter can't run, in an interpreter of our own."""

import numpy as np
import pytest
import torch

from quatrain.ops.codebooks import codebook, dynamic_map
from quatrain.ops.linear_4bit import assembly
from quatrain.ops.linear_4bit import triton as kernel
from tests.ops.ptx import Program

# Where the tables lie is the assembler's choice; here not at zero.
SHARED = {"pairs_by_lane": 1024, "scale_map": 1024 + 32768}
PAIRS = kernel._pairs("nf4", torch.bfloat16, torch.device("cpu"))


@pytest.fixture(scope="module", params=[128, 256, 512])
def room(request) -> np.ndarray:
    """The shared memory after as many threads have filled the tables."""
    room = np.full(40_000, 0xCC, dtype=np.uint8)
    program = Program(assembly.FILL_TABLES, SHARED)
    memory = torch.cat((PAIRS, dynamic_map().view(torch.int32))).numpy().view(np.uint32)
    for thread in range(request.param):
        program.run({"$1": 0, "$2": 1024}, {"%tid.x": thread, "%ntid.x": request.param}, memory, room)
    return room


def test_the_tables_are_filled_and_nothing_else(room):
    words = room.view(np.uint32)
    pairs = words[1024 // 4 :][: 256 * 32].reshape(256, 32)
    assert (pairs == PAIRS.numpy().view(np.uint32)[:, None]).all()
    scales = torch.from_numpy(words[SHARED["scale_map"] // 4 :][:256].copy()).view(torch.float32)
    assert torch.equal(scales, dynamic_map())
    assert (words[:256] == 0xCCCCCCCC).all() and (words[SHARED["scale_map"] // 4 + 256 :] == 0xCCCCCCCC).all()


def test_bytes_are_looked_up_in_the_lanes_own_bank(room):
    program = Program(assembly.LOOK_UP_PAIRS, SHARED)
    values = codebook("nf4").to(torch.bfloat16)
    for lane in range(32):
        word = int(np.random.default_rng(lane).integers(1 << 32))
        found = {"$4": word}
        program.run(found, {"%laneid": lane}, np.zeros(0, np.uint32), room)
        for byte in range(4):
            pair = torch.tensor([found[f"${byte}"]], dtype=torch.int64).to(torch.int32).view(torch.bfloat16)
            code = word >> (8 * byte) & 255
            assert torch.equal(pair, values[[code >> 4, code & 15]])
        assert found["place"] // 4 % 32 == (SHARED["pairs_by_lane"] // 4 + lane) % 32


def test_scales_are_looked_up_by_the_low_bytes(room):
    program, table = Program(assembly.LOOK_UP_SCALES, SHARED), dynamic_map()
    for codes in np.random.default_rng(0).integers(1 << 16, size=50).tolist():
        found = {"$2": codes}
        program.run(found, {}, np.zeros(0, np.uint32), room)
        values = torch.tensor([found["$0"], found["$1"]]).to(torch.int32).view(torch.float32)
        assert torch.equal(values, table[[codes & 255, codes >> 8]])
