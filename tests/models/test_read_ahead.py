"""Reading ahead: the bytes of the files, in the order asked for, within the budget, and errors that name the tensor.

The device is the CPU here, played by a lane that copies in the background and notes what happens; the GPU's own lane is
tested by loading models, in `test_loading_to_a_gpu.py`.
"""

import threading
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from quatrain.errors import ModelError
from quatrain.models.read_ahead import Budget, Extent, read_ahead
from quatrain.models.safetensors_folder import SafetensorsFolder

SMALL = Budget(threads=3, piece=1000, pieces=4, ahead=20_000)


class SlowLane:
    """A device whose copies start when the caller lands, or when somebody waits for one: as late as may be."""

    def __init__(self):
        self.pending: list[Callable[[], None]] = []
        self.buffers: list[int] = []
        self.allocated: list[int] = []
        self.closed = False
        self._lock = threading.Lock()

    def buffer(self, nbytes: int) -> torch.Tensor:
        self.buffers.append(nbytes)
        return torch.full((nbytes,), 255, dtype=torch.uint8)

    def allocate(self, nbytes: int) -> torch.Tensor:
        self.allocated.append(nbytes)
        return torch.full((nbytes,), 255, dtype=torch.uint8)

    def copy(self, source: torch.Tensor, target: torch.Tensor) -> Callable[[], None]:
        with self._lock:
            self.pending.append(lambda: target.copy_(source))  # pyright: ignore[reportArgumentType]
        return self.land

    def land(self) -> None:
        with self._lock:
            while self.pending:
                self.pending.pop(0)()

    def close(self) -> None:
        self.land()
        self.closed = True


def tensors_of_many_kinds() -> dict[str, torch.Tensor]:
    return {
        "matrix": torch.randn(70, 33, dtype=torch.bfloat16),
        "vector": torch.randn(501),
        "scalar": torch.tensor(3.5, dtype=torch.float64),
        "empty": torch.empty(0, 4),
        "flags": torch.rand(1001) > 0.5,
        "numbers": torch.randint(-9, 9, (12, 100), dtype=torch.int64),
        "small floats": torch.randn(999).to(torch.float8_e4m3fn),
    }


def stored(folder: Path, tensors: dict[str, torch.Tensor]) -> Mapping[str, Extent]:
    save_file(tensors, folder / "model.safetensors")
    return SafetensorsFolder(folder).extents


@pytest.mark.parametrize("threads", [1, 4])
def test_tensors_arrive_as_they_were_stored(tmp_path: Path, threads: int):
    tensors = tensors_of_many_kinds()
    extents = stored(tmp_path, tensors)
    groups = [["vector"], ["matrix", "scalar", "empty"], ["numbers"], ["flags", "small floats"], []]
    lane = SlowLane()
    budget = Budget(threads=threads, piece=300, pieces=threads + 1, ahead=4000)
    for names, arrived in zip(groups, read_ahead(groups, extents, lane, budget), strict=True):
        assert list(arrived) == names
        for name, tensor in arrived.items():
            assert tensor.dtype == tensors[name].dtype and tensor.shape == tensors[name].shape
            assert torch.equal(tensor.view(-1).view(torch.uint8), tensors[name].view(-1).view(torch.uint8))
    assert lane.closed


def test_the_budget_is_kept(tmp_path: Path):
    tensors = {f"t{i}": torch.randn(1000 + 37 * i) for i in range(40)}
    tensors["large"] = torch.randn(12_000)  # larger than all that may be ahead
    extents = stored(tmp_path, tensors)
    lane, used = SlowLane(), 0
    groups = [[name] for name in tensors]
    for (name,), arrived in zip(groups, read_ahead(groups, extents, lane, SMALL), strict=True):
        on_the_way = sum(lane.allocated) - used
        assert on_the_way <= max(SMALL.ahead, extents[name].nbytes)
        assert name == "large" or on_the_way > SMALL.ahead / 2 or name in list(tensors)[-6:]
        used += extents[name].nbytes
        assert torch.equal(arrived.pop(name), tensors[name])
    assert lane.buffers == [SMALL.piece] * SMALL.pieces


def test_small_checkpoints_take_small_buffers(tmp_path: Path):
    tensors = {"a": torch.randn(10), "b": torch.randn(20)}
    lane = SlowLane()
    assert len(list(read_ahead([["a"], ["b"]], stored(tmp_path, tensors), lane))) == 2
    assert set(lane.buffers) == {80} and len(lane.buffers) <= 2


def test_what_was_let_go_is_not_held(tmp_path: Path):
    extents = stored(tmp_path, {f"t{i}": torch.randn(1000) for i in range(8)})
    seen = []
    for arrived in read_ahead([[name] for name in sorted(extents)], extents, SlowLane(), SMALL):
        assert all(reference() is None for reference in seen)
        seen += [weakref.ref(tensor.untyped_storage()) for tensor in arrived.values()]
        arrived.clear()


@pytest.mark.parametrize("threads", [1, 4])
def test_a_file_that_ends_too_early_names_the_tensor(tmp_path: Path, threads: int):
    tensors = {f"t{i}": torch.randn(1000) for i in range(8)}
    extents = stored(tmp_path, tensors)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[: extents["t5"].offset + 1999])
    lane, arrived = SlowLane(), []
    budget = Budget(threads=threads, piece=500, pieces=2, ahead=20_000)
    with pytest.raises(ModelError, match=rf"t5 must be readable from .*it ends at byte {extents['t5'].offset + 1999}"):
        arrived += read_ahead([[name] for name in tensors], extents, lane, budget)
    assert lane.closed
    path.unlink()
    with pytest.raises(ModelError, match=r"t0 must be readable"):
        list(read_ahead([["t0"]], extents, SlowLane(), budget))


def test_a_device_without_memory_for_buffers_ends_it(tmp_path: Path):
    class Full(SlowLane):
        def buffer(self, nbytes: int) -> torch.Tensor:
            raise MemoryError("no pinned memory")

    extents = stored(tmp_path, {f"t{i}": torch.randn(5000) for i in range(8)})
    with pytest.raises(MemoryError, match="pinned"):
        list(read_ahead([[name] for name in extents], extents, Full(), SMALL))


def test_leaving_early_ends_the_threads(tmp_path: Path):
    extents = stored(tmp_path, {f"t{i}": torch.randn(5000) for i in range(8)})
    lane = SlowLane()
    with closing(read_ahead([[name] for name in extents], extents, lane, SMALL)) as arriving:
        next(arriving)
    assert lane.closed
    deadline = time.monotonic() + 5
    while any(thread.name.startswith("quatrain-read") for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
