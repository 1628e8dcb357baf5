"""The LoRA layer against plain autograd, and the promises about its start."""

import pytest
import torch
from torch import nn

from quatrain.adapters import LoraConfig, LoraLinear, adapter_layers, adapter_parameters, attach_lora, detach_lora
from quatrain.errors import AdapterError, ConfigError
from quatrain.quantization import QuantizedLinear


def trained(layer: LoraLinear) -> LoraLinear:
    torch.nn.init.normal_(layer.lora_B)
    return layer


@pytest.mark.parametrize("shape", [(5, 12), (2, 3, 12), (12,)])
@pytest.mark.parametrize("rslora", [False, True])
def test_layer_computes_the_formula_and_its_gradients(shape, rslora):
    base = nn.Linear(12, 7).requires_grad_(False).double()
    layer = trained(LoraLinear(base, r=3, lora_alpha=6, use_rslora=rslora))
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    scale = 6 / (3**0.5 if rslora else 3)
    a, b = (p.detach().double().requires_grad_() for p in (layer.lora_A, layer.lora_B))
    expected = base(x) + scale * (x @ a.T @ b.T)
    upstream = torch.randn_like(expected)
    want = torch.autograd.grad(expected, (x, a, b), upstream)
    got = torch.autograd.grad(layer(x), (x, layer.lora_A, layer.lora_B), upstream)
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(got[0], want[0])
    for g, w in zip(got[1:], want[1:], strict=True):
        torch.testing.assert_close(g, w.float())


def test_masters_are_float32_and_products_run_in_the_compute_dtype():
    base = nn.Linear(64, 64, bias=False).bfloat16().requires_grad_(False)
    layer = trained(LoraLinear(base, r=4, lora_alpha=4))
    x = torch.randn(3, 64, dtype=torch.bfloat16)
    y = layer(x)
    y.float().sum().backward()
    assert y.dtype == torch.bfloat16
    assert layer.lora_A.dtype == layer.lora_A.grad.dtype == torch.float32  # pyright: ignore
    expected = base(x).float() + (x @ layer.lora_A.bfloat16().T).float() @ layer.lora_B.bfloat16().float().T
    torch.testing.assert_close(y.float(), expected, rtol=2e-2, atol=2e-2)


def test_dropout_touches_the_update_only_while_training():
    base = nn.Linear(32, 8, bias=False).requires_grad_(False)
    layer = trained(LoraLinear(base, r=4, lora_alpha=8, lora_dropout=0.5))
    x = torch.randn(64, 32)
    plain = base(x) + layer.scaling * x @ layer.lora_A.T @ layer.lora_B.T
    torch.testing.assert_close(layer.eval()(x), plain)
    torch.manual_seed(1)
    dropped = layer.train()(x)
    torch.manual_seed(1)
    mask = nn.functional.dropout(torch.ones_like(x), 0.5)
    torch.testing.assert_close(dropped, base(x) + layer.scaling * (x * mask) @ layer.lora_A.T @ layer.lora_B.T)
    mean = torch.stack([layer(x) for _ in range(400)]).mean(0)
    assert (mean - plain).abs().mean() < 0.1 * (plain - base(x)).abs().mean()


def small_model() -> nn.Module:
    def block() -> nn.Module:
        return nn.ModuleDict({"q_proj": nn.Linear(8, 8), "v_proj": nn.Linear(8, 4), "norm": nn.LayerNorm(8)})

    return nn.ModuleDict({"layers": nn.ModuleList(block() for _ in range(3)), "other": nn.Linear(8, 8)})


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (LoraConfig(), 7),
        (LoraConfig(target_modules=["q_proj"]), 3),
        (LoraConfig(target_modules=["q_proj", "other"]), 4),
        (LoraConfig(target_modules="q_proj"), 3),
        (LoraConfig(target_modules="q_proj, other"), 4),
        (LoraConfig(target_modules="1.q_proj,layers.2.v_proj"), 2),
        (LoraConfig(target_modules=".*q_proj"), 3),
        (LoraConfig(target_modules=r"layers\.[12]\.v_proj"), 2),
        (LoraConfig(target_modules=["layers.1.q_proj"]), 1),
        (LoraConfig(layers_to_transform="0-1"), 4),
        (LoraConfig(layers_to_transform=[2], target_modules=["v_proj"]), 1),
    ],
)
def test_targets(config, expected):
    assert len(adapter_layers(attach_lora(small_model(), config))) == expected


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (LoraConfig(target_modules=["qproj"]), ["qproj", "q_proj, v_proj, other", "Did you mean q_proj"]),
        (LoraConfig(target_modules=["q_proj", "zzz"]), ["zzz"]),
        (LoraConfig(target_modules="layers.*gate"), ["gate", "all-linear"]),
        (LoraConfig(target_modules="("), ["regular expression"]),
        (LoraConfig(layers_to_transform=[7]), ["[7]", "0–2"]),
    ],
)
def test_a_target_that_matches_nothing_says_what_it_could_have_been(config, words):
    with pytest.raises(AdapterError) as error:
        attach_lora(small_model(), config)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    "bad",
    [{"r": 0}, {"lora_alpha": 0}, {"lora_dropout": 1.0}, {"target_modules": []}]
    + [{"layers_to_transform": layers} for layers in ("a-b", "5-2", "0,3-1", "", [], ())],
)
def test_impossible_settings_are_refused(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        LoraConfig(**bad)


class Router(nn.Linear):
    """An expert router: a linear by class, but what comes out are choices."""

    def forward(self, input):
        return super().forward(input).topk(1)


def test_all_linear_leaves_alone_what_is_a_linear_by_class_only():
    model = small_model()
    model.add_module("router", Router(8, 4))
    assert "router" not in adapter_layers(attach_lora(model))
    with pytest.raises(AdapterError, match="matched no layer"):
        attach_lora(detach_lora(model), LoraConfig(target_modules=["router"]))


def test_only_the_adapter_is_trained_and_it_comes_off_again():
    model = small_model()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    attach_lora(model, seed=3)
    trainable = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trainable == set(adapter_parameters(model))
    with pytest.raises(AdapterError, match="already carries"):
        attach_lora(model)
    after = detach_lora(model).state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[k], before[k]) for k in before)


def test_the_seed_alone_decides_the_start():
    torch.manual_seed(0)
    one = adapter_parameters(attach_lora(small_model(), seed=5))
    torch.manual_seed(1)
    two = adapter_parameters(attach_lora(small_model(), seed=5))
    other = adapter_parameters(attach_lora(small_model(), seed=6))
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert not any(torch.equal(one[k], other[k]) for k in one if k.endswith("lora_A"))


@pytest.mark.parametrize("bias", [False, True])
def test_a_young_adapters_update_is_not_lost_in_rounding(bias: bool):
    """In bfloat16 an update far smaller than the product must come through: their sum is rounded once."""
    linear = torch.nn.Linear(256, 384, bias=bias).to(torch.bfloat16)
    layer = LoraLinear(QuantizedLinear.from_linear(linear), r=8, lora_alpha=16)
    torch.nn.init.uniform_(layer.lora_B, -1e-4, 1e-4)
    x = torch.randn(512, 256).bfloat16()
    weight, wide = layer.weight.double(), x.double()
    product = wide @ weight.T + (layer.bias.double() if layer.bias is not None else 0)
    update = layer.scaling * (wide @ layer.lora_A.double().T) @ layer.lora_B.double().T
    found = layer(x).double() - product
    come_through = (found * update).sum() / update.square().sum()
    assert come_through.item() == pytest.approx(1, abs=0.1)
