"""The tables: equal to bitsandbytes', and NF4 and the thresholds equal to what their definitions give."""

import bitsandbytes.functional as bnb
import pytest
import torch

from quatrain.errors import QuantizationError
from quatrain.ops.codebooks import ascending_codes, codebook, dynamic_map, midpoints, normal_float_values
from quatrain.ops.quantize_8bit.reference import thresholds


@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
def test_codebooks_equal_those_of_bitsandbytes(quant_type):
    assert torch.equal(codebook(quant_type), bnb.get_4bit_type(quant_type, device="cpu"))


@pytest.mark.parametrize("signed", [True, False])
def test_dynamic_map_equals_that_of_bitsandbytes(signed):
    assert torch.equal(dynamic_map(signed), bnb.create_dynamic_map(signed=signed))


def test_nf4_is_the_quantiles_of_the_normal():
    """The stored constants came from another implementation of the quantile function: one float32 step apart."""
    difference = (normal_float_values() - codebook("nf4")).abs().max()
    assert difference <= torch.finfo(torch.float32).eps
    assert normal_float_values()[7] == 0.0


def test_int4_is_the_integers_over_seven_with_the_code_shifted_by_eight():
    assert torch.equal(codebook("int4") * 7, torch.arange(-8.0, 8.0))


@pytest.mark.parametrize("quant_type", ["nf4", "fp4", "int4"])
def test_ascending_codes_are_a_permutation_that_sorts_the_values(quant_type):
    order = ascending_codes(quant_type).long()
    assert order.sort().values.tolist() == list(range(16))
    assert (codebook(quant_type)[order].diff() >= 0).all()
    assert (midpoints(quant_type).diff() > 0).all()


def test_tables_are_real_even_if_first_asked_for_under_another_default_device():
    for table in (codebook, ascending_codes, midpoints):
        table.cache_clear()
    with torch.device("meta"):
        assert codebook("int4").device.type == "cpu"
        assert midpoints("int4").device.type == "cpu"


def test_an_unknown_type_is_refused_with_the_known_ones():
    with pytest.raises(QuantizationError, match="nf4, fp4, int4"):
        codebook("nf3")


@pytest.mark.parametrize("signed", [True, False])
def test_thresholds_are_where_the_code_of_bitsandbytes_changes(signed):
    """A quotient of one threshold takes a higher code than the float just below it, and never a wrong one."""
    reached = thresholds(signed)
    below = reached.nextafter(torch.tensor(-2.0))
    for quotients, right in ((reached, True), (below, True)):
        block = torch.cat([torch.ones(1), quotients])  # the leading one makes the scale one
        codes, _ = torch.ops.bitsandbytes.quantize_blockwise.default(block, dynamic_map(signed), 256)
        assert torch.equal(codes[1:].int(), torch.bucketize(quotients, reached, right=right).int())
    assert (torch.bucketize(below, reached, right=True) < torch.bucketize(reached, reached, right=True)).all()
