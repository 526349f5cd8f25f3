"""The names of all networks, without importing one: that takes seconds, which a shell that completes does not have."""

import ast
from pathlib import Path

from segdistill.config.registry import PACKAGE, components, load

FOLDER = PACKAGE / "networks"
VARIANTS = "BACKBONES"
"""What a network's module calls the variants that it has."""


def network_names() -> list[str]:
    """Return the full names of all networks, such as pspnet-resnet18, as `segdistill networks` lists them."""
    names = []
    for architecture in components("networks"):
        names += [f"{architecture}-{variant}" if variant else architecture for variant in _variants(architecture)]
    return names


def _variants(architecture: str) -> tuple[str, ...]:
    """Return the variants of a network, read from its file; what is not plain there, or not ours, is imported."""
    path = FOLDER / f"{architecture.replace('-', '_')}.py"
    variants = _texts(path, VARIANTS) if path.is_file() else None
    if variants is None:
        variants = tuple(load("networks", architecture, "network").BACKBONES)
    return variants


def _texts(path: Path, name: str) -> tuple[str, ...] | None:
    """Return a constant of a module that is a tuple of texts, or made of the keys of a table; None if it is neither."""
    module = ast.parse(path.read_text(encoding="utf-8"))
    for statement in module.body:
        if isinstance(statement, ast.Assign) and [ast.unparse(target) for target in statement.targets] == [name]:
            return _texts_of(statement.value, path)
    return None


def _texts_of(value: ast.expr | None, path: Path) -> tuple[str, ...] | None:
    if isinstance(value, ast.Tuple | ast.Dict):
        entries = value.keys if isinstance(value, ast.Dict) else value.elts
        texts = [entry.value for entry in entries if isinstance(entry, ast.Constant) and isinstance(entry.value, str)]
        return tuple(texts) if len(texts) == len(entries) else None
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "tuple" and len(value.args) == 1:
        return _texts_of(value.args[0], path)
    if isinstance(value, ast.Name):
        return _texts(path, value.id)
    if isinstance(value, ast.Attribute):  # a table of a neighbor, such as _resnet.VARIANTS
        neighbor = path.with_name(f"{ast.unparse(value.value)}.py")
        return _texts(neighbor, value.attr) if neighbor.is_file() else None
    return None
