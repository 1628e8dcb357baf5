"""LoRA's thin products: the generator, its masks, autograd with an explicit mask, and the twins against each other."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from quatrain.errors import AdapterError
from quatrain.ops.low_rank import Dropout, cublas, low_rank_down, low_rank_gradient, low_rank_up_
from quatrain.ops.low_rank import reference as low_rank_reference
from quatrain.ops.low_rank import triton as low_rank_kernel
from quatrain.ops.low_rank.cutting import batches
from quatrain.ops.low_rank.dropout import keep_mask, philox

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TWINS = pytest.mark.parametrize("twin", [low_rank_reference, low_rank_kernel], ids=["reference", "kernel"])
GROUPS = [((0, 16),), ((0, 5),), ((0, 16), (16, 16), (32, 16)), ((0, 8), (9, 3))]
"""One adapter that fills its tile, one that doesn't, q, k and v, and unequal ranks with padding between and behind."""


def dropout(p: float = 0.3, seed: int | None = None, first_stream: int = 5) -> Dropout:
    if seed is None:
        seed = int(torch.randint(-(2**63), 2**63 - 1, ()))
    return Dropout(p, torch.tensor([seed], device=DEVICE), first_stream)


def inside(columns: int, tensor: Tensor) -> Tensor:
    """A copy of a matrix that lies inside a wider buffer of NaN."""
    wide = torch.full((len(tensor), columns + tensor.shape[1] + 2), float("nan"), dtype=tensor.dtype, device=DEVICE)
    view = wide[:, columns : columns + tensor.shape[1]]
    return view.copy_(tensor)


def group(ranks, tokens: int, columns: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """x, the stacked A with zeros as padding, and dh, all views into wider buffers."""
    rows = ranks[-1][0] + ranks[-1][1] + 1
    owned = torch.zeros(rows, 1, device=DEVICE)
    for first, rank in ranks:
        owned[first : first + rank] = 1
    x, a, dh = (torch.randn(shape, device=DEVICE) for shape in ((tokens, columns), (rows, columns), (tokens, rows)))
    return inside(3, x.to(dtype)), inside(0, (a * owned).to(dtype)), inside(8, (dh * owned.T).to(dtype))


def dropped(x: Tensor, ranks, drop: Dropout | None) -> list[Tensor]:
    """x as each adapter sees it, in float64."""
    if drop is None:
        return [x.double()] * len(ranks)
    return [x.double() * keep_mask(drop, i, *x.shape) * drop.scale for i in range(len(ranks))]


def close(got: Tensor, want: Tensor, dtype: torch.dtype) -> bool:
    """Within the rounding of the result, or of a float32 sum of as many terms."""
    tolerance = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 1e-2}[dtype]
    return bool((got.double() - want).norm() <= tolerance * want.norm()) and not got.isnan().any()


@pytest.mark.parametrize(
    ("counter", "seed", "words"),
    [
        ((0, 0, 0, 0), 0, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((0xFFFFFFFF,) * 4, -1, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            0x299F31D0A4093822,
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_gives_the_known_answers_of_its_authors(counter, seed, words):
    """From kat_vectors of Random123, the authors' library."""
    c0, c1, c2, c3 = (torch.tensor([word]) for word in counter)
    assert " ".join(f"{int(word):08x}" for word in philox((c0, c1, c2, c3), torch.tensor([seed]))) == words


@pytest.mark.parametrize("p", [0.0, 0.05, 0.5, 0.9])
def test_the_rate_of_what_is_kept(p):
    """Over all elements, over each of eight neighbours and over each of eight rows, within five standard deviations."""
    drop = dropout(p)
    kept = keep_mask(drop, 0, 512, 2048).double()
    assert abs(1 / drop.scale - (1 - p)) <= 2**-16
    parts = [kept.flatten()[None], kept.reshape(-1, 8).T, kept.reshape(-1, 8, 2048).transpose(0, 1).reshape(8, -1)]
    for part in parts:
        spread = 5 * (p * (1 - p) / part.shape[1]) ** 0.5
        assert ((part.mean(1) - (1 - p)).abs() <= spread + 2**-16).all()


def test_masks_of_other_seeds_adapters_rows_and_columns_have_nothing_in_common():
    """Their correlation is that of independent masks, within five standard deviations."""
    drop = dropout(0.5, seed=7)
    mask = keep_mask(drop, 0, 257, 1024)
    others = [
        keep_mask(drop, 1, 257, 1024),
        keep_mask(dropout(0.5, seed=8), 0, 257, 1024),
        keep_mask(dropout(0.5, seed=7 + 2**32), 0, 257, 1024),
        mask.roll(1, 0),
        mask.roll(1, 1),
        mask.roll(8, 1),
    ]
    for other in others:
        assert abs((mask == other).double().mean() - 0.5) <= 2.5 / mask.numel() ** 0.5


def test_an_adapters_mask_depends_on_nothing_but_its_stream():
    drop = dropout(seed=11, first_stream=4)
    assert torch.equal(keep_mask(drop, 2, 9, 50), keep_mask(drop._replace(first_stream=6), 0, 9, 50))
    assert torch.equal(keep_mask(drop, 0, 9, 50), keep_mask(drop, 0, 30, 99)[:9, :50])


@TWINS
@pytest.mark.parametrize("columns", [16, 200, 129])
def test_both_twins_draw_the_same_mask(twin, columns):
    drop = dropout(0.4)
    dx = torch.zeros(35, columns, device=DEVICE)
    twin.low_rank_up_(
        dx, torch.ones(35, 1, device=DEVICE), torch.ones(1, columns, device=DEVICE), ranks=((0, 1),), dropout=drop
    )
    assert torch.equal(dx != 0, keep_mask(drop, 0, 35, columns))
    assert torch.equal(dx[dx != 0].unique(), torch.tensor([drop.scale], device=DEVICE))


@TWINS
@pytest.mark.parametrize("ranks", GROUPS, ids=str)
@pytest.mark.parametrize("p", [None, 0.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_products_and_gradients_are_those_of_autograd_under_an_explicit_mask(dtype, p, ranks, twin):
    if dtype is torch.bfloat16 and twin is low_rank_kernel and DEVICE == "cpu":
        pytest.skip("Triton's interpreter multiplies the bit patterns of bfloat16 as if they were integers")
    drop = None if p is None else dropout(p)
    x, a, dh = group(ranks, 37, 275, dtype)
    x64, a64 = x.double().requires_grad_(), a.double().requires_grad_()
    seen = zip(ranks, dropped(x64, ranks, drop), strict=True)
    h = torch.zeros(dh.shape, dtype=torch.float64, device=DEVICE)
    for (first, rank), x_seen in seen:
        rows = slice(first, first + rank)
        h = h + F.pad(x_seen @ a64[rows].T, (first, h.shape[1] - first - rank))
    dx64, da64 = torch.autograd.grad(h, (x64, a64), dh.double())

    before = torch.randn(x.shape, device=DEVICE).to(dtype)
    dx = inside(5, before)
    twin.low_rank_up_(dx, dh, a, ranks=ranks, dropout=drop)
    assert close(dx, before.double() + dx64, dtype)

    if drop is None and twin is low_rank_kernel:
        return  # a library's products; see test_real_sizes
    out = inside(1, torch.full(h.shape, float("nan"), dtype=dtype))
    twin.low_rank_down(x, a, out=out, ranks=ranks, dropout=drop)
    assert close(out, h.detach(), dtype)

    before = torch.randn(a.shape, device=DEVICE)
    da = inside(2, before)
    twin.low_rank_gradient(dh, x, da, ranks=ranks, dropout=drop)
    assert close(da, before.double() + da64, torch.float32)


@pytest.mark.parametrize(
    ("ranks", "runs"),
    [(((0, 16), (16, 9)), 1), (((0, 16), (16, 9)), 3), (((0, 16), (16, 9)), 7), (((0, 70), (70, 150)), 2)],
    ids=str,
)
def test_the_kernels_cut_long_sums_into_runs_and_large_ranks_into_parts(ranks, runs):
    """Also into more runs than there are tiles."""
    drop = dropout()
    x, a, dh = group(ranks, 140, 150, torch.float32)
    want, got = (torch.ones(a.shape, device=DEVICE) for _ in "wg")
    low_rank_reference.low_rank_gradient(dh, x, want, ranks=ranks, dropout=drop)
    low_rank_kernel.low_rank_gradient(dh, x, got, ranks=ranks, dropout=drop, runs=runs)
    assert close(got, want.double(), torch.float32)

    want, got = (torch.full_like(dh, float("nan")) for _ in "wg")
    low_rank_reference.low_rank_down(x, a, out=want, ranks=ranks, dropout=drop)
    low_rank_kernel.low_rank_down(x, a, out=got, ranks=ranks, dropout=drop, runs=runs)
    assert close(got, want.double(), torch.float32)


@pytest.mark.parametrize(
    ("ranks", "launches"),
    [
        (((0, 64), (64, 64), (128, 64)), [[(0, 64, 0), (64, 64, 1), (128, 64, 2)]]),
        (((0, 8), (8, 100)), [[(0, 8, 0)], [(8, 100, 1)]]),
        (((3, 300),), [[(3, 128, 0)], [(131, 128, 0)], [(259, 44, 0)]]),
    ],
)
def test_what_one_launch_sums(ranks, launches):
    assert batches(ranks) == launches


def test_without_ranks_one_adapter_owns_all_rows():
    x, a, dh = group(((0, 7),), 9, 40, torch.float32)
    for drop in (None, dropout()):
        outs = [torch.full(dh.shape, float("nan"), device=DEVICE) for _ in range(2)]
        low_rank_down(x, a, out=outs[0], dropout=drop)
        low_rank_down(x, a, out=outs[1], ranks=((0, 8),), dropout=drop)
        assert torch.equal(*outs)


def call(**changes: Any) -> None:
    arguments: dict[str, Any] = {
        "x_TK": torch.randn(4, 32),
        "a_RK": torch.randn(16, 32),
        "out": torch.empty(4, 16),
    }
    low_rank_down(**(arguments | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"a_RK": torch.randn(16, 32).half()}, "one dtype"),
        ({"out": torch.empty(4, 16).bfloat16()}, "one dtype"),
        ({"ranks": ((0, 8), (4, 8))}, "apart"),
        ({"ranks": ((0, 17),)}, "within 16 rows"),
        ({"ranks": ((0, 0),)}, "Ranks"),
        ({"dropout": Dropout(1.0, torch.tensor([1]), 0)}, "below 1"),
        ({"dropout": Dropout(-0.1, torch.tensor([1]), 0)}, "at least 0"),
        ({"dropout": Dropout(0.1, torch.tensor([1.0]), 0)}, "int64"),
    ],
)
def test_arguments_that_do_not_fit(changes, message):
    with pytest.raises(AdapterError, match=message):
        call(**changes)


def test_gradients_are_float32():
    with pytest.raises(AdapterError, match="gradients are float32"):
        low_rank_gradient(torch.ones(3, 2), torch.ones(3, 5), torch.zeros(2, 5).bfloat16())


def test_rows_must_be_contiguous():
    with pytest.raises(ValueError, match="contiguous"):
        call(x_TK=torch.randn(32, 4).T)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("rank", "columns"), [(7, 130), (100, 17000), (200, 64)])
def test_what_is_left_to_cublas(rank, columns, dtype):
    x, a, dh = group(((0, rank),), 50, columns, dtype)
    out = torch.full_like(dh, float("nan"))
    cublas.low_rank_down(x, a, out=out)
    assert close(out, x.double() @ a.double().T, dtype)
    dx = inside(2, x)
    cublas.low_rank_up_(dx, dh, a)
    assert close(dx, x.double() + dh.double() @ a.double(), dtype)
    da = inside(1, torch.ones(a.shape, device=DEVICE))
    cublas.low_rank_gradient(dh, x, da)
    assert close(da, 1 + dh.double().T @ x.double(), torch.float32)


@pytest.mark.gpu
@pytest.mark.parametrize("p", [None, 0.1])
@pytest.mark.parametrize(
    "ranks", [((0, 64),), ((0, 16), (16, 16), (32, 16)), ((0, 64), (64, 64), (128, 64)), ((0, 24), (24, 160))], ids=str
)
@pytest.mark.parametrize(("tokens", "columns"), [(2048, 4096), (999, 1001), (512, 14336)])
def test_real_sizes(tokens, columns, ranks, p):
    """Against the reference in float32; equal calls give equal bits."""
    drop = None if p is None else dropout(p)
    x, a, dh = group(ranks, tokens, columns, torch.bfloat16)
    options = {"ranks": ranks, "dropout": drop}
    want = torch.empty(dh.shape, device=DEVICE)
    low_rank_reference.low_rank_down(x.float(), a.float(), out=want, **options)
    outs = [torch.full_like(dh, float("nan")) for _ in range(2)]
    for out in outs:
        low_rank_down(x, a, out=out, **options)
    assert close(outs[0], want.double(), torch.bfloat16) and torch.equal(*outs)

    want = x.float()
    low_rank_reference.low_rank_up_(want, dh.float(), a.float(), **options)
    outs = [x.clone() for _ in range(2)]
    for out in outs:
        low_rank_up_(out, dh, a, **options)
    assert close(outs[0], want.double(), torch.bfloat16) and torch.equal(*outs)

    want = torch.ones(a.shape, device=DEVICE)
    low_rank_reference.low_rank_gradient(dh.float(), x.float(), want, **options)
    outs = [torch.ones(a.shape, device=DEVICE) for _ in range(2)]
    for out in outs:
        low_rank_gradient(dh, x, out, **options)
    assert close(outs[0], want.double(), torch.float32) and torch.equal(*outs)


@pytest.mark.gpu
def test_a_captured_graph_draws_a_new_mask_when_the_seed_changes():
    seed = torch.tensor([1], device=DEVICE)
    x, a, dh = group(((0, 16),), 256, 512, torch.bfloat16)
    out, gradient = torch.empty_like(dh), torch.zeros(a.shape, device=DEVICE)

    def step() -> None:
        low_rank_down(x, a, out=out, dropout=Dropout(0.5, seed, 0))
        gradient.zero_()
        low_rank_gradient(dh, x, gradient, dropout=Dropout(0.5, seed, 0))

    step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    drawn = []
    for value in (1, 2, 1):
        seed.fill_(value)
        graph.replay()
        drawn.append((out.clone(), gradient.clone()))
    assert torch.equal(drawn[0][0], drawn[2][0]) and torch.equal(drawn[0][1], drawn[2][1])
    assert not torch.equal(drawn[0][0], drawn[1][0]) and not torch.equal(drawn[0][1], drawn[1][1])
