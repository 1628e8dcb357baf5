"""A few instructions of PTX in Python: enough to run the kernels' own assembly, thread by thread, without a GPU."""

import re
from collections.abc import Mapping

import numpy as np

_MASK = 0xFFFFFFFF


class Program:
    """Assembly text with ``$0``, ``$1``, … as operands.

    Args:
        shared: where the function's shared variables begin, by name.
    """

    def __init__(self, text: str, shared: Mapping[str, int]):
        self._labels: dict[str, int] = {}
        self._code: list[str] = []
        for statement in re.sub("[{}]", " ", text).split(";"):
            label, _, rest = statement.rpartition(":")
            if label:
                self._labels[label.strip()] = len(self._code)
            if rest.strip() and not rest.strip().startswith("."):
                self._code.append(rest.strip())
        self._shared = shared

    def run(self, operands: dict[str, int], special: Mapping[str, int], memory: np.ndarray, room: np.ndarray) -> None:
        """Run one thread. Results are left in `operands`.

        Args:
            special: values of ``%tid.x`` and the like. memory: uint32, what global addresses (in bytes) point into.
            room: uint8, the shared memory.
        """
        values, at = operands, 0

        def value(token: str) -> int:
            if token in values:
                return values[token]
            if token in special:
                return special[token]
            return self._shared[token] if token in self._shared else int(token, 0)

        while at < len(self._code):
            guard, text = re.match(r"(?:@(!?\w+)\s+)?(.*)", self._code[at]).groups()  # pyright: ignore
            at += 1
            if guard and bool(values[guard.lstrip("!")]) == guard.startswith("!"):
                continue
            opcode, _, rest = text.partition(" ")
            arguments = [part.strip(" []") for part in rest.split(",")]
            kind = opcode.split(".")[0]
            if kind == "bra":
                at = self._labels[arguments[0]]
            elif kind == "st":
                place = value(arguments[0])
                words = [value(token) for token in arguments[1:]]
                room[place : place + 4 * len(words)] = np.array(words, dtype=np.uint32).view(np.uint8)
            elif kind == "ld":
                place = value(arguments[1])
                source = room[place : place + 4].view(np.uint32)[0] if ".shared" in opcode else memory[place // 4]
                values[arguments[0]] = int(source)
            elif kind != "bar":
                values[arguments[0]] = self._compute(opcode, [value(token) for token in arguments[1:]])

    @staticmethod
    def _compute(opcode: str, operands: list[int]) -> int:
        kind = opcode.split(".")[0]
        if kind == "setp":
            return int(operands[0] >= operands[1])
        if kind == "lop3":
            a, b, c, table = operands
            assert table == 0xEA, "only (a & b) | c is known"
            return (a & b) | c
        if kind == "mad":
            return operands[0] * operands[1] + operands[2]
        first, second = (*operands, 0)[:2]
        return {
            "mov": lambda: first,
            "add": lambda: first + second,
            "and": lambda: first & second,
            "xor": lambda: first ^ second,
            "shl": lambda: (first << second) & _MASK,
            "shr": lambda: first >> second,
        }[kind]()
