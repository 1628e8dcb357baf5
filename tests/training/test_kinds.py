"""Runs with other kinds of adapter than plain LoRA: they train, and going on from a checkpoint has the same bits."""

from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from quatrain.adapters import LoraConfig, adapter_layers
from quatrain.errors import ConfigError
from quatrain.models import load_model
from quatrain.report.wording import score
from quatrain.runlog import Evaluated, StepDone, read_events
from quatrain.training import RunConfig, train
from quatrain.training.build import build
from quatrain.training.opening import open_model
from tests.training.test_loop import raise_at_step

KINDS = {
    "dora": {"lora": {"use_dora": True, "trainable_token_indices": [5, 40]}, "loraplus_lr_ratio": 4},
    "whole": {"lora": {"modules_to_save": ["lm_head", "model.norm"]}},
    "pissa": {"lora": {"init_lora_weights": "pissa"}},
    "loftq": {"lora": {"init_lora_weights": "loftq", "loftq_iter": 2, "use_rslora": True}},
    "eva": {"lora": {"init_lora_weights": "eva"}, "per_device_train_batch_size": 4},
    "new tokens": {"lora": {"init_lora_weights": "orthogonal"}, "new_tokens": ["<sum>", "apples"]},
}


@pytest.fixture
def run_with(config_for, tmp_path):
    """Trains for four steps; keyword arguments replace settings and go to `train`."""

    def run(kind: str, name: str, **options):
        settings = dict(KINDS[kind])
        lora = LoraConfig(**{"r": 4, "lora_alpha": 8} | settings.pop("lora"))
        config: RunConfig = config_for(
            lora=lora, eval_data=None, output_dir=str(tmp_path / name), max_steps=4, **settings
        )
        return train(None, None, config, progress=False, **options)

    return run


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_and_an_interrupted_run_equals_an_uninterrupted_one(kind, run_with, tiny_llama_dir):
    whole = run_with(kind, "whole")
    first = run_with(kind, "halves", sinks=[raise_at_step(2)])
    assert (first.status, first.step) == ("interrupted", 2)
    second = run_with(kind, "halves", resume=True)
    one, two = (load_file(run.folder.adapter / "adapter_model.safetensors") for run in (whole, second))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    losses = [[e.loss for e in read_events(r.folder.events) if isinstance(e, StepDone)] for r in (whole, second)]
    assert losses[0] == losses[1] and losses[0][-1] < losses[0][0]


def test_loftq_starts_nearer_to_the_16_bit_models_loss(config_for):
    losses = {}
    for name, changes in {
        "16 bits": {"quantization": None},
        "plain": {},
        "loftq": {"lora": LoraConfig(r=16, init_lora_weights="loftq")},
    }.items():
        setup = build(config_for(**changes))
        losses[name] = float(setup.objective.loss(next(iter(setup.loader))))
    assert abs(losses["loftq"] - losses["16 bits"]) < abs(losses["plain"] - losses["16 bits"])


def test_new_tokens_are_in_what_is_handed_over(run_with):
    run = run_with("new tokens", "run")
    model, tokenizer = open_model(str(run.folder.path))
    (new,) = tokenizer.encode("<sum>", add_special_tokens=False)
    assert new == len(tokenizer) - 2 and tokenizer.decode([new]) == "<sum>"
    rows = load_file(run.folder.adapter / "adapter_model.safetensors")[
        "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"
    ]
    ids = torch.tensor([[new, new + 1]])
    assert torch.equal(model.get_input_embeddings()(ids)[0], rows)


def test_a_new_token_starts_at_the_mean_of_its_pieces(config_for, tiny_llama_dir):
    base, tokenizer = load_model(tiny_llama_dir, compute_dtype="float32", device="cpu")
    pieces = tokenizer.encode("<sum>", add_special_tokens=False)
    table: Any = base.get_input_embeddings().weight
    expected = table[pieces].mean(0)
    setup = build(config_for(new_tokens="<sum>"))
    model: Any = setup.model
    (new,) = setup.tokenizer.encode("<sum>", add_special_tokens=False)
    torch.testing.assert_close(model.get_input_embeddings()(torch.tensor(new)).detach(), expected)
    logits = model(input_ids=torch.tensor([[7]])).logits[0, 0]
    hidden = model.model(input_ids=torch.tensor([[7]])).last_hidden_state[0, 0]
    torch.testing.assert_close(logits[new], hidden @ expected)


def test_lora_plus_gives_b_and_vectors_another_rate(config_for):
    lora = LoraConfig(r=4, use_dora=True, trainable_token_indices=[3])
    setup = build(config_for(lora=lora, loraplus_lr_ratio=16.0))
    slow, fast = setup.optimizer.param_groups
    layers = adapter_layers(setup.model).values()
    assert {id(p) for p in fast["params"]} == {id(p) for m in layers for p in (m.lora_B, m.lora_magnitude_vector)}
    assert {id(m.lora_A) for m in layers} < {id(p) for p in slow["params"]}
    assert (slow["lr_ratio"], fast["lr_ratio"]) == (1.0, 16.0)


def test_pefts_loraplus_makes_the_same_groups():
    import peft
    from peft.optimizers import create_loraplus_optimizer

    from quatrain.adapters import adapter_parameters, attach_lora
    from quatrain.training.build import _groups
    from tests.adapters.bases import sixteen_bits
    from tests.adapters.test_kinds import by_our_name

    ours = attach_lora(sixteen_bits(), LoraConfig(r=4, use_dora=True, modules_to_save=["model.norm"]))
    config = peft.LoraConfig(r=4, target_modules="all-linear", use_dora=True, modules_to_save=["model.norm"])
    theirs = peft.get_peft_model(sixteen_bits(), config)
    optimizer = create_loraplus_optimizer(theirs, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=16)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    expected = {name: rates[id(p)] for name, p in by_our_name(theirs).items()}
    parameters = adapter_parameters(ours)
    names = {id(p): name for name, p in parameters.items()}
    found = {names[id(p)]: 1e-3 * g["lr_ratio"] for g in _groups(parameters, 16) for p in g["params"]}
    assert found == expected


def test_the_card_says_what_was_trained_on_what_and_to_which_loss(config_for):
    lora = LoraConfig(r=4, use_dora=True, trainable_token_indices=[3])
    run = train(None, None, config_for(lora=lora, max_steps=2), progress=False)
    card = (run.folder.adapter / "README.md").read_text()
    held_out = [e for e in read_events(run.folder.events) if isinstance(e, Evaluated) and e.loss is not None]
    before, after = (score("loss", e.loss) for e in (held_out[0], held_out[-1]) if e.loss is not None)
    for words in ("24 samples: ", "| steps | 2 |", "| use_dora | True |", f"| held-out loss | {before} | {after} |"):
        assert words in card
    assert "in four bits (nf4, blocks of 64, scales in 8 bits)" in card
    assert "1 trained row of the embedding" in card and "resize_token_embeddings" in card
    assert str(run.folder.path) not in card and str(config_for().train_data.path) not in card


def test_tokens_for_a_stored_adapter_are_refused(config_for):
    with pytest.raises(ConfigError, match="can't be added to a stored adapter"):
        config_for(new_tokens=["<a>"], adapter="some/adapter")
    with pytest.raises(ConfigError, match="an empty one"):
        build(config_for(new_tokens=[" "]))
