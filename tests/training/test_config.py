"""What a caller in Python may hand to RunConfig, and what is refused at once rather than an hour into the run."""

from pathlib import Path

import pytest

from quatrain.adapters import LoraConfig
from quatrain.data import DataConfig
from quatrain.errors import ConfigError
from quatrain.evaluation import TaskConfig
from quatrain.training import RunConfig


@pytest.mark.parametrize(
    "data", ["rows.jsonl", Path("rows.jsonl"), {"path": Path("rows.jsonl")}, DataConfig(path="rows.jsonl")]
)
def test_data_in_every_form_is_the_same(data):
    config = RunConfig(data=data, eval_data=data, task_eval=TaskConfig(data=data))
    assert config.train_data == config.held_out == DataConfig(path="rows.jsonl")
    assert config.task_eval and config.task_eval.data == config.train_data


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ({"lora": {"r": 4, "target_modules": ["q_proj"]}}, {"lora": LoraConfig(r=4, target_modules=("q_proj",))}),
        ({"task_eval": {"data": "t"}}, {"task_eval": TaskConfig(data="t")}),
        (
            {"model": Path("a/m"), "adapter": Path("a"), "output_dir": Path("runs/x")},
            {"model": "a/m", "adapter": "a", "output_dir": "runs/x"},
        ),
        (
            {"optim_paged": True, "gradient_checkpointing": True},
            {"optim_paged": "always", "gradient_checkpointing": "on"},
        ),
        (
            {"optim_paged": False, "gradient_checkpointing": False},
            {"optim_paged": "never", "gradient_checkpointing": "off"},
        ),
        ({"keep_in_16bit": ["o_proj"]}, {"keep_in_16bit": ("o_proj",)}),
        ({"quantization": None}, {"quantization": None}),
    ],
)
def test_other_forms_are_stored_in_one(given, stored):
    config = RunConfig(data="x", **given)
    assert {name: getattr(config, name) for name in stored} == stored


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"data": 3}, "`data` must be a DataConfig or a mapping"),
        ({"data": {"pth": "x"}}, "`data` has no setting 'pth'; known are path"),
        ({"data": {"format": "text"}}, "`data` must give `path`"),
        ({"eval_data": 3}, "`eval_data` must be"),
        ({"lora": 16}, "`lora` must be a LoraConfig"),
        ({"lora": {"rank": 1}}, "`lora` has no setting 'rank'; known are r, lora_alpha"),
        ({"task_eval": {"data": "x", "metric": "bleu"}}, "`metric` must be one of exact_match, json_match"),
        ({"output_dir": None}, "`output_dir` must be a path"),
        ({"model": 3}, "`model` must be a path or a name"),
        ({"quantization": "int8"}, "`quantization` must be one of nf4, fp4, int4, None, got 'int8'"),
        ({"optim": "sgd"}, "`optim` must be one of adamw_8bit, adamw_32bit"),
        ({"optim_paged": "yes"}, "`optim_paged` must be one of auto, always, never"),
        (
            {"gradient_checkpointing": "full"},
            "`gradient_checkpointing` must be one of auto, off, gate_up_8bit, gate_up, offload, offload_attention, on",
        ),
        ({"lr_scheduler_type": "step"}, "`lr_scheduler_type` must be one of linear, cosine, constant"),
        ({"learning_rate": "2e-4"}, "`learning_rate` must be a finite number"),
        ({"learning_rate": None}, "`learning_rate` must be a finite number"),
        ({"learning_rate": float("nan")}, "`learning_rate` must be a finite number, got nan"),
        ({"learning_rate": 0}, "`learning_rate` must be above 0, got 0"),
        ({"num_train_epochs": float("inf")}, "`num_train_epochs` must be a finite number"),
        ({"max_steps": 1.5}, "`max_steps` must be a whole number of at least 1, or left out, got 1.5"),
        ({"per_device_train_batch_size": 0}, "`per_device_train_batch_size` must be a whole number of at least 1"),
        ({"seed": -1}, "`seed` must be a whole number of at least 0"),
        ({"seed": 2**63}, "`seed` must be at most 9223372036854775807"),
        ({"double_quant": "false"}, "`double_quant` must be true or false, got 'false'"),
        ({"packing": 1}, "`packing` must be true or false"),
        ({"keep_in_16bit": [3]}, "`keep_in_16bit` must be a text or a list of texts"),
        ({"keep_in_16bit": 3}, "`keep_in_16bit` must be a text or a list of texts"),
        ({"revision": 3}, "`revision` must be a text"),
        ({"warmup_ratio": 1}, "`warmup_ratio` must be at least 0 and below 1"),
        ({"data": {"path": "x", "max_bad_rows": -1}}, "`max_bad_rows` must be a whole number of at least 0"),
        ({"data": {"path": "x", "on_bad_row": "ignore"}}, "`on_bad_row` must be one of stop, skip"),
        ({"data": {"path": "x", "max_rows": True}}, "`max_rows` must be a whole number"),
        ({"task_eval": {"data": "x", "batch_size": "3"}}, "`batch_size` must be a whole number"),
        ({"save_steps": True}, "`save_steps` must be a whole number"),
        ({"max_length": "long"}, "`max_length` must be a whole number"),
    ],
)
def test_what_is_wrong_is_refused_with_its_name(settings, words):
    with pytest.raises(ConfigError) as error:
        RunConfig(**{"data": "x", **settings})
    assert words in str(error.value)
