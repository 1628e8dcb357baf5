"""A model whose layers train on our own blocks: the same numbers in anybody's loop, and everything else as before."""

from typing import Any

import pytest
import torch

from quatrain.adapters import adapter_parameters
from quatrain.blocks import KEEP_ALL, RECOMPUTE_ALL
from quatrain.errors import ModelError
from quatrain.models.fused_layers import fuse_blocks, unfuse_blocks
from quatrain.models.streaming import stream_blocks
from quatrain.offload import Streaming
from tests.models.engine_models import VARIANTS, gradients, random_model, worst

IDS = torch.tensor([[1, 5, 9, 100, 44, 7, 2], [3, 3, 8, 120, 150, 6, 11]])


@pytest.mark.parametrize("policy", [KEEP_ALL, RECOMPUTE_ALL], ids=["keep", "recompute"])
# Gemma 2's attention is always sent a mask, because of its soft-capping: its layers run as they are.
@pytest.mark.parametrize("variant", VARIANTS.keys() - {"gemma2"})
def test_a_foreign_loop_gets_the_same_loss_and_gradients(variant, policy):
    model = random_model(variant).train()
    # Rows within the windows: beyond, transformers sends a mask, and the layer's own forward runs.
    ids = IDS[:, :3]
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    expected = gradients(model)
    ran = watch(fuse_blocks(model, policy))
    fused = model(input_ids=ids, labels=ids).loss
    fused.backward()
    assert ran
    assert fused.item() == pytest.approx(loss.item(), rel=1e-5)
    assert worst(gradients(model), expected) < 2e-4


def watch(model) -> list[int]:
    """Grows with every forward of the first block of our own."""
    ran, block = [], model.model.layers[0].fused.block
    forward = block.forward
    block.forward = lambda *args, **options: (ran.append(1), forward(*args, **options))[1]
    return ran


def test_the_blocks_run_only_where_they_fit():
    model: Any = fuse_blocks(random_model("llama"))
    ran = watch(model)
    model(input_ids=IDS, use_cache=False)
    model.train()(input_ids=IDS)
    assert len(ran) == 2
    model.eval()(input_ids=IDS)
    mask = torch.ones_like(IDS)
    mask[1, 4:] = 0
    model(input_ids=IDS, attention_mask=mask)
    with torch.no_grad():
        model(input_ids=IDS)
    model.generate(IDS, max_new_tokens=2, do_sample=False)
    assert len(ran) == 2


def test_generation_saving_and_types_stay(tmp_path):
    model: Any = random_model("llama", four_bits=False)
    kind, names = type(model.model.layers[0]), list(model.state_dict())
    answer = model.generate(IDS, max_new_tokens=4, do_sample=False)
    fuse_blocks(model)
    assert isinstance(model.model.layers[0], kind) and list(model.state_dict()) == names
    assert torch.equal(model.generate(IDS, max_new_tokens=4, do_sample=False), answer)
    assert len(model(input_ids=IDS, output_hidden_states=True).hidden_states) == 3
    unfuse_blocks(model)
    assert type(model.model.layers[0]) is kind and not hasattr(model.model.layers[0], "fused")


def test_dropout_is_drawn_anew_and_is_the_same_when_a_trainer_checkpoints():
    model: Any = fuse_blocks(random_model("llama", lora_dropout=0.4)).train()
    losses = {model(input_ids=IDS, labels=IDS).loss.item() for _ in range(3)}
    assert len(losses) == 3
    torch.manual_seed(3)
    model(input_ids=IDS, labels=IDS).loss.backward()
    once = gradients(model)
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable()
    torch.manual_seed(3)
    model(input_ids=IDS, labels=IDS).loss.backward()
    assert worst(gradients(model), once) < 1e-5


def test_a_second_backward_is_refused():
    model = fuse_blocks(random_model("llama")).train()
    loss = model(input_ids=IDS, labels=IDS).loss
    loss.backward(retain_graph=True)
    with pytest.raises(ModelError, match="backward once"):
        loss.backward()


def test_fusing_again_takes_up_other_adapters():
    from quatrain.adapters import LoraConfig, attach_lora, detach_lora

    model: Any = fuse_blocks(random_model("llama"))
    attach_lora(detach_lora(model), LoraConfig(r=3))
    fuse_blocks(model).train()
    model(input_ids=IDS, labels=IDS).loss.backward()
    assert all(parameter.grad is not None for parameter in adapter_parameters(model).values())


def test_a_streamed_model_isnt_fused():
    model = random_model("llama")
    stream_blocks(model, Streaming(host=(1,)))
    with pytest.raises(ModelError, match="streamed, which only `train` can do in time"):
        fuse_blocks(model)
