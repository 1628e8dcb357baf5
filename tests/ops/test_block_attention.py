"""Attention of packed samples, every backend, forward and backward, against autograd through one float64 softmax."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import pytest
import torch

from quatrain.ops.block_attention import (
    Segments,
    attention_backward,
    attention_forward,
    available_backends,
    backends,
    reference,
    tiles,
)
from quatrain.ops.block_attention import triton as kernel

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LENGTHS = [(1,), (5, 1, 9), (33, 7), (2,) * 6, (16, 48)]
SCORING = [(None, None), (4, None), (None, 5.0), (3, 5.0), (20, None)]
HEADS = [(4, 4), (6, 2), (3, 1)]


def segments_of(lengths: tuple[int, ...], empty: int = 2) -> Segments:
    """With ``empty`` slots behind the samples."""
    ends = torch.tensor((0, *lengths, *[0] * empty)).cumsum(0)
    return Segments(ends.int().to(DEVICE), max(lengths))


def one_softmax(qkv, heads, groups, lengths, scale, window, softcap):
    """Output [T, A, D] and log-sum-exp [A, T] under one block-diagonal causal mask."""
    q, k, v = (x.transpose(0, 1) for x in qkv.split([heads, groups, groups], 1))
    k, v = k.repeat_interleave(heads // groups, 0), v.repeat_interleave(heads // groups, 0)
    sample = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)).to(qkv.device)
    place = torch.arange(sum(lengths), device=qkv.device)
    visible = (sample[:, None] == sample[None]) & (place[:, None] >= place[None])
    if window is not None:
        visible &= place[:, None] - place[None] < window
    scores = scale * q @ k.transpose(1, 2)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~visible, float("-inf"))
    return (scores.softmax(-1) @ v).transpose(0, 1), scores.logsumexp(-1)


def check(
    attention: Any, lengths, heads_groups, size, dtype, tolerance, *, window=None, softcap=None, empty=2, scale=0.3
):
    """Every result within ``tolerance``, in relative norm; all of it written, into views of wider buffers."""
    heads, groups = heads_groups
    parts = [heads, groups, groups]
    qkv = torch.randn(sum(lengths), sum(parts), size, device=DEVICE).to(dtype)
    out, dqkv = torch.full_like(qkv, float("nan")).split(parts, 1)[0], torch.full_like(qkv, float("nan"))
    do = torch.randn(sum(lengths), heads, size, device=DEVICE).to(dtype)
    segments, options = segments_of(lengths, empty), {"scale": scale, "window": window}
    if softcap is not None:
        options["softcap"] = softcap
    q, k, v = qkv.split(parts, 1)
    o, lse = attention.attention_forward(q, k, v, segments, out=out, **options)
    dq, dk, dv = dqkv.split(parts, 1)
    attention.attention_backward(do, q, k, v, o, lse, segments, dq=dq, dk=dk, dv=dv, **options)
    assert o.data_ptr() == out.data_ptr() and lse.shape == (heads, sum(lengths)) and lse.dtype == torch.float32

    exact = qkv.double().requires_grad_()
    o64, lse64 = one_softmax(exact, heads, groups, lengths, scale, window, softcap)
    (dqkv64,) = torch.autograd.grad(o64, exact, do.double())
    for got, want in zip((o, lse, dq, dk, dv), (o64, lse64, *dqkv64.split(parts, 1)), strict=True):
        # A sample of one token has gradients of exactly zero; the upstream gradient sets the scale there.
        assert (got.double() - want).norm() <= tolerance * (want.norm() + 0.1 * do.double().norm())


class _Public:
    attention_forward = staticmethod(attention_forward)
    attention_backward = staticmethod(attention_backward)


@pytest.mark.parametrize("lengths", [*LENGTHS, (130, 200)])
@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize(("window", "softcap"), [*SCORING, (70, 5.0)])
def test_reference(lengths, heads, window, softcap):
    check(reference, lengths, heads, 16, torch.float32, 1e-5, window=window, softcap=softcap)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("lengths", [(300, 1, 257), (128, 64), (513,)])
@pytest.mark.parametrize(("window", "softcap"), SCORING)
def test_reference_in_16_bits(lengths, dtype, window, softcap):
    check(reference, lengths, (6, 2), 32, dtype, 1e-2, window=window, softcap=softcap)


@pytest.mark.parametrize("move", tiles.Move)
@pytest.mark.parametrize("cut", [(16, 16), (32, 16), (16, 32)])
@pytest.mark.parametrize("lengths", [(1,), (5, 1, 9), (33, 15)])
@pytest.mark.parametrize(("window", "softcap"), [(None, None), (3, 5.0), (20, None)])
def test_kernel_with_tiles_smaller_than_samples(monkeypatch, move, cut, lengths, window, softcap):
    """Tiles of either shape, across samples and within them; the ways of a Hopper need no Hopper here."""
    if DEVICE == "cuda":
        pytest.skip("tiles as small as these are for the interpreter")
    all_tiles = tiles.AllTiles(*(tiles.Tiles(cut[0], cut[1], 4, 2),) * 3)
    monkeypatch.setattr(kernel, "move_of", lambda *tensors: move)
    monkeypatch.setattr(kernel, "tiles_for", lambda q, move: all_tiles)
    size = 32 if move == tiles.Move.AS_MATRIX else 24
    check(kernel, lengths, (4, 2), size, torch.float32, 1e-5, window=window, softcap=softcap)


@pytest.mark.parametrize(("empty", "heads", "size"), [(0, (1, 1), 16), (1, (4, 1), 8), (40, (2, 2), 40)])
def test_kernel_with_other_slots_and_sizes(empty, heads, size):
    check(kernel, (3, 1, 20), heads, size, torch.float32, 1e-5, empty=empty)


def test_the_public_pair_on_any_device():
    check(_Public, (33, 1, 17), (6, 2), 16, torch.bfloat16, 1e-2, window=9)
    check(_Public, (33, 1, 17), (6, 2), 16, torch.bfloat16, 1e-2, softcap=3.0)


def test_available_backends_end_with_the_reference():
    assert available_backends("cpu") == ["reference"]
    assert available_backends(DEVICE)[-1] == "reference"


def test_a_padded_tail_is_a_sample_like_any_other():
    """What lies in other samples changes nothing, not even NaN."""
    q, k, v = torch.randn(3, 24, 2, 16, device=DEVICE)
    clean, _ = attention_forward(q, k, v, segments_of((10, 14)), scale=0.25)
    for x in (q, k, v):
        x[10:] = float("nan")
    dirty, _ = attention_forward(q, k, v, segments_of((10, 14)), scale=0.25)
    assert torch.equal(clean[:10], dirty[:10]) and dirty[10:].isnan().all()


def wrong_arguments() -> dict[str, Callable[[], Any]]:
    q, k = torch.randn(8, 4, 16), torch.randn(8, 2, 16)
    segments = Segments(torch.tensor([0, 8], dtype=torch.int32), 8)
    call = attention_forward
    return {
        "multiple": lambda: call(q, torch.randn(8, 3, 16), torch.randn(8, 3, 16), segments, scale=1.0),
        "float32, bfloat16 or float16": lambda: call(q.double(), k.double(), k.double(), segments, scale=1.0),
        "v must be": lambda: call(q, k, k.bfloat16(), segments, scale=1.0),
        "last dimension contiguous": lambda: call(q, k, torch.randn(8, 16, 2).mT, segments, scale=1.0),
        "the output must be": lambda: call(q, k, k, segments, scale=1.0, out=q.bfloat16()),
        "segments.ends must be int32": lambda: call(q, k, k, Segments(torch.tensor([0, 8]), 8), scale=1.0),  # pyright: ignore
        "max_length must lie": lambda: call(q, k, k, segments._replace(max_length=9), scale=1.0),
        "window must be": lambda: call(q, k, k, segments, scale=1.0, window=0),
        "softcap must be": lambda: call(q, k, k, segments, scale=1.0, softcap=0.0),
        "scale must be": lambda: call(q, k, k, segments, scale=0.0),
        "lse must be float32": lambda: attention_backward(
            q, q, k, k, q, torch.randn(4, 8).double(), segments, scale=1.0, dq=q, dk=k, dv=k
        ),
        "dk must be": lambda: attention_backward(
            q, q, k, k, q, torch.randn(4, 8), segments, scale=1.0, dq=q, dk=k.bfloat16(), dv=k
        ),
    }


@pytest.mark.parametrize("rule", wrong_arguments())
def test_what_does_not_fit_is_refused(rule):
    with pytest.raises(ValueError, match=rule):
        wrong_arguments()[rule]()


def gpu_backends() -> list[str]:
    return available_backends("cuda")[:-1] if torch.cuda.is_available() else ["none"]


def backend(name: str) -> ModuleType:
    return backends.BACKENDS[name]()


@pytest.mark.gpu
@pytest.mark.parametrize("name", gpu_backends())
@pytest.mark.parametrize(
    "heads_size", [((8, 2), 128), ((9, 3), 64), ((4, 2), 32), ((4, 4), 80), ((4, 2), 96), ((4, 1), 256)]
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("window", [None, 1, 100])
def test_backends_on_a_gpu(name, heads_size, dtype, window):
    heads, size = heads_size
    check(backend(name), (300, 1, 257, 700, 64, 77), heads, size, dtype, 1e-2, window=window, scale=size**-0.5)


@pytest.mark.gpu
@pytest.mark.parametrize("size", [16, 64, 128, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernel_with_softcap_on_a_gpu(size, dtype):
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    check(kernel, (300, 1, 257, 700), (8, 4), size, dtype, tolerance, window=200, softcap=20.0, scale=size**-0.5)


@contextmanager
def nothing_waits() -> Iterator[None]:
    """An operation that waits for the device is an error."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.gpu
@pytest.mark.parametrize("name", gpu_backends())
def test_a_captured_graph_follows_new_ends(name):
    """Nothing waits for the device, and nothing about the samples is baked in."""
    attention, parts = backend(name), [8, 2, 2]
    qkv, do = (torch.randn(512, heads, 64, device="cuda", dtype=torch.bfloat16) for heads in (12, 8))
    out, dqkv = torch.empty_like(do), torch.empty_like(qkv)
    first, second = segments_of((512,), 7), segments_of((100, 300, 112), 5)
    segments = Segments(first.ends.clone(), 512)

    def step():
        q, k, v = qkv.split(parts, 1)
        o, lse = attention.attention_forward(q, k, v, segments, scale=0.125, out=out)
        dq, dk, dv = dqkv.split(parts, 1)
        attention.attention_backward(do, q, k, v, o, lse, segments, scale=0.125, dq=dq, dk=dk, dv=dv)

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    with nothing_waits():
        step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    segments.ends.copy_(second.ends)
    graph.replay()
    got = (out.clone(), dqkv.clone())
    step()
    torch.testing.assert_close(got, (out, dqkv), rtol=0.02, atol=0.02)


@pytest.mark.gpu
@pytest.mark.usefixtures("deterministic")
def test_deterministic_algorithms_repeat_to_the_last_bit():
    q, do = (torch.randn(2048, 8, 64, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    k, v = (torch.randn(2048, 2, 64, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    runs = []
    for _ in range(2):
        grads = [torch.empty_like(x) for x in (q, k, v)]
        o, lse = attention_forward(q, k, v, segments_of((2000, 48)), scale=0.125)
        dq, dk, dv = grads
        attention_backward(do, q, k, v, o, lse, segments_of((2000, 48)), scale=0.125, dq=dq, dk=dk, dv=dv)
        runs.append((o, lse, *grads))
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
