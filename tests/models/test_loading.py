"""What `load_model` promises beyond right logits: names, ties, errors, types, progress, memory."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM, Gemma2ForCausalLM, Gemma2Model

from quatrain.adapters import LoraConfig, attach_lora, detach_lora, load_adapter, save_adapter
from quatrain.errors import ConfigError, ModelError, QuantizationError
from quatrain.models import load_model, model_summary, save_quantized
from quatrain.models.skeleton import build_skeleton
from tests.models.families import config_of

IDS = torch.tensor([[1, 5, 9, 100, 44, 7, 2, 30]])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config_of("qwen2")).save_pretrained(tmp_path)
    return tmp_path


def rewrite(folder: Path, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


def load(folder: Path, **options):
    return load_model(folder, **({"quantization": None, "compute_dtype": "float32", "device": "cpu"} | options))[0]


def test_names_of_a_bare_body_and_a_missing_tied_head(tmp_path: Path):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config_of("llama")).eval()
    model.model.save_pretrained(tmp_path)
    assert not any(name.startswith("model.") for name in load_file(tmp_path / "model.safetensors"))
    ours = load(tmp_path)
    assert torch.equal(logits(ours), logits(model))
    assert ours.lm_head.weight is ours.model.embed_tokens.weight


def test_only_the_head_of_a_tied_pair_is_stored(tmp_path: Path):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config_of("llama")).eval()
    model.save_pretrained(tmp_path)
    rewrite(tmp_path, lambda t: t.update({"lm_head.weight": t.pop("model.embed_tokens.weight")}))
    ours = load(tmp_path)
    assert torch.equal(logits(ours), logits(model))
    assert ours.lm_head.weight is ours.model.embed_tokens.weight


@pytest.mark.parametrize("same", [True, False])
def test_a_tie_that_the_checkpoint_contradicts(tmp_path: Path, same: bool):
    AutoModelForCausalLM.from_config(config_of("llama")).save_pretrained(tmp_path)
    rewrite(tmp_path, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone() + (not same)}))
    ours = load(tmp_path)
    assert (ours.lm_head.weight is ours.model.embed_tokens.weight) == same
    assert ours.config.tie_word_embeddings == same
    expected = ours.model.embed_tokens.weight + (not same)
    assert torch.equal(ours.lm_head.weight, expected)


def test_a_missing_tensor(folder: Path):
    rewrite(folder, lambda t: t.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(ModelError, match=r"lacks model\.layers\.1\.mlp\.up_proj\.weight"):
        load(folder)


def test_a_missing_head_without_a_tie(folder: Path):
    rewrite(folder, lambda t: t.pop("lm_head.weight"))
    with pytest.raises(ModelError, match=r"lacks lm_head\.weight"):
        load(folder)


def test_a_tensor_without_a_place(folder: Path):
    rewrite(folder, lambda t: t.update({f"model.extra.{i}": torch.zeros(2) for i in range(9)}))
    with pytest.raises(ModelError, match=r"model\.extra\.4 and 4 more"):
        load(folder)


def test_computed_buffers_of_old_checkpoints_are_ignored(folder: Path):
    rewrite(folder, lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(8)}))
    load(folder)


def test_a_wrong_shape(folder: Path):
    rewrite(folder, lambda t: t.update({"model.layers.0.mlp.up_proj.weight": torch.zeros(64, 64)}))
    with pytest.raises(ModelError, match=r"up_proj\.weight: \(64, 64\) instead of \(128, 64\)"):
        load(folder)


def test_nan_in_a_weight_is_never_quantized(folder: Path):
    rewrite(folder, lambda t: t["model.layers.0.mlp.up_proj.weight"][3].fill_(float("nan")))
    with pytest.raises(QuantizationError):
        load(folder, quantization="nf4")


def test_an_unknown_type(folder: Path):
    with pytest.raises(ConfigError, match="nf4, fp4, int4 or None; got 'nf5'"):
        load(folder, quantization="nf5")


@pytest.mark.parametrize(
    ("note", "message"),
    [
        ({"quant_method": "gptq", "bits": 4}, "'gptq'"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True, "load_in_4bit": False}, "8-bit"),
    ],
)
def test_other_quantized_checkpoints_are_refused(folder: Path, note: dict, message: str):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": note}))
    with pytest.raises(ModelError, match=message):
        load(folder)


def test_a_config_that_is_no_language_model(folder: Path):
    (folder / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(ModelError, match="causal language model"):
        load(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "unheard-of"}))
    with pytest.raises(ModelError, match="transformers understands"):
        load(folder)


def test_a_folder_without_tokenizer_gives_none(folder: Path):
    assert load_model(folder, device="cpu")[1] is None


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_everything_is_in_the_compute_dtype(folder: Path, name: str):
    dtype = getattr(torch, name)
    model = load(folder, quantization="nf4", compute_dtype=name)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert model.config.dtype == dtype
    assert model.model.layers[0].mlp.up_proj.weight.dtype == dtype
    assert logits(model).dtype == dtype
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    assert torch.equal(logits(load(folder, compute_dtype=name)), logits(reference))


def test_progress_ends_at_the_total(folder: Path):
    seen = []
    load(folder, quantization="nf4", progress=lambda done, total, name: seen.append((done, total, name)))
    size = sum(tensor.nbytes for tensor in load_file(folder / "model.safetensors").values())
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)
    assert seen[-1][:2] == (size, size)
    assert {name for _, _, name in seen} == set(load_file(folder / "model.safetensors"))


def test_summary_lists_every_parameter_once(folder: Path):
    summary = model_summary(load(folder, quantization="nf4"))
    whole = AutoModel.from_pretrained(folder)
    assert {m.name for m in summary.quantized} | {t.name for t in summary.kept} == set(
        load_file(folder / "model.safetensors")
    )
    assert summary.parameters == sum(p.numel() for p in whole.parameters()) + 160 * 64
    assert all(tensor.reason for tensor in summary.kept)
    text = str(summary)
    assert "model.layers.*.input_layernorm.weight" in text
    assert "head" in text
    with pytest.raises(ModelError, match="load_model"):
        model_summary(whole)


def test_damage_in_a_4bit_checkpoint_is_found(folder: Path, tmp_path: Path):
    save_quantized(load(folder, quantization="nf4"), None, tmp_path / "saved")
    shutil.copytree(tmp_path / "saved", tmp_path / "cut")
    rewrite(tmp_path / "cut", lambda t: t.pop("model.layers.0.mlp.up_proj.weight.absmax"))
    with pytest.raises(QuantizationError, match="absmax"):
        load(tmp_path / "cut")
    with pytest.raises(ModelError, match="without weights"):
        save_quantized(load(folder, quantization="nf4"), None, tmp_path / "saved")


def test_an_adapter_is_not_saved_with_the_base(folder: Path, tmp_path: Path):
    base = load(folder, quantization="nf4")
    attach_lora(base, LoraConfig(r=2))
    load_adapter(base, save_adapter(base, tmp_path / "adapter"), trainable=False)
    with pytest.raises(ModelError, match=r"save_adapter.*detach_lora"):
        save_quantized(base, None, tmp_path / "saved")
    detach_lora(base)
    save_quantized(base, None, tmp_path / "saved")
    assert torch.equal(logits(load(tmp_path / "saved")), logits(base))


PEAK = """
import sys, threading, time
import torch
from quatrain.models import load_model
def read(key):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(key))
load_model(sys.argv[2], device="cpu", compute_dtype="bfloat16")
before, peak, done = read("VmRSS"), [0], threading.Event()
def watch():
    while not done.is_set():
        peak[0] = max(peak[0], read("VmRSS"))
        time.sleep(0.001)
thread = threading.Thread(target=watch)
thread.start()
model, _ = load_model(sys.argv[1], device="cpu", compute_dtype="bfloat16")
done.set()
thread.join()
print(peak[0] - before)
"""


def test_a_soft_cap_on_scores_is_never_left_out(monkeypatch):
    """Some versions of transformers choose PyTorch's attention for Gemma 2, which doesn't have the cap."""
    monkeypatch.setattr(Gemma2ForCausalLM, "_supports_sdpa", True)
    monkeypatch.setattr(Gemma2Model, "_supports_sdpa", True)
    assert build_skeleton(config_of("gemma2"), dtype=torch.float32).config._attn_implementation == "eager"
    uncapped = config_of("gemma2", attn_logit_softcapping=None)
    assert build_skeleton(uncapped, dtype=torch.float32).config._attn_implementation == "sdpa"


def write_shards(folder: Path, config) -> tuple[int, int]:
    """A checkpoint of random weights with one shard per block; returns its size and that of the largest shard."""
    shards: dict[str, dict[str, torch.Tensor]] = {}
    for name, empty in build_skeleton(config, dtype=torch.bfloat16).named_parameters():
        if name != "lm_head.weight":
            file = f"model-{name.split('.')[2] if '.layers.' in name else 'rest'}.safetensors"
            column = torch.randn(empty.shape[0], *[1] * (empty.ndim - 1), dtype=torch.bfloat16)
            shards.setdefault(file, {})[name] = column.expand(empty.shape).contiguous()
    folder.mkdir()
    for file, tensors in shards.items():
        save_file(tensors, folder / file)
    index = {"weight_map": {name: file for file, tensors in shards.items() for name in tensors}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config.save_pretrained(folder)
    sizes = [(folder / file).stat().st_size for file in shards]
    return sum(sizes), max(sizes)


def test_host_memory_peaks_at_a_shard_and_the_4bit_model(folder: Path, tmp_path: Path):
    """Resident memory includes mapped files, so that a whole mapped checkpoint would count against us as well."""
    config = config_of("llama")
    config.update({"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 16, "head_dim": 256})
    size, shard = write_shards(tmp_path / "big", config)
    command = [sys.executable, "-c", PEAK, str(tmp_path / "big"), str(folder)]
    grown = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    four_bits = size / 16 * 4.13
    # Quantizing one matrix of this size takes some 52 MB for a moment; 16-bit weights of the whole would take `size`.
    temporaries = 13 * 1024 * 4096
    # Beside the shard that is mapped, a shard's worth of holes may wait to be given back, and the next one's pages.
    assert four_bits * 0.9 < grown < four_bits + 3 * shard + temporaries < size * 0.6
