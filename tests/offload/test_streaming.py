"""Streamed blocks compute what resident ones do, to the bit, from host memory and from disk, on a CPU and on a GPU."""

import copy
import gc
import os
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import pytest
import torch

from quatrain.adapters import LoraConfig, adapter_parameters, attach_lora, detach_lora
from quatrain.blocks import KEEP_ALL, OFFLOAD, RECOMPUTE_ALL, Policy
from quatrain.errors import ConfigError, DeviceError, ModelError, QuantizationError
from quatrain.models.agreement import check_agreement
from quatrain.models.engine import Engine
from quatrain.models.streaming import stream_blocks, streamed_weights
from quatrain.offload import Streaming
from quatrain.offload.disk import DiskTier
from quatrain.offload.tier import Tier
from quatrain.optim import AdamW
from quatrain.quantization import QuantizedModule, quantize_4bit
from tests.models.engine_models import batch_of, gradients, random_model, samples

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
BLOCKS = 5
WAYS = {
    "all on the host": Streaming(host=tuple(range(BLOCKS))),
    "some, in three slots": Streaming(host=(0, 2, 3), slots=3),
    "more slots than blocks": Streaming(host=(1, 4), slots=4),
    "all on disk": Streaming(disk=tuple(range(BLOCKS))),
    "everywhere": Streaming(host=(0, 3), disk=(1, 4), slots=2),
}


@pytest.fixture
def small_pieces(monkeypatch):
    """Blobs of the tests are a few kilobytes; they are read in many pieces all the same."""
    monkeypatch.setattr("quatrain.offload.disk.PIECE", 1000)


def mixed(index: int) -> Policy:
    return [KEEP_ALL, OFFLOAD, RECOMPUTE_ALL][index % 3]


def losses_and_gradients(model) -> list:
    """Of two micro-batches and an evaluation between them, under a policy for each block."""
    engine, found = Engine(model), []
    check_agreement(engine)
    engine.set_policy(mixed)
    for lengths in ((5, 11, 3), (8, 1, 20)):
        batch = batch_of(samples(lengths=lengths))
        found += [engine.accumulate(batch).item(), gradients(model), engine.loss(batch).item()]
    return found


def assert_equal(found: list, expected: list) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        if isinstance(ours, dict):
            assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
        else:
            assert ours == theirs


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("way", WAYS)
def test_streamed_blocks_give_the_bits_of_resident_ones(way, device, tmp_path, small_pieces):
    model = random_model("llama", blocks=BLOCKS, device=device)
    expected = losses_and_gradients(copy.deepcopy(model))
    before = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
    streaming = WAYS[way]
    stream_blocks(model, Streaming(host=streaming.host, disk=streaming.disk, slots=streaming.slots, folder=tmp_path))
    assert all(torch.equal(before[name], tensor.cpu()) for name, tensor in model.state_dict().items())
    assert_equal(losses_and_gradients(model), expected)
    lodged = {m.codes.device.type for m in model.modules() if isinstance(m, QuantizedModule) and m.is_lodged}
    assert lodged == {"cpu"}


@pytest.mark.parametrize("device", DEVICES)
def test_the_models_own_layers_fetch_what_is_lodged(device):
    model = random_model("qwen2", blocks=2, device=device, four_bits=True)
    ids = torch.arange(12, device=device)[None]
    expected = model(input_ids=ids).logits
    stream_blocks(model, Streaming(host=(0, 1)))
    model.to(device)
    logits = model(input_ids=ids).logits
    assert torch.equal(logits, expected)
    logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("lodged_first", [True, False])
def test_nothing_but_the_copies_touches_what_is_lodged(lodged_first):
    """A device split on one device: what the modules hold becomes meta tensors, which nobody can compute with."""
    expected = random_model("llama-bias", blocks=4)
    model = detach_lora(copy.deepcopy(expected))
    if not lodged_first:
        model = copy.deepcopy(expected)
    stream_blocks(model, Streaming(host=(0, 1, 3)))
    for module in model.modules():
        if isinstance(module, QuantizedModule) and module.is_lodged:
            module._point_to(module.quantized.to("meta"))
    model.to("cpu")
    if lodged_first:
        attach_lora(model, LoraConfig(r=4, lora_alpha=6))
        for ours, theirs in zip(adapter_parameters(model).values(), adapter_parameters(expected).values(), strict=True):
            assert ours.device.type == "cpu"
            ours.data.copy_(theirs)
    batch, found = batch_of(samples()), []
    for each in (model, expected):
        engine = Engine(each)
        engine.set_policy(mixed)
        loss = engine.accumulate(batch).item()
        optimizer = AdamW(list(adapter_parameters(each).values()), lr=0.1)
        found.append([loss, gradients(each), engine.loss(batch).item()])
        optimizer.step()
    assert_equal(*found)


def test_what_is_put_into_a_lodged_weight_reaches_its_blob():
    model = random_model("llama")
    stream_blocks(model, Streaming(host=(0, 1)))
    changed = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name, tensor in changed.items():
        if "down_proj" in name and tensor.dtype == torch.uint8 and name.endswith("weight"):
            changed[name] = tensor.flip(0)
    before = Engine(model).loss(batch_of(samples())).item()
    model.load_state_dict(changed)
    after = Engine(model).loss(batch_of(samples())).item()
    assert after != before
    with pytest.raises(QuantizationError, match="must stay nf4 in blocks of 64"):
        module = model.model.layers[0].mlp.down_proj.base_layer
        module.hold(quantize_4bit(module.weight, "fp4"))


class Watched(Tier):
    """A tier that notes what is sent."""

    def __init__(self, tier):
        self.tier, self.sent = tier, []

    def room(self, nbytes):
        return self.tier.room(nbytes)

    def send(self, blob, slot, free):
        self.sent.append((blob.data_ptr(), slot.data_ptr()))
        return self.tier.send(blob, slot, free)


def test_around_a_turn_nothing_is_copied_twice():
    """Two slots and four streamed blocks: each pass copies the two that aren't there from the last one."""
    model = random_model("llama", blocks=4)
    stream_blocks(model, Streaming(host=(0, 1, 2, 3)))
    weights = streamed_weights(model)
    assert weights is not None
    watched = Watched(weights._host)
    for index, blob in weights._blobs.items():
        weights._blobs[index] = blob._replace(tier=watched)
    engine, batch = Engine(model), batch_of(samples())
    engine.accumulate(batch)
    assert len(watched.sent) == 4 + 2
    watched.sent.clear()
    engine.accumulate(batch)
    assert len(watched.sent) == 2 + 2


def test_blocks_that_reside_are_streamed_no_more_until_they_are_let_go():
    model = random_model("llama", blocks=4)
    expected = losses_and_gradients(copy.deepcopy(model))
    stream_blocks(model, Streaming(host=(0, 1, 2, 3)))
    weights = streamed_weights(model)
    assert weights is not None
    for resident in ((1, 2), (0, 1, 2, 3), ()):
        weights.reside(resident)
        assert_equal(losses_and_gradients(model), expected)
        assert set(weights._resident) == set(resident)


def test_copies_of_blocks_that_reside_no_more_are_gone():
    """Not even the block that ran last holds on to them."""
    model, batch = random_model("llama", blocks=3), batch_of(samples())
    stream_blocks(model, Streaming(host=(0, 1, 2)))
    weights, engine = streamed_weights(model), Engine(model)
    assert weights is not None
    weights.reside((0, 1, 2))
    engine.accumulate(batch)
    copies = [weakref.ref(next(iter(handed.values())).codes) for handed in weights._resident.values()]
    weights.reside(())
    assert [copy() is None for copy in copies].count(False) <= 1, "only the block at work has its weights"
    engine.abandon()
    assert all(copy() is None for copy in copies)


def test_what_was_sent_for_in_vain_doesnt_arrive_over_what_came_instead(tmp_path, small_pieces):
    """Whoever breaks off and starts elsewhere finds the right weights, though others are still being read."""
    model = random_model("llama", blocks=BLOCKS)
    stream_blocks(model, Streaming(disk=tuple(range(BLOCKS)), folder=tmp_path))
    weights, layers = streamed_weights(model), model.model.layers
    assert weights is not None
    order = torch.randint(BLOCKS, (60,), generator=torch.Generator().manual_seed(0)).tolist()
    for index in order:
        handed = weights.hand(index, [(index + step) % BLOCKS for step in (1, 2, 3)])
        linear = layers[index].mlp.down_proj.base_layer
        assert torch.equal(handed[linear].codes, linear.codes)


def test_what_cant_be_streamed_is_said():
    with pytest.raises(ConfigError, match="at least 2 slots, got 1"):
        Streaming(slots=1)
    with pytest.raises(ConfigError, match="not both; block 3 is"):
        Streaming(host=(1, 3), disk=(3,))
    with pytest.raises(ModelError, match="among the model's 2; there is no 2"):
        stream_blocks(random_model("llama"), Streaming(host=(1, 2)))
    with pytest.raises(ModelError, match=r"Only 4-bit weights are streamed; model\.layers\.1 has none"):
        stream_blocks(random_model("llama", four_bits=False), Streaming(host=(1,)))


def test_a_disk_that_is_full_or_missing_is_an_error_in_a_line(tmp_path, monkeypatch):
    with pytest.raises(DeviceError, match=r"must fit into a file in .*nowhere: No such file"):
        DiskTier(torch.device("cpu"), tmp_path / "nowhere")
    tier = DiskTier(torch.device("cpu"), tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DeviceError, match="No space left on device"):
        tier.room(100)


def test_a_file_that_was_cut_short_is_an_error_where_its_block_is_handed_out(tmp_path):
    model = random_model("llama", blocks=3)
    stream_blocks(model, Streaming(disk=(1,), folder=tmp_path))
    weights = streamed_weights(model)
    assert weights is not None and weights._disk is not None
    os.ftruncate(weights._disk._file.fileno(), 10)
    with pytest.raises(DeviceError, match="must be whole; their file was cut short"):
        Engine(model).accumulate(batch_of(samples()))


def test_the_file_has_no_name_and_the_threads_end_with_the_model(tmp_path):
    model = random_model("llama", blocks=2)
    stream_blocks(model, Streaming(disk=(0, 1), folder=tmp_path))
    Engine(model).accumulate(batch_of(samples()))
    assert not list(tmp_path.iterdir())
    assert any(thread.name.startswith("quatrain-stream") for thread in threading.enumerate())
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("quatrain-stream")]
    del model
    gc.collect()
    for thread in threads:
        thread.join(timeout=10)
    assert not any(thread.is_alive() for thread in threads)


_KILLED = """
import os, signal, sys, torch
from pathlib import Path
from quatrain.models.streaming import stream_blocks
from quatrain.offload import Streaming
from quatrain.models.engine import Engine
from tests.models.engine_models import batch_of, random_model, samples
model = random_model("llama", device=sys.argv[2])
stream_blocks(model, Streaming(host=(0,), disk=(1,), folder=Path(sys.argv[1])))
engine = Engine(model)
engine.accumulate(batch_of(samples()))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.gpu
@pytest.mark.parametrize("device", ["cuda"])
def test_a_killed_process_leaves_nothing(tmp_path: Path, device):
    code = subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path), device], cwd=Path.cwd()).returncode
    assert code == -9 and not list(tmp_path.iterdir())


@pytest.mark.gpu
def test_streaming_takes_the_slots_only_and_never_waits_for_the_gpu():
    model = random_model("llama", blocks=8, device="cuda", dtype=torch.bfloat16)
    stream_blocks(model, Streaming(host=tuple(range(8))))
    weights, engine, batch = streamed_weights(model), Engine(model), batch_of(samples())
    assert weights is not None
    for _ in range(2):
        engine.accumulate(batch)
    assert all(blob.bytes.is_pinned() for blob in weights._blobs.values())
    assert weights._ring is not None and len(weights._ring) == 2
    torch.cuda.set_sync_debug_mode("error")
    try:
        for index in range(8):
            weights.hand(index, range(index + 1, 8))
    finally:
        torch.cuda.set_sync_debug_mode("default")
