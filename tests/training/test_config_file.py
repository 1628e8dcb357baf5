"""Configs from YAML and overrides: types are checked, mistakes are named, and what was written reads back the same."""

import pytest

from quatrain.adapters import LoraConfig
from quatrain.data import DataConfig
from quatrain.errors import ConfigError
from quatrain.evaluation import TaskConfig
from quatrain.training import RunConfig, config_from_dict, describe_settings, read_config, write_config


def test_a_file_with_overrides(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("model: m\ndata: rows.jsonl\nlora:\n  r: 8\nlearning_rate: 0.001\n")
    config = read_config(path, ["lora.r=64", "learning_rate=2e-4", "data.max_rows=5", "eval_data=held.jsonl", "seed=7"])
    assert config.lora == LoraConfig(r=64)
    assert config.learning_rate == 2e-4
    assert config.data == DataConfig(path="rows.jsonl", max_rows=5)
    assert config.eval_data == DataConfig(path="held.jsonl")
    assert (config.model, config.seed) == ("m", 7)


def test_overrides_alone_make_a_config():
    config = read_config(None, ["data=rows.jsonl", "quantization=null", "lora.target_modules=[q_proj, v_proj]"])
    assert config.quantization is None
    assert config.lora.target_modules == ("q_proj", "v_proj")


@pytest.mark.parametrize(
    "config",
    [
        RunConfig(data="rows.jsonl"),
        RunConfig(
            data=DataConfig(path="a", fields={"prompt": "q", "completion": "a"}),
            eval_data="b",
            lora=LoraConfig(target_modules=["q_proj"], layers_to_transform="0-3"),
            task_eval=TaskConfig(data="c", metric="json_match"),
            max_steps=3,
        ),
    ],
)
def test_what_is_written_reads_back_the_same(config, tmp_path):
    path = tmp_path / "config.yaml"
    write_config(config, path)
    assert read_config(path) == config


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, ["`data` is required"]),
        ({"data": "x", "learning_rte": 1}, ["no setting `learning_rte`", "did you mean `learning_rate`"]),
        ({"data": "x", "lora": {"rank": 1}}, ["no setting `lora.rank`", "known are r, lora_alpha"]),
        ({"data": "x", "learning_rate": "fast"}, ["`learning_rate`", "number", "'fast'"]),
        ({"data": "x", "lr_scheduler_type": "step"}, ["lr_scheduler_type", "'linear', 'cosine' or 'constant'"]),
        ({"data": "x", "max_steps": 0}, ["`max_steps` must be a whole number of at least 1"]),
        ({"data": "x", "lora": {"r": 0}}, ["`r` must be at least 1"]),
        ({"data": "x", "warmup_ratio": 1.5}, ["`warmup_ratio` must be at least 0 and below 1, got 1.5"]),
        ({"data": {"path": "x", "format": "pdf"}}, ["format"]),
    ],
)
def test_mistakes_are_named(settings, words):
    with pytest.raises(ConfigError) as error:
        config_from_dict(settings)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(("text", "words"), [("a: [", "not YAML"), ("- 1", "key: value"), ("\udcff", "not YAML")])
def test_files_that_are_no_config(text, words, tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError, match=words):
        read_config(path)


def test_a_missing_file(tmp_path):
    with pytest.raises(ConfigError, match="no config file"):
        read_config(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("revision: 1e10", "revision", "1e10"),
        ("revision: 007", "revision", "007"),
        ("output_dir: 2024", "output_dir", "2024"),
        ("learning_rate: 2e-4", "learning_rate", 2e-4),
        ("quantization: none", "quantization", None),
        ("quantization: null", "quantization", None),
        ("eval_steps:", "eval_steps", None),
        ("revision: 'none'", "revision", "none"),
        ("double_quant: off", "double_quant", False),
        ("gradient_checkpointing: on", "gradient_checkpointing", "on"),
        ("gradient_checkpointing: no", "gradient_checkpointing", "off"),
        ("gradient_checkpointing: auto", "gradient_checkpointing", "auto"),
        ("optim_paged: yes", "optim_paged", "always"),
        ("optim_paged: false", "optim_paged", "never"),
        ("keep_in_16bit: o_proj", "keep_in_16bit", ("o_proj",)),
        ("keep_in_16bit: [o_proj, down_proj]", "keep_in_16bit", ("o_proj", "down_proj")),
    ],
)
def test_a_text_means_what_the_type_of_its_setting_says(text, field, value, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(f"data: x\n{text}\n")
    in_file = getattr(read_config(path), field)
    key, _, after = text.partition(":")
    overridden = getattr(read_config(None, ["data=x", f"{key}={after.strip()}"]), field)
    assert in_file == overridden == value
    assert type(in_file) is type(overridden) is type(value)


@pytest.mark.parametrize("settings", [{"data": ["x"]}, {"data": "x", "lora": 16}, {"data": "x", "eval_data": ["x"]}])
def test_a_wrong_kind_is_said_once(settings):
    with pytest.raises(ConfigError) as error:
        config_from_dict(settings)
    assert str(error.value).count("Input should be") == 1 and ".str" not in str(error.value)


@pytest.mark.parametrize("override", ["lora.r", "=3", "lora.r=["])
def test_bad_overrides(override):
    with pytest.raises(ConfigError, match=r"override|read"):
        read_config(None, ["data=x", override])


def test_every_setting_is_described():
    from dataclasses import fields

    text = describe_settings()
    for owner, prefix in ((RunConfig, ""), (LoraConfig, "lora."), (DataConfig, "data."), (TaskConfig, "task_eval.")):
        for field in fields(owner):
            assert f"\n{prefix}{field.name}: " in f"\n{text}"


def test_defaults_are_shown_as_a_file_would_have_them():
    lines = describe_settings().splitlines()
    for line in ("max_steps: null", "double_quant: true", "keep_in_16bit: []", "quantization: nf4", "data: required"):
        assert line in lines
