"""What figures were measured on and with."""

import platform
import subprocess
from collections.abc import Iterable
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import torch

from benchmarks.case import Contender
from quatrain.device import name

MATTER = ("torch", "triton", "transformers", "nvidia-cudnn-frontend", "flash-attn")
"""Packages whose version may change a figure, whoever is measured."""
ROOT = Path(__file__).resolve().parent.parent


def machine(device: torch.device) -> dict[str, str]:
    facts = {"device": name(device), "python": platform.python_version()}
    if device.type == "cuda":
        facts["memory"] = f"{torch.cuda.get_device_properties(device).total_memory / 2**30:.0f} GiB"
        facts["cuda"] = str(torch.version.cuda)
    else:
        facts["threads"] = str(torch.get_num_threads())
    return facts


def versions(contender: Contender) -> dict[str, str]:
    """Installed versions of what matters to this contender; of Quatrain the commit, too, where that is known."""
    if contender.name != "quatrain":
        return _installed([*MATTER, *contender.requires])
    return _installed([*MATTER, *contender.requires, "quatrain"]) | commit_of(ROOT)


def commit_of(checkout: Path) -> dict[str, str]:
    """{"commit": its hash}; empty where the files lie outside of a checkout, or there is no git."""
    if not (checkout / ".git").exists():
        return {}
    try:
        asked = subprocess.run(
            ["git", "-C", str(checkout), "rev-parse", "--verify", "HEAD"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return {}
    return {"commit": asked.stdout.strip()}


def _installed(packages: Iterable[str]) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def missing(contender: Contender) -> list[str]:
    """The packages that this contender requires and that aren't installed. Nothing is imported."""
    return [package for package in contender.requires if find_spec(package) is None]
