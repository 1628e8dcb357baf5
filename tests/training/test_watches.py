"""Jumps of the loss and adapters that don't learn are noticed once, and nothing else is."""

import pytest
import torch
from torch import nn

from quatrain.adapters import LoraConfig, adapter_parameters, attach_lora
from quatrain.models import load_model
from quatrain.runlog import Noted, read_events
from quatrain.training import train
from quatrain.training.adapter_watch import AdapterWatch
from quatrain.training.loss_watch import LossWatch


def noted(losses: list[float]) -> list[tuple[int, str]]:
    watch = LossWatch()
    found = [(number, watch.note(loss)) for number, loss in enumerate(losses)]
    return [(number, said) for number, said in found if said is not None]


def noisy(count: int, level: float) -> list[float]:
    return (level + 0.1 * torch.randn(count, generator=torch.Generator().manual_seed(0))).tolist()


def test_a_jump_is_said_once_until_the_loss_is_back():
    losses = [*noisy(40, 2.0), 4.0, 4.1, 4.0, *noisy(10, 2.0), 5.0]
    first, second = noted(losses)
    assert first[0] == 40 and "jumped to 4.000" in first[1] and "about 1.991" in first[1]
    assert second[0] == 53


@pytest.mark.parametrize(
    "losses",
    [noisy(500, 2.0), [3.0 - 0.01 * i for i in range(200)], [9.0, *[1.0] * 99], [2.0, 8.0] * 8, [1.0] * 50 + [1.4]],
    ids=["noise", "falling", "a high start", "before enough is known", "less than half a nat"],
)
def test_what_is_usual_is_no_jump(losses):
    assert noted(losses) == []


def test_a_loss_that_stays_up_is_said_once():
    assert len(noted([*noisy(64, 2.0), *noisy(200, 6.0)])) == 1


def parameters() -> dict[str, nn.Parameter]:
    names = [f"{layer}.{half}" for layer in ("one", "two", "three") for half in ("lora_A", "lora_B")]
    return {name: nn.Parameter(torch.ones(2, 2)) for name in names}


def set_gradients(named: dict[str, nn.Parameter], **alive: float) -> None:
    for name, parameter in named.items():
        value = alive.get(name.partition(".")[0])
        parameter.grad = None if value is None else torch.full((2, 2), value)


def findings(named, watch: AdapterWatch, steps: range, **alive: float) -> list[str]:
    found = []
    for step in steps:
        set_gradients(named, **alive)
        if watch.is_due(step):
            watch.look(list(named.values()))
        found += watch.findings(step)
    return found


def test_who_got_no_gradient_in_ten_steps_is_named_once():
    named = parameters()
    watch = AdapterWatch(named, first=1, last=100)
    (said,) = findings(named, watch, range(1, 101), one=1.0, two=0.0)
    assert said.startswith("2 of 3 adapted modules got no gradient in the steps up to 10") and "(two, three)" in said


def test_one_gradient_of_one_half_is_enough():
    named = parameters()
    watch = AdapterWatch(named, first=1, last=10)
    set_gradients(named, one=1.0, two=1.0)
    named["three.lora_B"].grad = torch.ones(2, 2)
    watch.look(list(named.values()))
    assert watch.findings(10) == []


def test_who_dies_later_is_named_then():
    named = parameters()
    watch = AdapterWatch(named, first=1, last=200)
    assert findings(named, watch, range(1, 51), one=1.0, two=1.0, three=1.0) == []
    (said,) = findings(named, watch, range(51, 201), one=1.0, two=1.0)
    assert "1 of 3" in said and "up to 100" in said and "(three)" in said


def test_a_product_of_zero_is_named():
    named = parameters()
    named["two.lora_B"].data.zero_()
    (said,) = findings(named, AdapterWatch(named, first=1, last=3), range(1, 4), one=1.0, two=1.0, three=1.0)
    assert said == "1 of 3 adapted modules are zero after step 3: they add nothing (two)"


def test_a_run_that_is_resumed_within_the_ten_steps_says_nothing_of_them():
    named = parameters()
    assert findings(named, AdapterWatch(named, first=5, last=50), range(5, 20), one=1.0) == []


def test_steps_that_are_looked_at_are_few():
    named = parameters()
    watch = AdapterWatch(named, first=1, last=20_000)
    assert sum(watch.is_due(step) for step in range(1, 20_001)) == 10 * 5


def test_a_run_names_a_linear_that_nothing_depends_on(config_for, tiny_llama_dir):
    model, tokenizer = load_model(tiny_llama_dir, compute_dtype="float32", device="cpu")
    attach_lora(model, LoraConfig(r=2))
    # What it gives is thrown away, so no gradient comes back.
    model.model.layers[1].self_attn.q_proj.register_forward_hook(lambda module, given, result: result.detach())
    folder = train(model, tokenizer, config_for(max_steps=2, eval_data=None), progress=False).folder
    (said,) = [e.message for e in read_events(folder.events) if isinstance(e, Noted)]
    assert said.startswith("1 of 14 adapted modules got no gradient") and "model.layers.1.self_attn.q_proj" in said
    assert len(adapter_parameters(model)) == 28
