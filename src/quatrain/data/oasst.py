"""Open Assistant's conversation trees: what was asked first is the root, and every message may have several replies.

Two exports exist: one tree a row (the root in ``prompt``, replies nested), and one message a row (``parent_id``
points at its parent, anywhere in the file; some exports nest replies as well). Among the replies of an assistant,
``rank`` 0 is the best. Source: the OASST1 data card.
"""

from collections.abc import Iterator
from typing import Any

from quatrain.data.bad_rows import BadRows
from quatrain.data.examples import Message
from quatrain.data.messages import ROLES, read_text
from quatrain.data.rows import Place, Row
from quatrain.errors import RowError

Node = dict[str, Any]

_MALFORMED = "a malformed tree"


def read_tree(root: Any, where: Place, paths: str) -> Iterator[tuple[Message, ...]]:
    """Yields the conversations of one tree: the best-ranked path (``"best"``) or all root-to-leaf paths (``"all"``).

    A path that ends with a question is shortened to its last answer; what is equal after that is given once.

    Raises:
        RowError: the tree isn't one.
    """
    seen = set()
    for path in _paths(root, where, best_only=paths == "best"):
        while path and _role(path[-1], where) != "assistant":
            path = path[:-1]
        key = tuple(id(node) for node in path)
        if path and key not in seen:
            seen.add(key)
            yield tuple({"role": _role(node, where), "content": read_text(node["text"], where)} for node in path)


def _paths(root: Any, where: Place, best_only: bool) -> Iterator[list[Node]]:
    """Walks with a stack of its own, because a tree from a file may be deeper than Python's."""
    stack = [[_node(root, where)]]
    while stack:
        path = stack.pop()
        replies = _replies(path[-1], where)
        if not replies:
            yield path
        for reply in reversed(replies[:1] if best_only else replies):
            stack.append([*path, reply])


def _replies(node: Node, where: Place) -> list[Node]:
    """The replies that weren't deleted, best first; those without a rank come last, in the file's order."""
    replies = [_node(reply, where) for reply in node.get("replies") or []]
    kept = [reply for reply in replies if not reply.get("deleted")]
    return sorted(kept, key=lambda reply: reply["rank"] if isinstance(reply.get("rank"), int) else len(kept))


def _node(value: Any, where: Place) -> Node:
    if not isinstance(value, dict) or "role" not in value or "text" not in value:
        raise RowError(where, _MALFORMED, "a message of an OASST tree needs `role` and `text`.")
    if not isinstance(value.get("replies") or [], list):
        raise RowError(where, _MALFORMED, "`replies` of an OASST message must be a list.")
    return value


def _role(node: Node, where: Place) -> str:
    role = ROLES.get(node["role"]) if isinstance(node["role"], str) else None
    if role is None:
        raise RowError(where, "an unknown role", f"the role {node['role']!r} isn't known in an OASST message.")
    return role


def read_flat_messages(rows: Iterator[Row], paths: str, bad: BadRows) -> Iterator[tuple[Place, tuple[Message, ...]]]:
    """Joins messages to trees by ``parent_id`` and yields ``(where, conversation)`` for each tree's paths.

    All rows are read before the first conversation is given, as a reply may stand before what it replies to.
    `bad` is told of an id that is missing or occurs twice, of a parent that isn't in the data, and of replies that lead
    in a circle.
    """
    nodes = _collect(rows, bad)
    roots = []
    for where, node in nodes.values():
        parent = node.get("parent_id")
        if not parent:
            roots.append((where, node))
        elif isinstance(parent, str) and parent in nodes:
            nodes[parent][1]["replies"].append(node)
        else:
            reason = f"its parent {parent!r} isn't in the data; OASST messages come as whole trees."
            bad.meet(RowError(where, "without its parent", reason))
    _check_reached(nodes, [root for _, root in roots], bad)
    for where, root in roots:
        try:
            conversations = list(read_tree(root, where, paths))
        except RowError as error:
            bad.meet(error)
            continue
        for messages in conversations:
            yield where, messages


def _collect(rows: Iterator[Row], bad: BadRows) -> dict[str, tuple[Place, Node]]:
    """Messages by their ids, each with a list of replies of its own."""
    nodes: dict[str, tuple[Place, Node]] = {}
    for row in rows:
        try:
            node = dict(_node(row.values, row.where))
            name = node["message_id"]
            if not isinstance(name, str):
                raise RowError(row.where, _MALFORMED, f"`message_id` must be a string, got {name!r}.")
            if name in nodes:
                raise RowError(row.where, "an id that occurs twice", f"the message_id {name!r} occurs a second time.")
        except RowError as error:
            bad.meet(error)
            continue
        node["replies"] = list(node.get("replies") or [])
        nodes[name] = (row.where, node)
    return nodes


def _check_reached(nodes: dict[str, tuple[Place, Node]], roots: list[Node], bad: BadRows) -> None:
    """Every message hangs below a root, or below one that is bad; what doesn't is its own ancestor."""
    reached = _below(roots)
    parents = [(node.get("parent_id"), node) for _, node in nodes.values()]
    reached |= _below([node for name, node in parents if not isinstance(name, str) or name not in nodes])
    for where, node in nodes.values():
        if id(node) not in reached:
            reason = f"its replies lead in a circle (message_id {node['message_id']!r})."
            bad.meet(RowError(where, "replies in a circle", reason))


def _below(nodes: list[Node]) -> set[int]:
    """The identities of these messages and of all replies under them."""
    reached, stack = set(), list(nodes)
    while stack:
        node = stack.pop()
        reached.add(id(node))
        stack += [reply for reply in node.get("replies") or [] if isinstance(reply, dict)]
    return reached
