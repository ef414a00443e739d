"""One member out of a structure: ``se.load.weight``, ``pid_links[1].next``.

crash has gdb print the whole structure and cuts the member out of that text
(parse_for_member_extended(), dump_node()); the indentation and the commas of what it
shows follow from the text. Here only the outermost member on the way is laid out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

STEP = re.compile(r"([^.\[\]]*)((?:\[[^\]]*\])*)")


@dataclass
class Node:
    """A member, or an element of an array."""

    name: str = ""
    value: str = ""
    inner: list[Node] = field(default_factory=list)
    braces: bool = False  # it has contents, or empty braces
    array: bool = False  # of structures: its contents are elements
    comma: bool = False  # something follows it


def parsed(lines: Sequence[str]) -> list[Node]:
    """The members that the lines of a value show."""
    nodes, _ = _members(lines, 0)
    return nodes


def _members(lines: Sequence[str], at: int) -> tuple[list[Node], int]:
    """Up to the line that closes the structure; that line is left to the caller."""
    nodes: list[Node] = []
    while at < len(lines):
        text = lines[at].strip(" ")
        if text.startswith("}"):
            break
        name, found, value = text.partition(" = ")
        if not found:
            name, value = "", text
        if value in ("{", "{{"):
            node, at = _braces(lines, at, name, value == "{{")
        else:
            node = Node(name, value.removesuffix(","), comma=value.endswith(","))
            at += 1
        nodes.append(node)
    return nodes, at


def _braces(lines: Sequence[str], at: int, name: str, array: bool) -> tuple[Node, int]:
    node = Node(name, braces=True, array=array)
    inner, at = _members(lines, at + 1)
    if not array:
        node.inner = inner
    else:
        element = Node(inner=inner, braces=True)
        node.inner.append(element)
        while at < len(lines) and lines[at].strip(" ").startswith("}, {"):
            element.comma = True
            inner, at = _members(lines, at + 1)
            element = Node(inner=inner, braces=True)
            node.inner.append(element)
    node.comma = at < len(lines) and lines[at].endswith(",")
    return node, at + 1


def find(nodes: Sequence[Node], path: str) -> Node | None:
    """The node of a path; the first member of a name decides."""
    if not path:
        return None
    step, _, rest = path.partition(".")
    name, _, index = step.partition("[")
    for node in nodes:
        if not node.name or node.name != name:
            continue
        if index:
            found = _element(node, index)
        elif node.array and rest:
            return None
        else:
            found = node
        if found is None or not rest:
            return found
        return find(found.inner, rest)
    for node in nodes:
        if not node.name and (found := find(node.inner, path)) is not None:
            return found
    return None


def _element(node: Node, index: str) -> Node | None:
    digits = index.partition("]")[0]
    if not digits.isdecimal():
        return None
    at = int(digits)
    if node.array:
        return node.inner[at] if at < len(node.inner) else None
    return None


def path_lines(nodes: Sequence[Node], path: str) -> list[str] | None:
    """What crash shows of the member at a path; None where it finds none."""
    node = find(nodes, path)
    if node is None:
        return None
    return list(_shown(node, path, 0))


def _shown(node: Node, label: str, level: int) -> Iterator[str]:
    indent = " " * (2 + 2 * level)
    name = label or node.name
    comma = "," if node.comma else ""
    if not node.braces:
        yield f"{indent}{name} = {node.value}{comma}" if name else f"{indent}{node.value}{comma}"
        return
    if node.name:
        yield f"{indent}{name} = {{"
    elif label:
        yield f"{indent}{label} = {indent}{{"
    else:
        yield f"{indent}{{"
    for child in node.inner:
        yield from _shown(child, "", level + 1)
    yield f"{indent}}}{comma}"
