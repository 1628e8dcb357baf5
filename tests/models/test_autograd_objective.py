"""The objective finds out what a model can do, and is the same loss whichever way it runs."""

import pytest
import torch
from torch.nn import functional as F

from quatrain.data import Loader, Sample, Samples
from quatrain.models import attention
from quatrain.models.autograd_objective import AutogradObjective


def small(family: str, **changes):
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = {
        "vocab_size": 300,
        "num_hidden_layers": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "initializer_range": 0.3,
    }
    heads = {
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    names = {"gpt2": {"n_layer": 2, "n_embd": 32, "n_head": 4}, "bloom": {"n_layer": 2, "n_head": 4}}
    config = AutoConfig.for_model(family, **(settings | heads | names.get(family, {}) | changes))
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def samples():
    generator = torch.Generator().manual_seed(0)
    made = []
    for length in (5, 11, 3, 8):
        ids = torch.randint(3, 300, (length,), generator=generator)
        learned = torch.rand(length, generator=generator) < 0.6
        learned[0], learned[-1] = False, True
        made.append(Sample(ids.int().numpy(), learned.numpy()))
    return Samples(made)


def alone(model, samples) -> float:
    """The sum of each sample's loss, computed from whole logits."""
    total = 0.0
    for sample in samples:
        ids = torch.from_numpy(sample.input_ids.astype("int64"))
        logits = model(input_ids=ids[None]).logits[0, :-1].double()
        learned = torch.from_numpy(sample.supervised[1:].copy())
        total += F.cross_entropy(logits[learned], ids[1:][learned], reduction="sum").item()
    return total


def loss_of(objective, samples, *, packing: bool) -> float:
    (batch,) = Loader(samples, max_length=11, batch_size=4, packing=packing).epoch(0)
    return objective.loss(batch).item()


FAMILIES = [
    ("llama", {}),
    ("mistral", {"sliding_window": 4}),
    ("qwen2", {}),
    ("qwen3", {"head_dim": 8}),
    ("gemma2", {"head_dim": 8, "sliding_window": 4, "final_logit_softcapping": 5.0, "attn_logit_softcapping": 3.0}),
    ("cohere", {"logit_scale": 0.3}),
    ("granite", {"logits_scaling": 3.0}),
    ("gpt2", {}),
]


@pytest.mark.parametrize(("family", "changes"), FAMILIES, ids=[f for f, _ in FAMILIES])
def test_packed_and_padded_losses_equal_the_samples_alone(family, changes, samples):
    model = small(family, **changes)
    expected = alone(model, samples)
    packed = AutogradObjective(model)
    assert packed.packs, packed.notes
    assert loss_of(packed, samples, packing=True) == pytest.approx(expected, rel=1e-4)
    padded = AutogradObjective(model, packing=False)
    assert loss_of(padded, samples, packing=False) == pytest.approx(expected, rel=1e-4)


def test_llama_needs_neither_masks_nor_whole_logits():
    objective = AutogradObjective(small("llama"))
    assert objective.attention == attention.NAME
    assert not objective.notes


def test_a_model_without_positions_is_padded_and_says_so(samples):
    """BLOOM knows places by a bias that runs over the whole row."""
    model = small("bloom")
    objective = AutogradObjective(model)
    assert not objective.packs
    assert "BloomModel" in objective.notes[0]
    assert loss_of(objective, samples, packing=False) == pytest.approx(alone(model, samples), rel=1e-4)


def test_a_head_that_does_more_than_a_product_runs_as_it_is(samples):
    model = small("llama")
    head = model.lm_head
    model.lm_head.forward = lambda x: torch.sin(F.linear(x, head.weight))
    objective = AutogradObjective(model)
    assert "own head" in objective.notes[0]
    assert loss_of(objective, samples, packing=True) == pytest.approx(alone(model, samples), rel=1e-4)


def test_a_model_that_leaks_between_samples_is_not_packed(monkeypatch):
    model = small("llama")
    forward = model.model.forward

    def forgetful(input_ids, position_ids=None, packed_lengths=None, **rest):
        return forward(input_ids=input_ids, **rest)

    monkeypatch.setattr(model.model, "forward", forgetful)
    objective = AutogradObjective(model)
    assert not objective.packs
    assert "samples see one another" in objective.notes[0] and "padded instead" in objective.notes[0]


def test_a_window_that_only_the_mask_knows_is_kept(samples):
    """Phi-MoE doesn't tell its attention how far a token sees."""
    model = small("phimoe", sliding_window=4, num_local_experts=2, attention_dropout=0.0)
    objective = AutogradObjective(model)
    assert objective.attention != attention.NAME
    if objective.packs:
        assert loss_of(objective, samples, packing=True) == pytest.approx(alone(model, samples), rel=1e-4)


def test_attention_dropout_runs_in_packed_rows(samples):
    model = small("gpt2", attn_pdrop=0.5, resid_pdrop=0.0, embd_pdrop=0.0)
    objective = AutogradObjective(model)
    calm = loss_of(objective, samples, packing=True)
    model.train()
    assert loss_of(objective, samples, packing=True) != pytest.approx(calm, rel=1e-6)


def test_a_quantized_embedding_keeps_the_fast_path(tiny_llama_dir):
    from quatrain.models import load_model

    model, _ = load_model(
        tiny_llama_dir, quantize_embeddings=True, quantize_head=True, compute_dtype="bfloat16", device="cpu"
    )
    assert AutogradObjective(model).attention == attention.NAME


def test_the_attention_is_put_back(samples):
    model = small("llama")
    objective = AutogradObjective(model)
    before = model.config._attn_implementation
    loss_of(objective, samples, packing=True)
    assert objective.attention == attention.NAME != before
    assert model.config._attn_implementation == before
