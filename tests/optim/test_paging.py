"""State that passes through slots page by page, on the CPU (where the streams do nothing) and on a GPU."""

from collections.abc import Sequence

import pytest
import torch

from quatrain.optim import AdamW
from quatrain.optim import arena as arena_module
from quatrain.optim.arena import Arena
from quatrain.optim.paging import SLOTS, PagedState

SHAPES = [(40, 300), (4100,), (700,), (16, 576), (9000,), (512, 20), (300,), (30, 200)]

ROW_BYTES = {8: 2 * 256 + 2 * 4, 32: 2 * 256 * 4}


def parameters(device: str, seed: int = 0) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(s, generator=generator).to(device)) for s in SHAPES]


def set_gradients(params: Sequence[torch.Tensor], step: int) -> None:
    generator = torch.Generator().manual_seed(100 + step)
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator).to(p.device)


@pytest.mark.parametrize("bits", [8, 32])
def test_pages_on_the_cpu_give_the_same_bits(monkeypatch, bits):
    """More pages than slots, one of them a parameter larger than a page."""
    monkeypatch.setattr(arena_module, "PAGE_BYTES", 24 * ROW_BYTES[bits])
    resident, paged = Arena(parameters("cpu"), bits), Arena(parameters("cpu"), bits)
    paged.page_out()
    assert paged.page_rows == 24
    assert len(list(paged._chunks(list(range(len(SHAPES))), 24))) > SLOTS
    for step in range(5):
        for arena in (resident, paged):
            set_gradients(arena.params, step)
            arena.step(lr=0.1, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
    paged.state.page_in()
    assert paged.state.resident
    assert all(map(torch.equal, resident.params, paged.params))
    assert all(torch.equal(t, paged.state.tensors[name]) for name, t in resident.state.tensors.items())


@pytest.mark.parametrize("bits", [8, 32])
def test_state_that_starts_on_the_host_gives_the_same_bits(monkeypatch, bits):
    monkeypatch.setattr(arena_module, "PAGE_BYTES", 24 * ROW_BYTES[bits])
    resident, paged = Arena(parameters("cpu"), bits), Arena(parameters("cpu"), bits, paged=True)
    assert not paged.state.resident
    for step in range(3):
        for arena in (resident, paged):
            set_gradients(arena.params, step)
            arena.step(lr=0.1, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
    assert all(map(torch.equal, resident.params, paged.params))
    assert all(torch.equal(t, paged.state.tensors[name]) for name, t in resident.state.tensors.items())


def test_only_the_rows_of_a_page_are_written_back():
    state = PagedState({"a": torch.arange(10.0).view(5, 2), "b": torch.arange(5.0)}, torch.device("cpu"))
    state.page_out(page_rows=2)

    def double(seen: list[int], tensors: dict[str, torch.Tensor]) -> None:
        seen.append(len(tensors["b"]))
        for t in tensors.values():
            t.mul_(2)

    seen: list[int] = []
    state.update([(slice(0, 2), seen), (slice(4, 5), seen)], double)
    assert seen == [2, 1]
    assert state.tensors["b"].tolist() == [0, 2, 2, 3, 8]
    assert state.tensors["a"].tolist() == [[0, 2], [4, 6], [4, 5], [6, 7], [16, 18]]


def test_paging_out_and_in_again_twice_is_harmless():
    state = PagedState({"a": torch.arange(6.0)}, torch.device("cpu"))
    for move in (state.page_in, lambda: state.page_out(4), lambda: state.page_out(4), state.page_in, state.page_in):
        move()
        assert state.tensors["a"].tolist() == [0, 1, 2, 3, 4, 5]
    assert state.nbytes == 24


def test_on_the_cpu_there_is_nowhere_to_page_to():
    optimizer = AdamW(parameters("cpu"), lr=0.1, paged=True)
    optimizer.page_out()
    assert not optimizer.is_paged


@pytest.mark.gpu
@pytest.mark.parametrize("bits", [8, 32])
def test_paged_and_resident_state_give_the_same_bits_on_a_gpu(monkeypatch, bits):
    monkeypatch.setattr(arena_module, "PAGE_BYTES", 24 * ROW_BYTES[bits])
    params = {paged: parameters("cuda") for paged in (False, True)}
    optimizers = {paged: AdamW(p, lr=0.1, state_bits=bits, paged=paged) for paged, p in params.items()}
    for step in range(20):
        for paged, optimizer in optimizers.items():
            set_gradients(params[paged], step)
            optimizer.step()
    assert optimizers[True].is_paged and not optimizers[False].is_paged
    assert all(map(torch.equal, params[False], params[True]))
    resident, paged = (optimizers[which].state_tensors() for which in (False, True))
    assert all(torch.equal(t, paged[name]) for name, t in resident.items())
    assert all(a.state.tensors["codes1" if a.bits == 8 else "moment1"].is_pinned() for a in optimizers[True]._on_gpu())


@pytest.mark.gpu
def test_paged_state_is_never_whole_on_the_gpu():
    many = [torch.nn.Parameter(torch.zeros(1 << 20, device="cuda")) for _ in range(64)]
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    assert AdamW(many, lr=0.1, state_bits=32, paged=True).state_bytes > 4 * (torch.cuda.max_memory_allocated() - before)


@pytest.mark.gpu
def test_auto_pages_out_when_memory_runs_short_and_stays_out(monkeypatch):
    params = parameters("cuda")
    optimizer = AdamW(params, lr=0.1, paged="auto")
    set_gradients(params, 0)
    optimizer.step()
    assert not optimizer.is_paged
    monkeypatch.setattr("quatrain.optim.adamw.free_memory", lambda device: 1 << 20)
    optimizer.step()
    assert optimizer.is_paged
    monkeypatch.undo()
    optimizer.step()
    assert optimizer.is_paged
    optimizer.page_in()
    assert not optimizer.is_paged


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_steps_with_paged_state_never_wait_for_the_gpu():
    params = parameters("cuda")
    optimizer = AdamW(params, lr=0.1, paged=True)
    set_gradients(params, 0)
    optimizer.step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
