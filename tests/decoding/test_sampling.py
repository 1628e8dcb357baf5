"""Draws from logits: the nucleus, and frequencies."""

import pytest
import torch

from quatrain.decoding import Sampling

LOGITS = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()


def frequencies(sampling: Sampling, draws: int = 20_000) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    tokens = sampling.choose(LOGITS.expand(draws, -1), generator)
    return torch.bincount(tokens, minlength=4) / draws


def test_greedy_takes_the_likeliest():
    assert Sampling().choose(LOGITS[None]).tolist() == [0]


@pytest.mark.parametrize(
    ("top_p", "expected"),
    [(1.0, [0.5, 0.3, 0.15, 0.05]), (0.9, [0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0]), (0.4, [1.0, 0, 0, 0])],
)
def test_the_nucleus_is_the_smallest_set_that_reaches_top_p(top_p, expected):
    found = frequencies(Sampling(temperature=1.0, top_p=top_p))
    torch.testing.assert_close(found, torch.tensor(expected), atol=0.015, rtol=0)


def test_temperature_divides_the_logits():
    found = frequencies(Sampling(temperature=0.5))
    torch.testing.assert_close(found, (LOGITS / 0.5).softmax(0), atol=0.015, rtol=0)
