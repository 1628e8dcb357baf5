"""Starts that share the weight between adapter and base: the same as PEFT's, and reversible."""

import warnings
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from bitsandbytes import functional as bnb

from quatrain.adapters import LoraConfig, adapter_layers, adapter_parameters, attach_lora, detach_lora, save_adapter
from quatrain.adapters.lora import linear_weight
from quatrain.adapters.originals import remember_originals
from quatrain.adapters.provenance import provenance_of
from quatrain.adapters.starts.drawn import draw
from quatrain.adapters.starts.start import STARTS
from quatrain.adapters.trained import load_trained, save_trained
from quatrain.errors import AdapterError, ConfigError
from tests.adapters.bases import four_bits, sixteen_bits

NAMES = ["pissa", "pissa_niter_16", "olora", "loftq"]
SETTINGS: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"]}


def quantized():
    """The 4-bit model, which remembers what it was."""
    model, original = four_bits(), sixteen_bits()
    remember_originals(model, lambda: nullcontext(lambda name: original.get_parameter(f"{name}.weight")))
    return model


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("name", ["pissa", "olora"])
def test_on_a_16_bit_base_it_is_pefts(name, rslora):
    import peft

    ours = attach_lora(sixteen_bits(), LoraConfig(init_lora_weights=name, use_rslora=rslora, **SETTINGS))
    settings: Any = {"init_lora_weights": name, "use_rslora": rslora, **SETTINGS}
    theirs: Any = peft.get_peft_model(sixteen_bits(), peft.LoraConfig(task_type="CAUSAL_LM", **settings))
    for module, layer in adapter_layers(ours).items():
        other = theirs.base_model.model.get_submodule(module)
        base, b, a = other.base_layer.weight, other.lora_B["default"].weight, other.lora_A["default"].weight
        # Singular vectors have no sign of their own, so products are compared.
        torch.testing.assert_close(layer.lora_B @ layer.lora_A, b @ a, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(layer.base_layer.weight, base, rtol=1e-3, atol=2e-4)
        torch.testing.assert_close(layer.lora_B.norm(dim=0), b.norm(dim=0), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("steps", [1, 3])
def test_loftq_alternates_as_pefts_does(steps):
    """PEFT's own needs a GPU; this is its loop, with its decomposition and bitsandbytes' quantization."""
    from peft.utils.loftq_utils import _low_rank_decomposition

    config = LoraConfig(init_lora_weights="loftq", loftq_iter=steps, **{**SETTINGS, "lora_alpha": 4})
    for name, layer in adapter_layers(attach_lora(quantized(), config)).items():
        weight = sixteen_bits().get_parameter(f"{name}.weight")
        residual = weight.clone()
        for _ in range(steps):
            codes, state = bnb.quantize_4bit(residual, blocksize=64, quant_type="nf4", compress_statistics=True)
            stored = bnb.dequantize_4bit(codes, state)
            parts = _low_rank_decomposition(weight - stored, 4)
            residual = weight - parts["L"] @ parts["R"]
        torch.testing.assert_close(layer.base_layer.weight, stored, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(layer.lora_B @ layer.lora_A, parts["L"] @ parts["R"], rtol=1e-3, atol=1e-4)


def errors(model):
    """‖base + adapter - W‖ / ‖W‖ of each adapted layer."""
    found = []
    for name, layer in adapter_layers(model).items():
        weight = sixteen_bits().get_parameter(f"{name}.weight")
        start = (linear_weight(layer.base_layer) + layer.scaling * layer.lora_B @ layer.lora_A).detach()
        found.append(float((start - weight).norm() / weight.norm()))
    return torch.tensor(found)


@pytest.mark.parametrize("name", ["pissa", "pissa_niter_16", "loftq"])
def test_it_is_nearer_to_the_16_bit_model_than_the_quantized_base(name):
    plain = errors(attach_lora(quantized(), LoraConfig(**SETTINGS)))
    assert (errors(attach_lora(quantized(), LoraConfig(init_lora_weights=name, **SETTINGS))) < plain).all()
    assert float(plain.min()) > 0.05


@pytest.mark.parametrize("name", ["gaussian", "orthogonal"])
def test_drawn_starts_are_pefts_for_the_same_seed(name):
    import peft

    generator, base = torch.Generator(), sixteen_bits()
    torch.manual_seed(7)
    _ = torch.nn.Linear(64, 6, bias=False), torch.nn.Linear(6, 64, bias=False)  # PEFT makes plain linears first.
    generator.set_state(torch.get_rng_state())
    torch.manual_seed(7)
    config = peft.LoraConfig(target_modules=["model.layers.0.self_attn.q_proj"], r=6, init_lora_weights=name)
    theirs: Any = peft.get_peft_model(base, config).get_submodule("base_model.model.model.layers.0.self_attn.q_proj")
    a, b = draw(name, r=6, inputs=64, outputs=64, generator=generator)
    torch.testing.assert_close(a, theirs.lora_A["default"].weight.data)
    torch.testing.assert_close(b, theirs.lora_B["default"].weight.data)
    assert (b @ a).abs().max() < 1e-5


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bits", [4, 16])
def test_what_is_handed_over_is_right_on_the_published_base(name, bits, tmp_path):
    from peft import PeftModel

    model = quantized() if bits == 4 else sixteen_bits()
    attach_lora(model, LoraConfig(init_lora_weights=name, use_rslora=bits == 16, **SETTINGS))
    layers = adapter_layers(model)
    start = {n: layer.scaling * (layer.lora_B @ layer.lora_A).detach() for n, layer in layers.items()}
    for parameter in adapter_parameters(model).values():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    plain = sixteen_bits()
    for n, layer in layers.items():
        learned = layer.scaling * (layer.lora_B @ layer.lora_A).detach() - start[n]
        plain.get_parameter(f"{n}.weight").data.add_(learned)
    save_adapter(model, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = PeftModel.from_pretrained(sixteen_bits(), tmp_path)
    ids = torch.randint(500, (1, 9))
    torch.testing.assert_close(theirs(input_ids=ids).logits, plain(input_ids=ids).logits, rtol=1e-4, atol=1e-4)
    if bits == 16:
        torch.testing.assert_close(model(input_ids=ids).logits, plain(input_ids=ids).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_going_on_from_a_checkpoint_the_base_has_the_same_bits(name, tmp_path):
    model = attach_lora(quantized(), LoraConfig(init_lora_weights=name, loftq_iter=2, **SETTINGS))
    save_trained(model, tmp_path, base=None, provenance=provenance_of(model))
    fresh = load_trained(quantized(), tmp_path)
    for module, layer in adapter_layers(fresh).items():
        ours = adapter_layers(model)[module]
        assert same_base(layer, ours) and torch.equal(layer.lora_A, ours.lora_A) and layer.start == ours.start
    again = adapter_layers(load_trained(fresh, tmp_path))
    assert all(same_base(layer, again[module]) for module, layer in adapter_layers(model).items())
    (tmp_path / STARTS).unlink()
    with pytest.raises(AdapterError, match=STARTS):
        load_trained(quantized(), tmp_path)


def same_base(one: Any, other: Any) -> bool:
    return all(torch.equal(getattr(one.base_layer, n), getattr(other.base_layer, n)) for n in ("codes", "scales"))


@pytest.mark.parametrize("name", NAMES)
def test_taken_off_the_base_is_what_it_was(name):
    model = detach_lora(attach_lora(quantized(), LoraConfig(init_lora_weights=name, **SETTINGS)))
    plain = four_bits()
    for key, tensor in plain.state_dict().items():
        assert torch.equal(model.state_dict()[key], tensor)
    other = detach_lora(attach_lora(sixteen_bits(), LoraConfig(init_lora_weights=name, **SETTINGS)))
    for key, tensor in sixteen_bits().state_dict().items():
        torch.testing.assert_close(other.state_dict()[key], tensor)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"init_lora_weights": "pisa"}, "knows no 'pisa'; did you mean 'pissa'"),
        ({"init_lora_weights": False}, "known are true, gaussian"),
        ({"init_lora_weights": "pissa", "use_dora": True}, "exclude each other"),
        ({"loftq_iter": 0}, "loftq_iter"),
        ({"eva_rho": 0.5}, "eva_rho"),
    ],
)
def test_settings_that_cant_be(settings, words):
    with pytest.raises(ConfigError, match=words):
        LoraConfig(**settings)


def test_what_isnt_possible_says_so():
    with pytest.raises(AdapterError, match=r"`r` is 65 and a weight is \[64, 64\]"):
        attach_lora(sixteen_bits(), LoraConfig(init_lora_weights="pissa", r=65))
    with pytest.raises(AdapterError, match="didn't come from files that hold them"):
        attach_lora(four_bits(), LoraConfig(init_lora_weights="loftq"))
    with pytest.raises(AdapterError, match="must be even, found 3"):
        attach_lora(sixteen_bits(), LoraConfig(init_lora_weights="orthogonal", r=3))
