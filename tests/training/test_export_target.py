"""What a target can't carry is refused before training."""

import json

import pytest

from quatrain.errors import ConfigError, ModelError
from quatrain.training import RunConfig, train


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"export_to": "onnx"}, "export_to"),
        ({"export_to": "bnb-4bit", "quantization": "int4"}, "no int4"),
        ({"export_to": "bnb-4bit", "quantize_embeddings": True}, "quantize_embeddings"),
        ({"export_to": "lora-gguf", "lora": {"use_dora": True}}, "use_dora"),
        ({"export_to": "lora-gguf", "lora": {"modules_to_save": ["lm_head"]}}, "modules_to_save"),
    ],
)
def test_settings(settings, words):
    with pytest.raises(ConfigError, match=words):
        RunConfig(data="rows.jsonl", **settings)


@pytest.mark.parametrize("target", ["safetensors", "gguf", "ollama"])
def test_what_they_can_carry_passes(target):
    RunConfig(data="rows.jsonl", quantization="int4", lora={"use_dora": True}, export_to=target)  # pyright: ignore


def test_a_family_that_gguf_export_does_not_know_is_refused_before_the_first_step(tmp_path, tokenizer):
    from transformers import AutoModelForCausalLM

    from tests.models.families import config_of

    AutoModelForCausalLM.from_config(config_of("gemma2", vocab_size=512)).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "1?", "completion": "2"}) + "\n")
    run = RunConfig(
        model=str(tmp_path / "base"),
        data=str(tmp_path / "rows.jsonl"),
        output_dir=tmp_path / "run",
        device="cpu",
        export_to="gguf",
    )
    with pytest.raises(ModelError, match="gemma2"):
        train(None, None, run, progress=False)
    assert not (tmp_path / "run" / "events.jsonl").exists()
