"""Log-probabilities against those that transformers' own forward gives, sample by sample."""

import numpy as np
import pytest
import torch

from quatrain.data import Sample
from quatrain.evaluation import likelihood
from quatrain.evaluation.likelihood import Asked, Found, Likelihood
from quatrain.models import load_model, logits
from quatrain.models.objective import Objective


@pytest.fixture(scope="module")
def model(tiny_llama_dir):
    return load_model(tiny_llama_dir, compute_dtype="float32", device="cpu")[0]


def random_samples(seed: int, count: int = 9) -> list[Sample]:
    """Samples of 2 to 40 tokens, of which any but the first may be asked about."""
    generator = np.random.default_rng(seed)
    samples = []
    for length in generator.integers(2, 40, size=count):
        supervised = generator.random(length) < 0.4
        supervised[0], supervised[-1] = False, True
        samples.append(Sample(generator.integers(3, 500, size=length).astype(np.int32), supervised))
    return samples


@torch.no_grad()
def told_by_transformers(model, sample: Sample) -> torch.Tensor:
    """[T, V]: what is predicted for each token; the first row is nobody's."""
    log_probs = model(torch.from_numpy(sample.input_ids.astype("int64"))[None]).logits[0].log_softmax(-1)
    return torch.cat([torch.zeros_like(log_probs[:1]), log_probs[:-1]])


def expected(model, one: Asked) -> Found:
    told, places = told_by_transformers(model, one.sample), np.flatnonzero(one.sample.supervised)
    if one.candidates:
        row = told[places[0]]
        return Found(tuple(row[list(one.candidates)].tolist()), tuple(int(row.argmax()) == c for c in one.candidates))
    tokens = one.sample.input_ids[places]
    values = [told[place, token].item() for place, token in zip(places, tokens, strict=True)]
    best = all(told[place].argmax() == token for place, token in zip(places, tokens, strict=True))
    return Found((sum(values),), (best,))


def agree(found: list[Found], wanted: list[Found]) -> bool:
    numbers = [value for one in found for value in one.log_probs]
    assert numbers == pytest.approx([value for one in wanted for value in one.log_probs], abs=1e-4)
    return [one.greedy for one in found] == [one.greedy for one in wanted]


@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize("tokens", [1, 64, 4096])
def test_sums_are_those_of_transformers(model, monkeypatch, packs, tokens):
    monkeypatch.setattr(likelihood, "_TOKENS", tokens)
    monkeypatch.setattr(logits, "_ELEMENTS", 5 * 512)
    asks = Likelihood(model)
    asks._objective = Objective(model, packing=packs)
    asked = [Asked(sample) for sample in random_samples(tokens)]
    assert agree(list(asks(asked)), [expected(model, one) for one in asked])


def test_candidates_stand_in_one_place(model):
    asked = []
    for sample in random_samples(5):
        last = np.arange(len(sample)) == len(sample) - 1
        best = int(told_by_transformers(model, sample)[-1].argmax())
        asked += [Asked(Sample(sample.input_ids, last), (3, best, 77)), Asked(sample)]
    found = list(Likelihood(model)(asked))
    assert agree(found, [expected(model, one) for one in asked])
    assert all(one.greedy == (False, True, False) for one in found[::2])


def test_our_own_blocks_say_the_same(model):
    asked = [Asked(sample) for sample in random_samples(7)]
    asks = Likelihood(model)
    theirs = list(asks(asked))
    asks._objective = Objective(model, fused_blocks="on")
    assert agree(list(asks(asked)), theirs)


def test_logits_are_made_in_float32_from_the_heads_own_weights(monkeypatch):
    monkeypatch.setattr(logits, "_ELEMENTS", 100)
    torch.manual_seed(0)
    head = torch.nn.Linear(16, 37, dtype=torch.bfloat16)
    hidden = torch.randn(11, 16, dtype=torch.bfloat16)
    exact = hidden.double() @ head.weight.double().T + head.bias.double()
    found = torch.cat(list(logits.chunks_of_logits(hidden, head, 2.0, 3.0)))
    torch.testing.assert_close(found.double(), 3 * torch.tanh(2 * exact / 3), rtol=1e-5, atol=1e-5)
