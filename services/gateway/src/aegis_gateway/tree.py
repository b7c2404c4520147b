"""YAML trees: reading them without aliases, and setting nodes that must already be there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

Tree = dict[str, Any]


def load(text: str) -> Tree:
    """Return the mapping in *text*; nodes behind aliases become copies of their own."""
    return _unshared(yaml.safe_load(text))  # type: ignore[no-any-return]


def dump(tree: Tree) -> str:
    return yaml.safe_dump(tree, sort_keys=False, width=160, allow_unicode=True)


def put(tree: Any, value: Any, *path: str | int) -> None:
    """Set the node at *path*.

    Raises:
        KeyError: There is no such node: code and YAML have drifted apart.
    """
    node = tree
    for step in path[:-1]:
        node = node[step]
    if isinstance(node, dict) and path[-1] not in node:
        raise KeyError(f"no node {'.'.join(map(str, path))} to set")
    node[path[-1]] = value


def walk(node: Any) -> Iterator[Tree]:
    """Yield every mapping in *node*, outermost first."""
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from walk(value)
    elif isinstance(node, list):
        for value in node:
            yield from walk(value)


def named(resources: list[Tree], name: str) -> Tree:
    """Return the resource called *name*.

    Raises:
        KeyError: There is none.
    """
    for resource in resources:
        if resource.get("name") == name:
            return resource
    raise KeyError(f"no resource {name!r}")


def _unshared(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _unshared(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_unshared(value) for value in node]
    return node
