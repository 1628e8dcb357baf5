"""The 4-bit export is what bitsandbytes computes with, and says how much of the adapter is left."""

import pytest
import torch
from bitsandbytes.nn.modules import Linear4bit
from transformers import AutoModelForCausalLM

from quatrain.errors import AdapterError
from quatrain.exports import export
from quatrain.exports.four_bit import survival, total_survival
from quatrain.exports.subject import open_subject
from quatrain.models import load_model
from tests.exports.conftest import make_run
from tests.models.families import config_of

IDS = torch.arange(3, 40)[None]


def test_transformers_with_bitsandbytes_loads_it(rows, tokenizer, tmp_path):
    # Its rows are whole blocks: on a CPU bitsandbytes 0.50 decodes other ones wrongly.
    AutoModelForCausalLM.from_config(config_of("llama", vocab_size=512)).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    run = make_run(tmp_path / "run", tmp_path / "base", rows, tokenizer)
    export(run, tmp_path / "out", to="bnb-4bit")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32, device_map={"": "cpu"})
    linears = [module for module in theirs.modules() if isinstance(module, Linear4bit)]
    assert linears
    for module in linears:
        # On CPUs with AVX512 it repacks the weights and rounds activations to bfloat16.
        module.support_avx512bf16_for_cpu = False
    ours, _ = load_model(tmp_path / "out", device="cpu", compute_dtype="float32")
    torch.testing.assert_close(theirs(IDS).logits, ours(IDS).logits, rtol=1e-4, atol=1e-5)


def test_the_codes_are_those_of_the_merged_weights(run, tmp_path):
    import bitsandbytes.functional as bnb

    export(run, tmp_path / "out", to="bnb-4bit", measure=False)
    weights = open_subject(run, device="cpu").merged("original")
    name = "model.layers.0.self_attn.k_proj.weight"
    codes, state = bnb.quantize_4bit(weights.read(name), blocksize=64, quant_type="nf4", compress_statistics=True)
    stored, _ = load_model(tmp_path / "out", device="cpu", compute_dtype="float32")
    found = stored.model.layers[0].self_attn.k_proj.weight
    torch.testing.assert_close(found, bnb.dequantize_4bit(codes, state), rtol=1e-6, atol=1e-7)


def test_a_small_change_survives_on_the_original_and_is_swallowed_by_the_dequantized(
    tiny_llama_dir, rows, tokenizer, tmp_path
):
    """The change's elements are some hundredths of the distance between two 4-bit values."""
    run = make_run(tmp_path / "run", tiny_llama_dir, rows, tokenizer, std=0.004, double_quant=False)
    subject = open_subject(run, device="cpu")
    left = {}
    for onto in ("original", "dequantized"):
        weights = subject.merged(onto)
        names = [name for name in weights.needed if weights.is_adapted(name)]
        left[onto] = total_survival({n: survival(weights, n, weights.base.placement) for n in names})
    assert left["original"] == pytest.approx(1, abs=0.4)
    assert abs(left["dequantized"]) < 0.2


def test_too_little_left_is_refused_before_anything_is_written(run, tmp_path):
    with pytest.raises(AdapterError, match="of the adapter's change"):
        export(run, tmp_path / "out", to="bnb-4bit", least_survival=1.5)
    assert not list(tmp_path.iterdir())


def test_int4_becomes_nf4(tiny_llama_dir, rows, tokenizer, tmp_path):
    run = make_run(tmp_path / "run", tiny_llama_dir, rows, tokenizer, quantization="int4")
    result = export(run, tmp_path / "out", to="bnb-4bit", measure=False)
    assert result.written.kind == "nf4" and result.written.survival
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")


def test_a_base_in_four_bits_is_quantized_where_it_was(tiny_llama_dir, rows, tokenizer, tmp_path):
    from quatrain.models import save_quantized

    save_quantized(*load_model(tiny_llama_dir, device="cpu", compute_dtype="float32"), tmp_path / "nf4")
    run = make_run(tmp_path / "run", tmp_path / "nf4", rows, tokenizer)
    result = export(run, tmp_path / "out", to="bnb-4bit", original=tiny_llama_dir)
    assert result.onto == "original" and len(result.written.survival or {}) == 14
