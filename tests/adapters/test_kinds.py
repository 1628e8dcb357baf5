"""Kinds of adapter beside plain LoRA: the same outputs and gradients as PEFT's on the same weights."""

import warnings
from typing import Any

import pytest
import torch

from quatrain.adapters import (
    LoraConfig,
    adapter_layers,
    adapter_parameters,
    attach_lora,
    detach_lora,
    load_adapter,
    save_adapter,
)
from quatrain.adapters.dora import DoraLinear
from quatrain.adapters.loading import stored_adapter
from quatrain.adapters.stored_extras import grow
from quatrain.errors import AdapterError
from tests.adapters.bases import four_bits, sixteen_bits

CONFIGS = {
    "dora": {"use_dora": True},
    "dora-rslora": {"use_dora": True, "use_rslora": True, "target_modules": ["q_proj", "down_proj"]},
    "tokens": {"trainable_token_indices": [3, 499, 7]},
    "head": {"modules_to_save": ["lm_head"]},
    "norms": {"modules_to_save": ["model.norm", "input_layernorm"], "trainable_token_indices": [5]},
}


def theirs_of(model: Any, settings: dict[str, Any]) -> Any:
    import peft

    settings = {"target_modules": "all-linear", **settings}
    with warnings.catch_warnings():
        # PEFT remarks on tied weights; the tests are about those.
        warnings.simplefilter("ignore")
        return peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=6, **settings))


def by_our_name(theirs: Any) -> dict[str, torch.nn.Parameter]:
    """PEFT's trained parameters under our names."""
    found = {}
    for name, parameter in theirs.named_parameters():
        if parameter.requires_grad:
            name = name.removeprefix("base_model.model.").replace("modules_to_save.default", "trained")
            name = name.replace("token_adapter.", "").replace("lora_magnitude_vector.default.weight", "magnitude")
            name = name.replace(".default.weight", "").replace(".default", "")
            found[name.replace(".magnitude", ".lora_magnitude_vector")] = parameter
    return found


def copy_to(theirs: Any, ours: Any) -> None:
    """Random values for what is trained, the same in both."""
    parameters = adapter_parameters(ours)
    with torch.no_grad():
        for name, parameter in by_our_name(theirs).items():
            parameter.add_(0.1 * torch.randn_like(parameter))
            parameters[name].copy_(parameter)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_outputs_and_gradients_are_pefts(kind, tied):
    settings = CONFIGS[kind]
    ours = attach_lora(sixteen_bits(tied=tied), LoraConfig(r=4, lora_alpha=6, **settings))
    theirs = theirs_of(sixteen_bits(tied=tied), settings)
    assert set(by_our_name(theirs)) == set(adapter_parameters(ours))
    copy_to(theirs, ours)
    ids = torch.tensor([[3, 17, 5, 499, 7, 21, 3, 9]])
    found = []
    for model in (ours, theirs):
        logits = model(input_ids=ids).logits
        torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:]).backward()
        found.append(logits)
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)
    for name, parameter in by_our_name(theirs).items():
        torch.testing.assert_close(adapter_parameters(ours)[name].grad, parameter.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", CONFIGS)
def test_on_four_bits_it_is_what_it_is_on_the_dequantized_weights(kind):
    """Head and embedding are in four bits too."""
    config, ids = LoraConfig(r=4, lora_alpha=6, **CONFIGS[kind]), torch.randint(500, (1, 9))
    model = four_bits()
    twin = attach_lora(sixteen_bits(like=model), config)
    attach_lora(model, config)
    for (name, parameter), (other_name, other) in zip(
        adapter_parameters(model).items(), adapter_parameters(twin).items(), strict=True
    ):
        assert name == other_name and parameter.dtype == torch.float32
        with torch.no_grad():
            other.copy_(parameter.add_(0.1 * torch.randn_like(parameter)))
    torch.testing.assert_close(model(input_ids=ids).logits, twin(input_ids=ids).logits, rtol=1e-4, atol=1e-4)
    model(input_ids=ids).logits.square().sum().backward()
    assert all(torch.any(p.grad != 0) for p in adapter_parameters(model).values() if p.grad is not None)


@pytest.mark.parametrize("kind", CONFIGS)
def test_at_the_start_nothing_is_changed_and_it_comes_off_again(kind):
    model, ids = four_bits(), torch.randint(500, (1, 9))
    before, state = model(input_ids=ids).logits, {k: v.clone() for k, v in model.state_dict().items()}
    attach_lora(model, LoraConfig(r=4, **CONFIGS[kind]))
    torch.testing.assert_close(model(input_ids=ids).logits, before, rtol=1e-5, atol=1e-5)
    for parameter in adapter_parameters(model).values():
        torch.nn.init.normal_(parameter)
    detach_lora(model)
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_doras_norm_is_taken_anew_after_every_update():
    linear = torch.nn.Linear(12, 7).requires_grad_(False)
    layer = DoraLinear(linear, r=3, lora_alpha=6)
    torch.nn.init.normal_(layer.lora_B)
    for _ in range(2):
        for mode in (True, False):
            expected = (linear.weight + layer.scaling * layer.lora_B @ layer.lora_A).norm(dim=1)
            torch.testing.assert_close(layer.train(mode).row_norms(), expected.detach())
            with torch.no_grad():
                layer.lora_A.mul_(2)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_merged_into_the_base_it_computes_the_same(kind, tied):
    model = attach_lora(sixteen_bits(tied=tied), LoraConfig(r=4, lora_alpha=6, **CONFIGS[kind])).eval()
    for parameter in adapter_parameters(model).values():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    adapter, plain, ids = stored_adapter(model), sixteen_bits(tied=tied), torch.randint(500, (1, 9))
    if tied and "lm_head" in adapter.modules:
        plain.lm_head.weight = torch.nn.Parameter(plain.lm_head.weight.clone())
    for name, parameter in plain.named_parameters():
        parameter.data = adapter.merge(name, parameter.data)
    torch.testing.assert_close(plain(input_ids=ids).logits, model(input_ids=ids).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"modules_to_save": ["lmhead"]}, "`modules_to_save` matched no layer.*Did you mean lm_head"),
        ({"modules_to_save": "mlp"}, "single modules"),
        ({"trainable_token_indices": [512]}, r"512 \(0–511\); found 512.*new_tokens"),
        ({"trainable_token_indices": {"embed": [1]}}, "matched no layer"),
        ({"trainable_token_indices": {"embed_tokens": [1], "lm_head": [2]}}, "one table"),
        ({"trainable_token_indices": [1], "modules_to_save": ["embed_tokens"]}, "whole or in rows"),
    ],
)
def test_what_matches_nothing_says_so(settings, words):
    with pytest.raises(AdapterError, match=words):
        attach_lora(sixteen_bits(), LoraConfig(**settings))


def test_a_module_that_is_trained_whole_gets_no_update_beside_it():
    model = attach_lora(sixteen_bits(), LoraConfig(modules_to_save=["layers.0.self_attn.o_proj"]))
    assert "model.layers.0.self_attn.o_proj" not in adapter_layers(model)
    assert "model.layers.1.self_attn.o_proj" in adapter_layers(model)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_folders_go_both_ways(kind, tied, tmp_path):
    from peft import PeftModel

    ids = torch.tensor([[3, 17, 5, 499, 7, 21, 3, 9]])
    theirs = theirs_of(sixteen_bits(tied=tied), CONFIGS[kind])
    for parameter in by_our_name(theirs).values():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs.save_pretrained(tmp_path / "theirs")
        expected = theirs(input_ids=ids).logits
        ours = load_adapter(sixteen_bits(tied=tied), tmp_path / "theirs")
        torch.testing.assert_close(ours(input_ids=ids).logits, expected, rtol=1e-5, atol=1e-5)
        assert not any(p.requires_grad for p in ours.parameters())
        save_adapter(ours, tmp_path / "ours")
        again = PeftModel.from_pretrained(sixteen_bits(tied=tied), tmp_path / "ours")
        torch.testing.assert_close(again(input_ids=ids).logits, expected, rtol=1e-5, atol=1e-5)
    filled = attach_lora(sixteen_bits(tied=tied), LoraConfig(r=4, lora_alpha=6, **CONFIGS[kind]))
    assert torch.equal(load_adapter(filled, tmp_path / "ours")(input_ids=ids).logits, ours(input_ids=ids).logits)
    with pytest.raises(AdapterError, match="another adapter"):
        load_adapter(attach_lora(sixteen_bits(tied=tied), LoraConfig(r=4)), tmp_path / "ours")


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_rows_of_new_tokens_go_onto_a_base_that_has_none(tied, tmp_path):
    from peft import PeftModel

    tables = {"embed_tokens": [7, 512, 513]} | ({} if tied else {"lm_head": [7, 512, 513]})
    model = sixteen_bits(tied=tied)
    grow(model, 514)
    attach_lora(model, LoraConfig(r=4, trainable_token_indices=tables))
    for parameter in adapter_parameters(model).values():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    save_adapter(model, tmp_path)
    ids = torch.tensor([[7, 512, 3, 513]])
    expected = model(input_ids=ids).logits
    ours = load_adapter(sixteen_bits(tied=tied), tmp_path)
    torch.testing.assert_close(ours(input_ids=ids).logits, expected)
    resized = sixteen_bits(tied=tied)
    resized.resize_token_embeddings(514, mean_resizing=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = PeftModel.from_pretrained(resized, tmp_path)
    torch.testing.assert_close(theirs(input_ids=ids).logits, expected)


def test_rows_that_cant_be_added_are_refused(tmp_path):
    model = sixteen_bits()
    grow(model, 514)
    save_adapter(attach_lora(model, LoraConfig(r=4, trainable_token_indices=[513])), tmp_path / "gap")
    with pytest.raises(AdapterError, match="needs row 512 without having trained it"):
        load_adapter(sixteen_bits(), tmp_path / "gap")
    model = sixteen_bits()
    grow(model, 513)
    save_adapter(attach_lora(model, LoraConfig(r=4, trainable_token_indices=[512])), tmp_path / "one")
    with pytest.raises(AdapterError, match="a table in four bits can't be given"):
        load_adapter(four_bits(), tmp_path / "one")
