"""The one-look-up rounding gives the nearest code for every kind of float32, on both sides of every threshold."""

import pytest
import torch

from quatrain.ops.adamw_8bit.rounding import ordinals, rounding_table, thresholds
from quatrain.ops.codebooks import dynamic_map


def look_up(x: torch.Tensor, signed: bool) -> torch.Tensor:
    ordinal = ordinals(x)
    entry = rounding_table(signed, torch.device("cpu"))[((ordinal >> 16) & 0xFFFF).long()]
    return (entry + ordinal) >> 16


def nearest(x: torch.Tensor, signed: bool) -> torch.Tensor:
    """By definition, in float64; of two equally near codes the lower."""
    values = dynamic_map(signed, torch.device("cpu")).double()
    codes = (x.double().unsqueeze(1) - values).abs().argmin(dim=1)
    return codes if signed else torch.where((codes == 0) & (x > 0), 1, codes)


def neighbours(x: torch.Tensor, steps: int = 3) -> torch.Tensor:
    """``x`` and the ``steps`` representable numbers on either side of each element."""
    bits = x.view(torch.int32)
    return torch.cat([(bits + step).view(torch.float32) for step in range(-steps, steps + 1)]).clamp(-1, 1)


@pytest.mark.parametrize("signed", [True, False])
def test_nearest_code_around_every_threshold_and_value(signed: bool):
    x = torch.cat([neighbours(thresholds(signed)), neighbours(dynamic_map(signed, torch.device("cpu")))])
    x = x[~x.isnan()] if signed else x[x >= 0]
    assert torch.equal(look_up(x, signed), nearest(x, signed))


@pytest.mark.parametrize("signed", [True, False])
def test_nearest_code_of_random_magnitudes(signed: bool):
    generator = torch.Generator().manual_seed(0)
    x = 10 ** (-9 * torch.rand(20000, generator=generator))
    x = x * (torch.randint(0, 2, x.shape, generator=generator) * 2 - 1) if signed else x
    assert torch.equal(look_up(x, signed), nearest(x, signed))


def test_zeros_and_values_without_a_place():
    special = torch.tensor([0.0, -0.0, torch.inf, -torch.inf])
    assert look_up(special, signed=True).tolist() == [127, 127, 255, 0]
    assert look_up(special, signed=False).tolist() == [0, 0, 255, 0]
    nans = torch.tensor([0x7FC00000, -0x400000, 0x7F800001], dtype=torch.int32).view(torch.float32)
    for signed in (True, False):
        assert ((look_up(nans, signed) >= 0) & (look_up(nans, signed) <= 255)).all()


def test_a_positive_second_moment_never_becomes_zero():
    tiny = torch.tensor([1e-45, 1e-38, 1e-12, 1.6e-7])
    assert look_up(tiny, signed=False).tolist() == [1, 1, 1, 1]
