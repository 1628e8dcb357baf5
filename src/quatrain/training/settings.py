"""Every setting with its default and its meaning, read from the docstrings that stand under the fields."""

import ast
import inspect
import json
import textwrap
from dataclasses import MISSING, Field, fields, is_dataclass
from itertools import pairwise
from typing import Any, get_args, get_type_hints

from quatrain.training.config import RunConfig


def describe_settings(owner: type = RunConfig, prefix: str = "") -> str:
    """The settings of a config class as text, those of nested configs after the field that holds them."""
    notes, hints = _docstrings(owner), get_type_hints(owner)
    parts = []
    for field in fields(owner):
        name = f"{prefix}{field.name}"
        note = textwrap.fill(" ".join(notes[field.name].split()), 100, initial_indent="    ", subsequent_indent="    ")
        parts.append(f"{name}: {_default(field)}\n{note}")
        if prefix == "" and (inner := _nested(hints[field.name])) is not None:
            parts.append(describe_settings(inner, f"{name}."))
    return "\n".join(parts)


def _docstrings(owner: type) -> dict[str, str]:
    """Field name → the string literal that follows it in the class."""
    body = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0].body  # pyright: ignore
    notes = {}
    for field, note in pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(note, ast.Expr) and isinstance(note.value, ast.Constant):
            notes[field.target.id] = str(note.value.value)  # pyright: ignore
    return notes


def _default(field: Field[Any]) -> str:
    """As it would stand in a YAML file."""
    if field.default is not MISSING:
        return field.default if isinstance(field.default, str) else json.dumps(field.default)
    return "required" if field.default_factory is MISSING else "see below"


def _nested(hint: Any) -> type | None:
    return next((part for part in (hint, *get_args(hint)) if isinstance(part, type) and is_dataclass(part)), None)
