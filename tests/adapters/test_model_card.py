"""The card beside an adapter: front matter that hubs accept, and no path of this machine in it."""

import pytest
from huggingface_hub import ModelCard
from torch import nn

from quatrain.adapters import LoraConfig, attach_lora, save_adapter
from quatrain.adapters.model_card import CardFacts


def saved(folder, base):
    return save_adapter(attach_lora(nn.Sequential(nn.Linear(4, 4))), folder, base_model_name_or_path=base)


def test_front_matter_names_a_base_of_the_hub(tmp_path):
    card = ModelCard.load(saved(tmp_path, "org-1/some.model-2b") / "README.md")
    assert card.data.to_dict() == {
        "base_model": "org-1/some.model-2b",
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["base_model:adapter:org-1/some.model-2b", "lora"],
    }
    assert 'from_pretrained("org-1/some.model-2b")' in card.text and 'load_model("org-1/some.model-2b")' in card.text


def test_kind_data_settings_and_losses_stand_in_it(tmp_path):
    model = nn.ModuleDict({"up": nn.Linear(4, 4), "norm": nn.LayerNorm(4)})
    attach_lora(model, LoraConfig(r=2, use_dora=True, modules_to_save=["norm"]))
    facts = CardFacts(data=("3 samples.",), settings={"r": "2"}, results={"training loss": ("2.5", "1.25")})
    card = ModelCard.load(save_adapter(model, tmp_path, facts=facts) / "README.md")
    assert card.data.to_dict()["tags"] == ["lora", "dora"]
    for words in (
        "# DoRA adapter",
        "`norm`",
        "3 samples.",
        "| r | 2 |",
        "| training loss | 2.5 | 1.25 |",
        "## Loading",
    ):
        assert words in card.text


@pytest.mark.parametrize("base", [None, "/home/me/models/base", "./models/base", "../base", "base.gguf", "a/b/c"])
def test_a_path_is_not_written(tmp_path, base):
    card = ModelCard.load(saved(tmp_path, base) / "README.md")
    assert card.data.to_dict() == {"library_name": "peft", "pipeline_tag": "text-generation", "tags": ["lora"]}
    assert base is None or base not in card.content


def test_a_folder_that_looks_like_a_hub_name_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "base").mkdir(parents=True)
    assert "models/base" not in (saved(tmp_path / "adapter", "models/base") / "README.md").read_text()


def test_a_card_that_is_there_stays(tmp_path):
    (tmp_path / "README.md").write_text("mine")
    assert (saved(tmp_path, "org/model") / "README.md").read_text() == "mine"
