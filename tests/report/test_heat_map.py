"""The map of the adapter's norms: each where it belongs, colours from the smallest to the largest."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quatrain.report.heat_map import adapter_map


def test_blocks_lie_across_and_kinds_downwards_and_experts_count_together():
    norms = {
        "model.layers.0.self_attn.q_proj": 1.0,
        "model.layers.0.mlp.experts.0.up_proj": 3.0,
        "model.layers.0.mlp.experts.1.up_proj": 4.0,
        "model.layers.10.self_attn.q_proj": 2.0,
        "lm_head": 1.5,
    }
    drawn = adapter_map(norms)
    assert drawn is not None
    assert (drawn.rows, drawn.columns) == (["q_proj", "up_proj"], [0, 10])
    assert drawn.values == [[1.0, 2.0], [5.0, None]]
    assert len(drawn.cells) == 3 and drawn.cells[2].opacity == 1.0 and 0 < drawn.cells[0].opacity < 0.2
    assert drawn.total == pytest.approx(math.sqrt(sum(v**2 for v in norms.values())))
    assert drawn.elsewhere == {"lm_head": 1.5}
    assert drawn.description.endswith("the largest is up_proj of block 0.")


def test_without_blocks_there_is_no_map():
    assert adapter_map({}) is None
    assert adapter_map({"lm_head": 1.0}) is None
    assert adapter_map({"model.layers.0.q_proj": math.nan}) is None


@given(
    st.dictionaries(
        st.builds("layers.{}.{}".format, st.integers(0, 99), st.sampled_from(["q_proj", "k_proj"])),
        st.floats(min_value=-1e99, max_value=1e99) | st.sampled_from([math.nan, math.inf]),
    )
)
def test_whatever_the_norms_all_that_is_drawn_lies_in_the_map(norms):
    drawn = adapter_map(norms)
    if drawn is not None:
        assert all(0 < cell.opacity <= 1 for cell in drawn.cells)
        assert all(0 < tick.percent < 100 for tick in drawn.ticks)
        assert len(drawn.cells) == len([v for v in norms.values() if math.isfinite(v)])
