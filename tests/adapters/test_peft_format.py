"""PEFT loads what Quatrain saves, and the other way round, with the same logits."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from quatrain.adapters import LoraConfig, adapter_layers, adapter_parameters, attach_lora, load_adapter, save_adapter
from quatrain.adapters.stored import block_after_block
from quatrain.errors import AdapterError, OutputError


def base(folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def randomize(model):
    for parameter in adapter_parameters(model).values():
        torch.nn.init.normal_(parameter, std=0.1)
    return model


@pytest.fixture
def tokens():
    return torch.randint(3, 500, (2, 17))


CONFIGS = [
    LoraConfig(),
    LoraConfig(r=4, lora_alpha=7, use_rslora=True, target_modules=["q_proj", "down_proj"]),
    LoraConfig(r=2, layers_to_transform=[1]),
    LoraConfig(target_modules=r".*0\.self_attn\.[kv]_proj|.*1\.mlp\.up_proj"),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_peft_loads_ours(config, tiny_llama_dir, tmp_path, tokens):
    from peft import PeftModel

    ours = randomize(attach_lora(base(tiny_llama_dir), config)).eval()
    save_adapter(ours, tmp_path, base_model_name_or_path=str(tiny_llama_dir))
    theirs = PeftModel.from_pretrained(base(tiny_llama_dir), tmp_path)
    adapted = {n.removeprefix("base_model.model.") for n, m in theirs.named_modules() if hasattr(m, "base_layer")}
    assert adapted == set(adapter_layers(ours))
    torch.testing.assert_close(ours(tokens).logits, theirs(tokens).logits, rtol=1e-5, atol=1e-5)


def save_with_peft(tiny_llama_dir, folder, **settings):
    import peft

    settings = {"r": 6, "lora_alpha": 9, "target_modules": ["q_proj", "v_proj", "gate_proj"], **settings}
    model = peft.get_peft_model(base(tiny_llama_dir), peft.LoraConfig(task_type="CAUSAL_LM", **settings)).eval()
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {"q_proj": 3}, "alpha_pattern": {"v_proj": 2}},
        {"alpha_pattern": {r"layers\.0\..*q_proj": 64, r"^model\.layers\.1\.self_attn\.v_proj": 3, ".*": 1}},
        {"rank_pattern": {r"layers\.[1-9]\..*": 2}, "alpha_pattern": {"[qk]_proj": 5}, "use_rslora": True},
        {"init_lora_weights": False},
        {"init_lora_weights": "gaussian"},
        {"init_lora_weights": "orthogonal"},
        {"layers_to_transform": [1], "layers_pattern": "layers"},
        {"target_modules": "all-linear", "exclude_modules": ["o_proj"]},
    ],
)
def test_we_load_pefts_and_peft_loads_it_again(extra, tiny_llama_dir, tmp_path, tokens):
    from peft import PeftModel

    save_with_peft(tiny_llama_dir, tmp_path / "theirs", **extra)
    # Loaded anew: PEFT writes its patterns in another order than it had them, and the first that matches counts.
    theirs = PeftModel.from_pretrained(base(tiny_llama_dir), tmp_path / "theirs").eval()
    ours = load_adapter(base(tiny_llama_dir), tmp_path / "theirs")
    torch.testing.assert_close(ours(tokens).logits, theirs(tokens).logits, rtol=1e-5, atol=1e-5)
    assert not any(p.requires_grad for p in ours.parameters())
    again = PeftModel.from_pretrained(base(tiny_llama_dir), save_adapter(ours, tmp_path / "ours"))
    torch.testing.assert_close(again(tokens).logits, theirs(tokens).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_4", "olora"])
def test_a_start_that_changes_the_base_is_refused_with_pefts_remedy(start, tiny_llama_dir, tmp_path):
    save_with_peft(tiny_llama_dir, tmp_path, init_lora_weights=start)
    with pytest.raises(AdapterError, match=f"'{start}'.*path_initial_model_for_weight_conversion"):
        load_adapter(base(tiny_llama_dir), tmp_path)


def test_an_exact_key_covers_one_layer_of_two_that_end_alike(tmp_path):
    inner = torch.nn.ModuleDict({"up": torch.nn.Linear(4, 4)})
    model = torch.nn.ModuleDict({"first": torch.nn.Linear(4, 4), "up": torch.nn.Linear(4, 4), "inner": inner})
    attach_lora(model, LoraConfig(r=2))
    layers = adapter_layers(model)
    layers["up"].lora_alpha = 7
    alphas = {name: layer.lora_alpha for name, layer in layers.items()}
    save_adapter(model, tmp_path)
    for layer in layers.values():
        layer.lora_alpha = 1
    load_adapter(model, tmp_path)
    assert {name: layer.lora_alpha for name, layer in layers.items()} == alphas


def test_the_untrained_adapter_changes_no_logit(tiny_llama_dir, tokens):
    model = base(tiny_llama_dir)
    frozen = model(tokens).logits
    assert torch.equal(attach_lora(model).eval()(tokens).logits, frozen)


def test_an_attached_adapter_is_filled(tiny_llama_dir, tmp_path, tokens):
    source = randomize(attach_lora(base(tiny_llama_dir), LoraConfig(r=4, lora_alpha=3))).eval()
    save_adapter(source, tmp_path)
    target = attach_lora(base(tiny_llama_dir), LoraConfig(r=4, lora_alpha=8), seed=9).eval()
    load_adapter(target, tmp_path, trainable=True)
    assert torch.equal(source(tokens).logits, target(tokens).logits)
    assert all(p.requires_grad for p in adapter_parameters(target).values())
    smaller = attach_lora(base(tiny_llama_dir), LoraConfig(target_modules=["q_proj"], r=4))
    with pytest.raises(AdapterError, match="another adapter"):
        load_adapter(smaller, tmp_path)


@pytest.fixture
def saved(tiny_llama_dir, tmp_path):
    return save_adapter(attach_lora(base(tiny_llama_dir), LoraConfig(r=4)), tmp_path / "adapter")


def edit_config(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_tensors(folder, change):
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def rename(tensors, old, new):
    for key in [key for key in tensors if old in key]:
        tensors[key.replace(old, new)] = tensors.pop(key)


def drop(tensors, part):
    for key in [key for key in tensors if part in key]:
        del tensors[key]


def only_w(tensors):
    rename(tensors, "q_proj", "w")
    for key in [key for key in tensors if ".w." not in key]:
        del tensors[key]


ROWS = "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"
MAGNITUDE = "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector"
KEY = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / "adapter_config.json").unlink(), "no adapter_config.json"),
        (lambda f: (f / "adapter_config.json").write_text("{"), "must be a JSON file"),
        (lambda f: edit_config(f, peft_type="IA3"), "IA3"),
        (lambda f: edit_config(f, use_dora=True), "lacks a lora_magnitude_vector"),
        (lambda f: edit_tensors(f, lambda t: t.update({MAGNITUDE: torch.ones(64)})), "has a lora_magnitude_vector"),
        (
            lambda f: edit_config(f, modules_to_save=["lm_head"]),
            "no tensors of 'lm_head', one of its `modules_to_save`",
        ),
        (lambda f: edit_tensors(f, lambda t: t.update({ROWS: torch.ones(2, 64)})), "2 trained rows by its tensors"),
        (lambda f: edit_config(f, trainable_token_indices=["a"]), "numbers of rows"),
        (lambda f: edit_config(f, lora_alpha=None), "lora_alpha"),
        (lambda f: edit_config(f, lora_dropout="much"), "lora_dropout"),
        (lambda f: edit_config(f, bias="all"), "bias=all"),
        (lambda f: edit_config(f, kasa_config={"a": 1}), "kasa_config"),
        (lambda f: edit_config(f, use_bdlora={"nblocks": 2}), "use_bdlora"),
        (lambda f: edit_config(f, next_years_feature=1), "next_years_feature=1"),
        (lambda f: edit_config(f, init_lora_weights="loftq"), "loftq"),
        (lambda f: edit_config(f, init_lora_weights="mica"), "mica"),
        (lambda f: edit_config(f, alpha_pattern=[1]), "alpha_pattern"),
        (lambda f: edit_config(f, alpha_pattern={"(": 1}), "no regular expression"),
        (lambda f: edit_config(f, alpha_pattern={"q_proj": "x"}), "q_proj"),
        (lambda f: (f / "adapter_model.safetensors").unlink(), "missing"),
        (lambda f: (f / "adapter_model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}"), "damaged"),
        (lambda f: edit_tensors(f, lambda t: t.pop(KEY)), "pairs"),
        (lambda f: edit_tensors(f, lambda t: t.clear()), "empty"),
        (lambda f: edit_tensors(f, lambda t: t.update({"odd": torch.zeros(1)})), "odd"),
        (lambda f: edit_tensors(f, lambda t: t.update({KEY: torch.zeros(3, 64)})), "shapes"),
        (lambda f: edit_tensors(f, lambda t: t[KEY].fill_(float("nan"))), "finite"),
        (lambda f: edit_tensors(f, lambda t: rename(t, "q_proj", "w")), "doesn't select"),
        (lambda f: (edit_config(f, target_modules=["w"]), edit_tensors(f, only_w)), "doesn't have"),
        (lambda f: edit_tensors(f, lambda t: drop(t, "layers.1.mlp")), "no tensors for 'model.layers.1.mlp.gate_proj'"),
        (lambda f: edit_config(f, r=8), "rank 4 by its tensors and 8 by its configuration"),
        (lambda f: edit_config(f, rank_pattern={"v_proj": 2}), "v_proj has rank 4 by its tensors and 2"),
        (lambda f: edit_config(f, target_modules=3), "target_modules"),
        (lambda f: edit_config(f, target_modules="("), "no regular expression"),
        (lambda f: edit_config(f, layers_to_transform="1"), "layers_to_transform"),
        (lambda f: edit_config(f, base_model_name_or_path=1), "base_model_name_or_path"),
    ],
)
def test_a_damaged_or_foreign_adapter_is_refused_and_the_model_stays_as_it_was(damage, words, saved, tiny_llama_dir):
    damage(saved)
    model = base(tiny_llama_dir)
    with pytest.raises(AdapterError, match=words):
        load_adapter(model, saved)
    assert not adapter_layers(model)


def test_fields_of_other_releases_that_are_not_set_do_no_harm(saved, tiny_llama_dir):
    edit_config(saved, next_years_feature=None, another={}, one_more=False)
    edit_config(saved, init_lora_weights="eva", eva_config={"rho": 2.0})
    assert adapter_layers(load_adapter(base(tiny_llama_dir), saved))


def test_layers_come_block_after_block():
    names = ["h.10.q", "h.2.q", "h.2.k", "h.2.down", "up", "h.2.experts.11.w", "h.2.experts.3.w"]
    ordered = ["h.2.down", "h.2.experts.3.w", "h.2.experts.11.w", "h.2.k", "h.2.q", "h.10.q", "up"]
    assert block_after_block(names) == ordered


def test_half_a_file_is_refused(saved, tiny_llama_dir):
    path = saved / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(AdapterError, match="damaged"):
        load_adapter(base(tiny_llama_dir), saved)


@pytest.mark.parametrize("what", ["save_tensors", "write_config"])
def test_a_full_disk_leaves_what_was_there(saved, tiny_llama_dir, monkeypatch, what):
    def full(*arguments, **settings):
        raise OSError(28, "No space left on device")

    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    monkeypatch.setattr(f"quatrain.adapters.peft_format.{what}", full)
    model = randomize(attach_lora(base(tiny_llama_dir)))
    for folder in (saved, saved.parent / "new"):
        with pytest.raises(OutputError, match="No space left on device"):
            save_adapter(model, folder)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    assert list(saved.parent.iterdir()) == [saved]


def test_what_the_disk_gives_back_differently_is_not_put_in_place(saved, tiny_llama_dir, monkeypatch):
    def worn(tensors, path, metadata):
        save_file({key: tensor + 1 for key, tensor in tensors.items()}, path, metadata)

    before = (saved / "adapter_model.safetensors").read_bytes()
    monkeypatch.setattr("safetensors.torch.save_file", worn)
    with pytest.raises(OutputError, match="isn't on the disk as it was written"):
        save_adapter(attach_lora(base(tiny_llama_dir)), saved)
    assert (saved / "adapter_model.safetensors").read_bytes() == before


def test_a_run_that_has_diverged_is_saved_and_refused_when_loaded(tiny_llama_dir, tmp_path):
    model = attach_lora(base(tiny_llama_dir))
    with torch.no_grad():
        next(iter(adapter_parameters(model).values()))[0] = float("nan")
    with pytest.raises(AdapterError, match="finite"):
        load_adapter(model, save_adapter(model, tmp_path / "adapter"))


def test_saving_without_an_adapter_is_an_error(tiny_llama_dir, tmp_path):
    with pytest.raises(AdapterError, match="no adapter"):
        save_adapter(base(tiny_llama_dir), tmp_path)
