"""Decoding on our own blocks against transformers' greedy `generate`, token for token."""

from typing import Any

import pytest
import torch

from quatrain.adapters import detach_lora
from quatrain.decoding import Decoder, Sampling
from quatrain.errors import ConfigError, DataError, ModelError
from quatrain.models.families import describe
from tests.models.engine_models import VARIANTS, random_model

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NEW = 12
LENGTHS = (5, 11, 3, 8, 1)


def decoder_of(model: Any, **changes: Any) -> Decoder:
    spec = describe(model)
    options = {"max_batch": 5, "capacity": 40, "device": model.device, "dtype": model.dtype} | changes
    return Decoder(
        spec.blocks,
        embedding=spec.embedding,
        final_norm=spec.final_norm,
        head=spec.head,
        tables=spec.tables,
        logit_scale=spec.logit_scale,
        logit_softcap=spec.logit_softcap,
        **options,
    )


def prompts(lengths=LENGTHS) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(3, 160, (length,), generator=generator).tolist() for length in lengths]


def theirs(model: Any, prompt: list[int]) -> list[int]:
    """What transformers makes of one prompt, stopping nowhere."""
    ids = torch.tensor([prompt], device=model.device)
    options: dict[str, Any] = {"max_new_tokens": NEW, "do_sample": False}
    model.generation_config.eos_token_id = None
    return model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **options)[0, len(prompt) :].tolist()


@pytest.fixture(scope="module")
def llama():
    return random_model("llama", device=DEVICE)


@pytest.mark.parametrize("adapted", [True, False], ids=["adapted", "bare"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_tokens_are_those_of_transformers(variant, adapted):
    model = random_model(variant, device=DEVICE)
    if not adapted:
        detach_lora(model)
    expected = [theirs(model, prompt) for prompt in prompts()]
    decoder = decoder_of(model)
    assert decoder.generate(prompts(), max_new_tokens=NEW) == expected
    # Rows of another batch size, and a cache in which longer texts have been.
    assert decoder.generate(prompts()[2:3], max_new_tokens=NEW) == expected[2:3]


def test_linears_that_are_not_quantized():
    model = random_model("qwen2", device=DEVICE, four_bits=False)
    expected = [theirs(model, prompt) for prompt in prompts()]
    assert decoder_of(model).generate(prompts(), max_new_tokens=NEW) == expected


def test_prompts_that_fill_several_rows(llama, monkeypatch):
    expected = decoder_of(llama).generate(prompts(), max_new_tokens=NEW)
    monkeypatch.setattr("quatrain.decoding.prefill._TOKENS", 12)
    assert decoder_of(llama).generate(prompts(), max_new_tokens=NEW) == expected


@pytest.mark.parametrize("steps", [1, 5, 50])
def test_a_reply_ends_with_its_first_end_token(llama, steps, monkeypatch):
    monkeypatch.setattr(Decoder, "_steps_between_looks", steps)
    decoder = decoder_of(llama)
    whole = decoder.generate(prompts(), max_new_tokens=NEW)
    ends = {whole[0][2], whole[1][4]}
    told: list[tuple[int, int]] = []
    cut = decoder.generate(prompts(), max_new_tokens=NEW, end_ids=ends, on_token=lambda *at: told.append(at))
    for row, (reply, full) in enumerate(zip(cut, whole, strict=True)):
        first = next((i for i, token in enumerate(full) if token in ends), NEW - 1)
        assert reply == full[: first + 1]
        assert [token for at, token in told if at == row] == reply


def test_draws_follow_the_seed(llama):
    decoder = decoder_of(llama)
    options: dict[str, Any] = {"max_new_tokens": NEW, "sampling": Sampling(temperature=2.0, top_p=0.9)}
    first = decoder.generate(prompts(), seed=3, **options)
    assert decoder.generate(prompts(), seed=3, **options) == first
    assert decoder.generate(prompts(), seed=4, **options) != first
    torch.manual_seed(0)
    assert decoder.generate(prompts(), **options) != decoder.generate(prompts(), **options)


def test_what_does_not_fit_is_refused(llama):
    decoder = decoder_of(llama)
    with pytest.raises(DataError, match="1 to 5 prompts, got 6"):
        decoder.generate([[3]] * 6, max_new_tokens=1)
    with pytest.raises(DataError, match="nothing to do"):
        decoder.generate([[3], []], max_new_tokens=1)
    with pytest.raises(DataError, match="fit into 64 tokens, got 60 and 5"):
        decoder.generate([[3] * 60], max_new_tokens=5)
    with pytest.raises(DataError, match="max_batch must lie between 1 and 32, got 33"):
        decoder_of(llama, max_batch=33)
    with pytest.raises(ConfigError, match="temperature"):
        Sampling(temperature=-1.0)
    with pytest.raises(ConfigError, match="top_p"):
        Sampling(top_p=0.0)


def test_angles_that_depend_on_the_length_are_refused_beyond_it():
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    from transformers import AutoModelForCausalLM

    from tests.models.families import config_of

    model = AutoModelForCausalLM.from_config(config_of("llama", rope_parameters=rope)).to(DEVICE)
    with pytest.raises(ModelError, match="beyond 64 tokens"):
        decoder_of(model, capacity=100)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_a_recorded_step_gives_the_bits_of_one_that_is_not(dtype, monkeypatch):
    model = random_model("llama", device=DEVICE, dtype=dtype)
    recorded = decoder_of(model).generate(prompts(), max_new_tokens=NEW)
    monkeypatch.setattr(Decoder, "_step_of", lambda self, rows: self._step)
    assert decoder_of(model).generate(prompts(), max_new_tokens=NEW) == recorded
