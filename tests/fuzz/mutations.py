"""Good inputs, spoiled: JSON by its values, which random bytes would hardly get past the parser, the rest by bytes."""

import json
import struct
from copy import deepcopy
from random import Random
from typing import Any

ODD_VALUES: list[Any] = [
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        2,
        7,
        255,
        2**31 - 1,
        2**31,
        2**32,
        2**53,
        2**63 - 1,
        2**63,
        2**64,
        10**30,
        -(2**63),
    ),
    *(0.0, -0.0, 0.5, 1e-320, 1e38, 1e39, 1.7e308, float("nan"), float("inf"), float("-inf")),
    *(
        "",
        " ",
        ".",
        "..",
        "../x",
        "/",
        "/etc/passwd",
        "\\",
        "a\0b",
        "\ud800",
        "\u202e",
        "\n",
        "(",
        "x" * 500,
        "1",
        "null",
    ),
    *([], {}, [[]], [None], [0], [-1], [1, 2], {"": None}, {"a": {"b": []}}),
]
"""What programmers forget."""

ODD_BYTES = [
    *(b"", b"\0", b"\n", b"\r\n", b"\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80", b'"', b",", b"[", b"{", b"}", b"]", b": "),
    *(struct.pack("<Q", number) for number in (0, 1, 32, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1)),
    *(b"[" * 3000, b"{% ", b" %}", b"{{ ", b" }}", b"&a ", b"*a", b"!!python/name:os.system ", b"- ", b"  "),
]


def mutated(content: bytes, random: Random, other: bytes = b"") -> bytes:
    """`content` with one to four changes; `other` is another input, of which a piece may be put in."""
    for _ in range(random.choice((1, 1, 2, 4))):
        content = _changed(content, random, other)
    return content


def _changed(content: bytes, random: Random, other: bytes) -> bytes:
    if random.random() < 0.7:
        try:
            return _changed_json(json.loads(content), random)
        except (ValueError, RecursionError):
            pass
    return _changed_bytes(content, random, other)


def _changed_json(value: Any, random: Random) -> bytes:
    places = list(_places(value))
    if not places:
        return json.dumps(random.choice(ODD_VALUES)).encode()
    owner, key = random.choice(places)
    match random.randrange(6):
        case 0:
            del owner[key]
        case 1:
            other_owner, other_key = random.choice(places)
            owner[key] = deepcopy(other_owner[other_key])
        case 2 if isinstance(owner, dict):
            owner[str(random.choice([key + "x", "", *(str(k) for _, k in places)]))] = owner.pop(key)
        case 3 if isinstance(owner[key], int):
            owner[key] += random.choice((-1, 1, 63, -64, owner[key]))
        case _:
            owner[key] = deepcopy(random.choice(ODD_VALUES))
    return json.dumps(value).encode()


def _places(value: Any, depth: int = 0) -> Any:
    """Every (container, key) in nested values."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys if depth < 20 else ():
        yield value, key
        yield from _places(value[key], depth + 1)


def _changed_bytes(content: bytes, random: Random, other: bytes) -> bytes:
    start = random.randrange(len(content) + 1)
    end = min(len(content), start + random.choice((0, 1, 1, 4, 8, 8, 40)))
    match random.randrange(4):
        case 0:
            return content[:start]
        case 1:
            piece = content[start:end] * 2
        case 2 if other:
            at = random.randrange(len(other))
            piece = other[at : at + random.choice((1, 8, 40, 200))]
        case _:
            piece = random.choice(ODD_BYTES) if random.random() < 0.7 else random.randbytes(end - start)
    return content[:start] + piece + content[end:]
