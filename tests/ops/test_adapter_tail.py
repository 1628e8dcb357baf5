"""The tail of a joint product: both twins against a block-diagonal matrix built by torch."""

import pytest
import torch

from quatrain.ops.adapter_tail import TailPart, adapter_tail, reference, triton

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize("twin", [reference, triton], ids=["reference", "triton"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    ("heights", "ranks", "width", "biased"),
    [((5, 3, 9), (4, 4, 4), 16, False), ((7,), (3,), 16, True), ((6, 70), (17, 8), 32, True), ((4,), (), 16, True)],
)
def test_every_element_is_written(twin, dtype, heights, ranks, width, biased):
    rows = sum(heights)
    matrices = [torch.randn(n, r, device=DEVICE) for n, r in zip(heights, ranks, strict=False)]
    scales = [0.5, 3.0, -1.25][: len(matrices)]
    bias = torch.randn(rows, device=DEVICE, dtype=dtype) if biased else None
    expected = torch.zeros(rows, width, device=DEVICE)
    expected[:, : sum(ranks)] = torch.nn.functional.pad(
        torch.block_diag(*(s * m for s, m in zip(scales, matrices, strict=True))) if matrices else expected[:0, :0],
        (0, 0, 0, rows - sum(m.shape[0] for m in matrices)),
    )
    if bias is not None:
        expected[:, sum(ranks)] = bias.float()
    places = zip(matrices, _starts(heights), _starts(ranks), scales, strict=False)
    buffer = torch.full((rows, width + 8), float("nan"), device=DEVICE, dtype=dtype)
    parts = tuple(TailPart(*place) for place in places)
    twin.adapter_tail(buffer[:, 8:], parts, bias_N=bias, bias_column=sum(ranks))
    # Triton's interpreter cuts bfloat16 off where a GPU rounds.
    torch.testing.assert_close(buffer[:, 8:], expected.to(dtype), rtol=2**-7 if dtype == torch.bfloat16 else 0, atol=0)
    assert buffer[:, :8].isnan().all()


def _starts(sizes):
    return [sum(sizes[:i]) for i in range(len(sizes))]


def test_what_does_not_fit_is_refused():
    part = TailPart(torch.zeros(4, 2), 1, 0, 1.0)
    with pytest.raises(ValueError, match="within a tail of 4 rows"):
        adapter_tail(torch.zeros(4, 2), (part,), bias_N=None, bias_column=0)
