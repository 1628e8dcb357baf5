"""Finding files: folders, hub names, and what isn't trusted."""

import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from quatrain.errors import ModelError
from quatrain.models import load_model, load_tokenizer


def test_a_hub_name_is_downloaded_without_pickles(tiny_llama_dir: Path, monkeypatch):
    calls = []

    def snapshot_download(name, *, revision, allow_patterns, ignore_patterns):
        calls.append((name, revision, allow_patterns))
        return str(tiny_llama_dir)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    model, _ = load_model("some/model", revision="v1", device="cpu")
    load_tokenizer("some/model")
    assert model.config.name_or_path == "some/model"
    (name, revision, patterns), (_, _, tokenizer_patterns) = calls
    assert (name, revision) == ("some/model", "v1")
    assert "model*.safetensors" in patterns
    assert not any(pattern in patterns for pattern in ("*", "*.bin", "*.py"))
    assert "model*.safetensors" not in tokenizer_patterns


def test_the_hub_says_no(monkeypatch):
    def snapshot_download(*_, **__):
        raise LocalEntryNotFoundError("no network and nothing cached\nmore")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr("quatrain.models.hub.PAUSES_S", ())
    with pytest.raises(ModelError, match=r"no network and nothing cached\. Check"):
        load_model("some/model")


@pytest.mark.parametrize("name", ["./nowhere", "/no/where", "a/b/c", "model.gguf"])
def test_a_path_that_does_not_exist(name: str):
    with pytest.raises(ModelError, match="must exist"):
        load_model(name)


def test_a_file_that_is_no_model(tmp_path: Path):
    (tmp_path / "model.bin").write_bytes(b"x")
    with pytest.raises(ModelError, match="must be GGUF"):
        load_model(tmp_path / "model.bin")


def test_pickles_are_refused_with_a_remedy(tiny_llama_dir: Path, tmp_path: Path):
    shutil.copy(tiny_llama_dir / "config.json", tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin can run any code.*save_pretrained"):
        load_model(tmp_path)


def test_a_folder_without_weights_names_the_gguf(tiny_llama_dir: Path, tmp_path: Path):
    shutil.copy(tiny_llama_dir / "config.json", tmp_path)
    with pytest.raises(ModelError, match="has neither"):
        load_model(tmp_path)
    (tmp_path / "a.gguf").write_bytes(b"x")
    with pytest.raises(ModelError, match=r"There is a\.gguf"):
        load_model(tmp_path)


@pytest.mark.parametrize("name", ["../evil.safetensors", "/etc/evil.safetensors", "sub/evil.safetensors", "..", ""])
def test_an_index_that_points_elsewhere(tiny_llama_dir: Path, tmp_path: Path, name: str):
    folder = tmp_path / "model"
    shutil.copytree(tiny_llama_dir, folder)
    (folder / "sub").mkdir()
    for place in (folder / "sub", tmp_path):
        shutil.copy(next(folder.glob("*.safetensors")), place / "evil.safetensors")
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"][next(iter(index["weight_map"]))] = name
    path.write_text(json.dumps(index))
    with pytest.raises(ModelError, match="Don't trust"):
        load_model(folder)


def test_a_link_out_of_the_folder(tiny_llama_dir: Path, tmp_path: Path):
    shard = sorted(tiny_llama_dir.glob("*.safetensors"))[0]
    folder = tmp_path / "model"
    shutil.copytree(tiny_llama_dir, folder)
    (folder / shard.name).unlink()
    (folder / shard.name).symlink_to(shard)
    with pytest.raises(ModelError, match="outside of its folder"):
        load_model(folder)


def test_the_hub_cache_may_link_into_its_own_blobs(tiny_llama_dir: Path, tmp_path: Path):
    snapshot = tmp_path / "models--a--b" / "snapshots" / "abc"
    blobs = tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, file in enumerate(sorted(tiny_llama_dir.iterdir())):
        shutil.copy(file, blobs / str(number))
        (snapshot / file.name).symlink_to(Path("../../blobs") / str(number))
    load_model(snapshot, device="cpu")
    foreign = tmp_path / "models--c--d" / "blobs"
    foreign.mkdir(parents=True)
    shard = sorted(snapshot.glob("*.safetensors"))[0]
    shutil.move(shard.resolve(), foreign / "0")
    shard.unlink()
    shard.symlink_to(foreign / "0")
    with pytest.raises(ModelError, match="outside of its folder"):
        load_model(snapshot)


@pytest.mark.parametrize("damage", ["cut", "empty", "gone", "header"])
def test_a_damaged_shard(tiny_llama_dir: Path, tmp_path: Path, damage: str):
    folder = tmp_path / "model"
    shutil.copytree(tiny_llama_dir, folder)
    shard = sorted(folder.glob("*.safetensors"))[-1]
    content = shard.read_bytes()
    if damage == "gone":
        shard.unlink()
    else:
        shard.write_bytes({"cut": content[:-1], "empty": b"", "header": b"\xff" * 8 + content[8:]}[damage])
    with pytest.raises(ModelError, match=shard.name):
        load_model(folder)


@pytest.mark.parametrize("text", ["{", "[]", '{"weight_map": 3}', '{"weight_map": {"a": 1}}', "{}"])
def test_an_index_that_is_none(tiny_llama_dir: Path, tmp_path: Path, text: str):
    folder = tmp_path / "model"
    shutil.copytree(tiny_llama_dir, folder)
    (folder / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ModelError, match="weight_map"):
        load_model(folder)
