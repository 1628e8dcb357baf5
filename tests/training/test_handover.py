"""The adapter at the end of a run: whole at every moment, and on the disk what the model is."""

from contextlib import suppress
from dataclasses import replace

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from quatrain.adapters import LoraConfig, adapter_parameters
from quatrain.adapters.loading import stored_adapter
from quatrain.errors import AdapterError, CheckpointError
from quatrain.files import Files
from quatrain.runlog import RunFinished, RunFolder, read_events
from quatrain.training import saving, train
from quatrain.training.build import Setup, build
from quatrain.training.handover import difference, hand_over
from quatrain.training.seal import MANIFEST, flaw
from tests.training.conftest import change
from tests.training.faults import FaultyFiles, fail

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def setup(config_for) -> Setup:
    return build(config_for(max_steps=2, eval_data=None))


def test_it_is_sealed_and_peft_loads_it(folder, setup, tiny_llama_dir):
    change(setup)
    path = hand_over(folder, setup)
    assert {p.name for p in path.iterdir()} == {WEIGHTS, "adapter_config.json", "README.md", MANIFEST}
    assert flaw(path, (WEIGHTS,)) is None
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_llama_dir), path)
    ours = adapter_parameters(setup.model)["model.layers.1.mlp.up_proj.lora_B"]
    theirs = loaded.get_parameter("base_model.model.model.layers.1.mlp.up_proj.lora_B.default.weight")
    assert torch.equal(ours, theirs)


def test_wherever_the_disk_fails_the_adapter_of_before_or_the_new_one_is_there_whole(folder, setup):
    change(setup)
    hand_over(folder, setup)
    before = (folder.adapter / WEIGHTS).read_bytes()
    change(setup)
    all_points = FaultyFiles(fail)
    hand_over(folder, setup, files=all_points)
    assert len(all_points.points) > 10 and (folder.adapter / WEIGHTS).read_bytes() != before
    for point in range(len(all_points.points)):
        change(setup)
        # What fails after the new one has its name costs nothing but the removal of the old one.
        with suppress(CheckpointError):
            hand_over(folder, setup, files=FaultyFiles(fail, [point]))
        assert flaw(folder.adapter, (WEIGHTS,)) is None
        hand_over(folder, setup)
        assert [p.name for p in folder.path.iterdir()] == ["adapter"]


class WornDisk(Files):
    """Gives back another value than was written: `when` says in which operation that begins."""

    def __init__(self, when: str):
        self.when = when

    def write(self, write, *paths):
        super().write(write, *paths)
        if self.when == "written" and paths[0].name == WEIGHTS:
            tensors = load_file(paths[0])
            next(iter(tensors.values()))[0, 0] += 1
            save_file(tensors, paths[0])

    def rename(self, path, to):
        super().rename(path, to)
        if self.when == "renamed" and (to / WEIGHTS).exists():
            content = bytearray((to / WEIGHTS).read_bytes())
            content[-1] ^= 1
            (to / WEIGHTS).write_bytes(content)


@pytest.mark.parametrize(("when", "words"), [("written", "has other values"), ("renamed", "another SHA-256")])
def test_what_isnt_what_was_trained_is_no_success(config_for, monkeypatch, when, words):
    monkeypatch.setattr(saving, "save_checkpoint", lambda folder, *_, **__: folder.path)
    monkeypatch.setattr(saving, "Files", lambda: WornDisk(when))
    config = config_for(max_steps=1, eval_data=None)
    with pytest.raises(CheckpointError, match=f"isn't the one that was trained: .*{words}"):
        train(None, None, config, progress=False)
    last = read_events(RunFolder(config.output_dir).events)[-1]
    assert isinstance(last, RunFinished) and last.status == "failed"


def test_another_scale_or_start_is_a_difference(config_for):
    trained = stored_adapter(build(config_for(lora=LoraConfig(r=4, init_lora_weights="olora"))).model)
    assert "start.safetensors has" in str(difference(replace(trained, starts={}), trained))
    layers = {name: replace(layer, lora_alpha=1.0) for name, layer in trained.layers.items()}
    assert "another scale" in str(difference(replace(trained, layers=layers), trained))
    assert difference(trained, trained) is None


def test_an_adapter_that_diverged_isnt_handed_over(folder, setup):
    change(setup)
    hand_over(folder, setup)
    before = (folder.adapter / WEIGHTS).read_bytes()
    next(iter(adapter_parameters(setup.model).values())).data.fill_(float("nan"))
    with pytest.raises(AdapterError, match="aren't finite"):
        hand_over(folder, setup)
    assert (folder.adapter / WEIGHTS).read_bytes() == before
