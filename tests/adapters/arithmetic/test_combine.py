"""Combining adapters: PEFT's `add_weighted_adapter` on the same folders, and the identities."""

from typing import Any

import pytest
import torch
from torch import nn

from quatrain.adapters import load_adapter, read_adapter
from quatrain.adapters.arithmetic import COMBINATION_TYPES, combine_adapters
from quatrain.errors import AdapterError, ConfigError, OutputError
from tests.adapters.arithmetic.folders import base, trained

DROPPING = {name for name, method in COMBINATION_TYPES.items() if method.drop != "nothing"}
OF_ONE_RANK = {name for name, method in COMBINATION_TYPES.items() if method.where == "halves"}


def deltas(folder):
    return {name: layer.delta() for name, layer in read_adapter(folder).layers.items()}


def of_peft(folders, weights, seed=0, **settings):
    """The updates that PEFT makes of the same folders, with its draws from a generator of this seed."""
    from peft import LoraConfig, PeftModel
    from peft.tuners.lora import LoraLayer

    config = LoraConfig.from_pretrained(folders[0])
    config.task_type = None  # pyright: ignore[reportAttributeAccessIssue]
    model = PeftModel.from_pretrained(base(), folders[0], adapter_name="0", config=config)  # pyright: ignore
    for number, folder in enumerate(folders[1:], start=1):
        model.load_adapter(folder, adapter_name=str(number))
    generator, bernoulli = torch.Generator().manual_seed(seed), torch.bernoulli
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "bernoulli", lambda chances: bernoulli(chances, generator=generator))
        model.add_weighted_adapter([str(i) for i in range(len(folders))], weights, "all", **settings)
    return {
        name.removeprefix("base_model.model."): module.get_delta_weight("all")  # pyright: ignore
        for name, module in model.named_modules()
        if isinstance(module, LoraLayer) and "all" in module.lora_A
    }


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name in found:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("weights", [[0.7, 0.4, 1.1], [1.0, -0.6, 0.3]])
@pytest.mark.parametrize("name", COMBINATION_TYPES)
def test_every_method_is_pefts(name, weights, tmp_path):
    folders = [trained(tmp_path / str(i), lora_alpha=4 + i) for i in range(3)]
    settings: dict[str, Any] = {"combination_type": name} | ({"density": 0.6} if name in DROPPING else {})
    expected = of_peft(folders, weights, seed=5, **settings)
    result = combine_adapters(folders, weights, tmp_path / "out", seed=5, **settings)
    assert_same(deltas(tmp_path / "out"), expected)
    assert name != "cat" or result.relative_distance < 1e-6


@pytest.mark.parametrize("name", [name for name, method in COMBINATION_TYPES.items() if method.elect])
def test_the_majority_by_count_is_pefts(name, tmp_path):
    folders = [trained(tmp_path / str(i)) for i in range(3)]
    settings: dict[str, Any] = {"combination_type": name, "density": 0.7, "majority_sign_method": "frequency"}
    expected = of_peft(folders, [1.0, 2.0, -1.0], seed=1, **settings)
    combine_adapters(folders, [1.0, 2.0, -1.0], tmp_path / "out", seed=1, **settings)
    assert_same(deltas(tmp_path / "out"), expected)


@pytest.mark.parametrize("name", COMBINATION_TYPES.keys() - OF_ONE_RANK)
def test_other_ranks_and_targets_combine_as_in_peft(name, tmp_path):
    folders = [
        trained(tmp_path / "0", r=2, target_modules=["q"]),
        trained(tmp_path / "1", r=5),
        trained(tmp_path / "2", r=3, target_modules=["k"]),
    ]
    settings: dict[str, Any] = {"combination_type": name} | ({"density": 0.5} if name in DROPPING else {})
    expected = of_peft(folders, [1.0, 0.5, -0.25], seed=2, **settings)
    combine_adapters(folders, [1.0, 0.5, -0.25], tmp_path / "out", seed=2, **settings)
    assert_same(deltas(tmp_path / "out"), expected)
    assert load_adapter(base(), tmp_path / "out")


def test_a_rank_of_ones_own_is_pefts_best(tmp_path):
    folders = [trained(tmp_path / str(i)) for i in range(2)]
    settings: dict[str, Any] = {"combination_type": "svd", "svd_rank": 3}
    expected = of_peft(folders, [1.0, 1.0], **settings)
    result = combine_adapters(folders, [1.0, 1.0], tmp_path / "out", **settings)
    assert_same(deltas(tmp_path / "out"), expected)
    exact = {name: deltas(folders[0])[name] + deltas(folders[1])[name] for name in expected}
    lost = sum((exact[name] - expected[name]).norm() ** 2 for name in exact) ** 0.5
    assert result.distance == pytest.approx(float(lost), rel=1e-4)
    assert 0 < result.relative_distance < 1 and "%" in str(result)


@pytest.mark.parametrize("name", COMBINATION_TYPES)
def test_one_adapter_with_weight_1_stays_as_it_is(name, tmp_path):
    folder = trained(tmp_path / "one", use_rslora=True)
    settings: dict[str, Any] = {"density": 0.5} if name in DROPPING else {}
    combine_adapters([folder], [1.0], tmp_path / "out", combination_type=name, **settings)
    before, after = read_adapter(folder).layers, read_adapter(tmp_path / "out").layers
    for name in before:
        assert torch.equal(before[name].a_RI, after[name].a_RI) and torch.equal(before[name].b_OR, after[name].b_OR)
        assert before[name].scaling == after[name].scaling


@pytest.mark.parametrize("name", ["linear", "cat", "svd"])
def test_an_adapter_less_itself_is_the_base(name, tmp_path):
    folder = trained(tmp_path / "one")
    result = combine_adapters([folder, folder], [1.0, -1.0], tmp_path / "out", combination_type=name)
    x = torch.randn(3, 24)
    plain, adapted = base(), load_adapter(base(), tmp_path / "out")
    for name, linear in plain.named_modules():
        if isinstance(linear, nn.Linear):
            torch.testing.assert_close(adapted.get_submodule(name)(x), linear(x), rtol=0, atol=1e-5)
    assert result.cancels and result.relative_distance < 1e-6 and "the result is the base" in str(result)


def test_where_peft_forgets_the_scale_of_rslora(tmp_path):
    """PEFT hands `use_rslora` on to a result that holds its scale in A and B already."""
    folders = [trained(tmp_path / str(i), use_rslora=True) for i in range(2)]
    settings: dict[str, Any] = {"combination_type": "cat"}
    theirs = of_peft(folders, [1.0, 1.0], **settings)
    combine_adapters(folders, [1.0, 1.0], tmp_path / "out", **settings)
    assert_same({name: delta * 8**0.5 for name, delta in deltas(tmp_path / "out").items()}, theirs)


def test_weights_scale_and_rslora_counts(tmp_path):
    folders = [trained(tmp_path / "0", use_rslora=True), trained(tmp_path / "1", r=2)]
    combine_adapters(folders, [2.0, -0.5], tmp_path / "out", combination_type="cat")
    one, other = map(deltas, folders)
    assert_same(deltas(tmp_path / "out"), {name: 2 * one[name] - 0.5 * other[name] for name in one})


def test_peft_and_its_selection_find_the_layers_of_the_result(tmp_path):
    folders = [
        trained(tmp_path / "0", layers_to_transform=[1]),
        trained(tmp_path / "1", target_modules=["q"]),
    ]
    combine_adapters(folders, [1.0, 1.0], tmp_path / "out", combination_type="cat")
    expected = {f"layers.{i}.{name}" for i, name in [(0, "q"), (1, "q"), (1, "k")]}
    assert of_peft([tmp_path / "out"], [1.0]).keys() == expected == deltas(tmp_path / "out").keys()


def test_what_it_was_made_of_is_told(tmp_path):
    folders = [trained(tmp_path / name) for name in ("math/adapter", "code")]
    seen = []
    settings: dict[str, Any] = {"combination_type": "linear", "progress": lambda *at: seen.append(at)}
    combine_adapters(folders, [1.0, -0.5], tmp_path / "out", **settings)
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    provenance = read_adapter(tmp_path / "out").provenance
    assert provenance is not None and provenance.made == "combined by linear from 1 × math, -0.5 × code"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"combination_type": "slerp"}, "slerp"),
        ({"combination_type": "ties"}, "density"),
        ({"combination_type": "ties", "density": 0.0}, "density"),
        ({"combination_type": "ties", "density": 1.5}, "density"),
        ({"combination_type": "linear", "density": 0.5}, "keeps all"),
        ({"combination_type": "cat", "svd_rank": 4}, "svd_rank"),
        ({"svd_rank": 0}, "svd_rank"),
        ({"combination_type": "ties", "density": 0.5, "majority_sign_method": "loudest"}, "loudest"),
        ({"weights": [1.0]}, "one weight"),
        ({"weights": [1.0, float("nan")]}, "finite"),
        ({"adapters": [], "weights": []}, "one weight"),
    ],
)
def test_settings_that_contradict_each_other(settings, words, tmp_path):
    folders = [trained(tmp_path / str(i)) for i in range(2)]
    given: dict[str, Any] = {"adapters": folders, "weights": [1.0, 1.0], "out": tmp_path / "out"}
    with pytest.raises(ConfigError, match=words):
        combine_adapters(**given | settings)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", sorted(OF_ONE_RANK))
def test_other_ranks_need_a_method_that_takes_them(name, tmp_path):
    folders = [trained(tmp_path / "0"), trained(tmp_path / "1", r=2)]
    settings: dict[str, Any] = {"density": 0.5} if name in DROPPING else {}
    with pytest.raises(AdapterError, match=r"one rank.*\[2, 4\].*'cat'"):
        combine_adapters(folders, [1.0, 1.0], tmp_path / "out", combination_type=name, **settings)
    assert not (tmp_path / "out").exists()


def test_a_result_is_never_written_over_something(tmp_path):
    folder = trained(tmp_path / "one")
    with pytest.raises(OutputError, match="holds something"):
        combine_adapters([folder], [2.0], folder)


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    folder = trained(tmp_path / "one")

    def full(*arguments, **settings):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("quatrain.adapters.peft_format.save_tensors", full)
    with pytest.raises(OutputError, match="No space left"):
        combine_adapters([folder, folder], [1.0, 1.0], tmp_path / "out")
    assert list(tmp_path.iterdir()) == [folder]
