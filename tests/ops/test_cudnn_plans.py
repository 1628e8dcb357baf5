"""Building cuDNN's plans, with a stand-in for the package that needs no GPU."""

import gc
import sys
import weakref
from contextlib import nullcontext
from unittest.mock import MagicMock

import pytest
import torch

from quatrain.ops.block_attention import cudnn
from quatrain.ops.block_attention.segments import Segments


def search(modes: object) -> None:
    """As the package's: a way that finds nothing is remembered, in case that none finds anything."""
    failure = None
    try:
        raise RuntimeError("no configs")
    except RuntimeError as error:
        failure = error
    assert failure


@pytest.fixture
def build(monkeypatch):
    """Builds the forward's plan for some queries."""
    package = MagicMock()
    package.pygraph.return_value.sdpa.return_value = MagicMock(), MagicMock()
    package.pygraph.return_value.build.side_effect = search
    monkeypatch.setitem(sys.modules, "cudnn", package)
    monkeypatch.setattr(cudnn, "_handle", lambda device: None)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())

    def of(q_TAD: torch.Tensor) -> None:
        case = cudnn._case(q_TAD, Segments(torch.tensor([0, len(q_TAD)]), len(q_TAD)), 1.0, None)
        cudnn._forward_plan.__wrapped__(case, (cudnn._layout(q_TAD),) * 5)

    return of


def test_building_a_plan_keeps_no_tensor_of_its_callers(build):
    def attend() -> weakref.ref:
        q_TAD = torch.zeros(4, 2, 8)
        build(q_TAD)
        return weakref.ref(q_TAD)

    gc.disable()
    try:
        assert attend()() is None
        assert not gc.isenabled()
    finally:
        gc.enable()
