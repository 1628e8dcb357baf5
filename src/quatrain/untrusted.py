"""Small files of others: that they really lie where they are looked for, and are data of a bounded size.

Models, adapters and run folders come from anybody. A name in an index can lead out of its folder, a link can stand for
a file that its sender may not read, and a "config" of ten gigabytes fills the memory before it turns out to be none.
What is read here comes whole or not at all. The one kind of link that is followed is the hub's own: files of a snapshot
in its cache are links into `blobs/` of the same repository.
"""

import json
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

LARGEST_JSON = 64 << 20
"""Bytes. The index of a model with a million tensors has a fifth of it."""


def file_in(folder: Path, name: str) -> Path:
    """The path of the file `name` that really lies in `folder`, or in the blobs of the hub's cache that it is part of.

    Raises:
        ValueError: the name isn't a plain one, or a link leads out of the folder.
        FileNotFoundError: there is no such file.
    """
    if name in {"", ".", ".."} or "\0" in name or "\\" in name or Path(name).name != name:
        raise ValueError(f"its files must lie in its own folder, and {name!r} doesn't name one that does")
    path = folder / name
    try:
        present = path.is_file()
    except OSError:  # no file system has such a name
        present = False
    if not present:
        raise FileNotFoundError(f"there is no {name} in {folder}")
    real, home = path.resolve(), folder.resolve()
    in_cache = home.parent.name == "snapshots" and real.parent == home.parent.parent / "blobs"
    if real.parent != home and not in_cache:
        raise ValueError(f"{name} is a link to {real}, outside of its folder; copy the file into the folder")
    return path


def read_text(path: Path, *, most_bytes: int = LARGEST_JSON) -> str:
    """A whole text file.

    Raises:
        ValueError: it is larger than `most_bytes`, or isn't UTF-8.
        OSError: it can't be read.
    """
    with path.open("rb") as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise ValueError(f"it has more than {most_bytes:,} bytes")
    return content.decode("utf-8")


def read_json(path: Path, *, most_bytes: int = LARGEST_JSON) -> Any:
    """The value in a JSON file.

    Raises:
        ValueError: it is larger than `most_bytes`, isn't UTF-8, isn't JSON, or is nested too deeply to be read.
        OSError: it can't be read.
    """
    return parse_json(read_text(path, most_bytes=most_bytes))


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it isn't UTF-8, isn't JSON, or is nested too deeply to be read.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


class BoundedLoader(yaml.SafeLoader):
    """Safe YAML that stays as small as its text.

    An alias within a value that has an anchor itself doubles it again and again: ten lines become a billion words, when
    somebody writes or walks what was read. Such aliases are refused, and more than `MOST_ALIASES` altogether. So is a
    key that occurs twice, of which YAML keeps the last value in silence.
    """

    MOST_ALIASES = 100

    def __init__(self, stream: str):
        super().__init__(stream)
        self._aliases = self._within_anchors = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            self._aliases += 1
            if self._within_anchors or self._aliases > self.MOST_ALIASES:
                raise ComposerError(None, None, f"too many aliases: *{event.anchor}", event.start_mark)
        anchored = isinstance(event, yaml.NodeEvent) and not isinstance(event, yaml.AliasEvent) and bool(event.anchor)
        self._within_anchors += anchored
        node = super().compose_node(parent, index)
        self._within_anchors -= anchored
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else None
            if name in seen:
                raise ConstructorError(None, None, f"the key {key.value!r} occurs twice", key.start_mark)
            if name:
                seen.add(name)
        return super().construct_mapping(node, deep)


def parse_yaml(text: str, loader: type[BoundedLoader] = BoundedLoader) -> Any:
    """The value of a YAML text.

    Raises:
        ValueError: it isn't YAML, asks for objects of Python, grows by aliases, or is nested too deeply to be read.
    """
    try:
        return yaml.load(text, loader)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    except (AttributeError, LookupError, TypeError) as error:  # of a tag such as !!bool or !!timestamp
        raise ValueError(f"a value isn't what its tag says ({error})") from error
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
