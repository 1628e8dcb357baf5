"""The house's structure, checked: a package imports only lower floors, and heavy libraries stay in their rooms."""

import ast
from pathlib import Path

import pytest

import quatrain

ROOT = Path(quatrain.__file__).parent
FLOORS = {
    "plain": 0,
    "untrusted": 0,
    "errors": 0,
    "device": 0,
    "files": 0,
    "runlog": 0,
    "ops": 1,
    "quantization": 2,
    "adapters": 3,
    "optim": 3,
    "memory": 3,
    "blocks": 4,
    "offload": 4,
    "decoding": 5,
    "models": 5,
    "data": 5,
    "distributed": 5,
    "evaluation": 6,
    "report": 6,
    "training": 7,
    "exports": 8,
    "cli": 9,
    "web": 9,
}
MAY_IMPORT_TRANSFORMERS = {"models", "data", "evaluation"}
# Much uses the typed errors, whose words are made plain; everything else on a floor is a stranger to its neighbours.
SAME_FLOOR = {
    *((room, "errors") for room in ("device", "files", "runlog")),
    *(("errors", "plain"), ("runlog", "files"), ("runlog", "plain"), ("runlog", "untrusted")),
}

FILES = sorted(p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py")


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_modules(path: Path) -> set[str]:
    """Absolute names of all modules that the file imports anywhere, relative imports resolved."""
    package = ["quatrain", *path.relative_to(ROOT).parts[:-1]]
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *(node.module.split(".") if node.module else [])])
            names.add(module)
            if module == "quatrain":
                names.update(f"quatrain.{alias.name}" for alias in node.names)
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path: Path):
    room = room_of(path)
    assert room in FLOORS, f"{path} stands in a room that the floor table doesn't know"
    for name in imported_modules(path):
        parts = name.split(".")
        if parts[0] == "triton":
            assert room == "ops" and path.name == "triton.py", f"{path} imports triton"
        if parts[0] == "transformers":
            assert room in MAY_IMPORT_TRANSFORMERS, f"{path} imports transformers"
        if parts[0] != "quatrain" or len(parts) < 2 or parts[1] == room or parts[1] == "__version__":
            continue
        other = parts[1]
        assert other in FLOORS, f"{path} imports {name}"
        assert FLOORS[other] < FLOORS[room] or (room, other) in SAME_FLOOR, f"{path} imports {name}: that arrow runs up"
