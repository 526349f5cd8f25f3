"""Imports run downwards only, and what a library is for stays in one place."""

import ast
from collections.abc import Iterator
from pathlib import Path

import segdistill
from helpers.layers import LAYERS

PACKAGE = Path(segdistill.__file__).parent

ONE_HOME = {
    "rich": {"cli/console.py"},
    "typer": {"cli"},
    "albumentations": {"data/transforms.py"},
    "matplotlib": {"reports/curves.py"},
    "onnx": {"deployment/onnx.py", "deployment/graph_file.py", "deployment/graph_limits.py", "deployment/opset.py"},
    "onnxruntime": {"commands/doctor.py", "deployment/session.py"},
    "pycocotools": {"data/discovery/drawing.py"},
    "timm": {"networks/_timm.py"},
    "transformers": {"teachers/external/hf.py"},
}
WITHOUT_TORCH = (
    "__init__.py",
    "__main__.py",
    "errors.py",
    "wording.py",
    "commands/__init__.py",
    "commands/doctor.py",
    "runtime/__init__.py",
    "runtime/library_messages.py",
    "runtime/reporter.py",
    "runtime/shared_memory.py",
    "runtime/telemetry.py",
    *("cli", "config", "storage"),
)
"""Files, and whole folders."""
WITH_TORCH = {"storage/pickle_reader.py", "storage/pickles.py", "storage/weights.py"}
"""In these folders."""


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imports(tree: ast.Module, *, late: bool) -> Iterator[str]:
    """Yield the modules that a file imports, with `late` also those inside functions."""
    for node in ast.walk(tree) if late else tree.body:
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield str(node.module)
            yield from (f"{node.module}.{name.name}" for name in node.names)


def part(module: str) -> str:
    """Return the layer's name for a module: segdistill.data.image belongs to data."""
    return module.split(".")[1] if module.startswith("segdistill.") else ""


def module_name(path: Path) -> str:
    """Return what a file is imported as."""
    return ".".join(("segdistill", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


def graph() -> dict[str, set[str]]:
    """Return which module imports which when it is imported; a package's module needs the package's own first."""
    names = {module_name(path): path for path in modules()}
    found = {}
    for name, path in names.items():
        found[name] = set(imports(ast.parse(path.read_text()), late=True)) & names.keys() - {name, "segdistill"}
    return found


def test_every_module_has_a_layer() -> None:
    parts = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in modules()}
    assert parts - {"__init__", "__main__"} == set(LAYERS)


def test_imports_run_downwards() -> None:
    depth = {name: level for level, name in enumerate(LAYERS)}
    upwards = [
        f"{module_name(path)} imports {name}"
        for path in modules()
        for name in imports(ast.parse(path.read_text()), late=True)
        if depth.get(part(name), len(LAYERS)) < depth.get(part(module_name(path)), -1)
    ]
    assert not upwards


def test_no_modules_import_each_other_in_a_circle() -> None:
    remaining = graph()
    while free := {name for name, others in remaining.items() if not others & remaining.keys()}:
        remaining = {name: others for name, others in remaining.items() if name not in free}
    assert not remaining


def test_the_engine_knows_nothing_of_its_neighbors() -> None:
    found = {part(name) for name in graph()["segdistill.training.engine"]}
    assert not found & {"data", "terms", "networks", "checkpoints", "teachers"}
    assert "segdistill.training.objectives" not in graph()["segdistill.training.engine"]


def test_libraries_stay_in_one_place() -> None:
    users: dict[str, set[str]] = {name: set() for name in ONE_HOME}
    for path in modules():
        for name in imports(ast.parse(path.read_text()), late=True):
            if name.split(".")[0] in users:
                own = path.relative_to(PACKAGE)
                users[name.split(".")[0]].add(
                    "cli" if name.startswith("typer") and own.parts[0] == "cli" else own.as_posix()
                )
    assert users == ONE_HOME


def test_what_help_needs_does_not_import_torch() -> None:
    for path in map(PACKAGE.joinpath, WITHOUT_TORCH):
        for file in sorted(path.glob("*.py")) if path.is_dir() else [path]:
            if file.relative_to(PACKAGE).as_posix() not in WITH_TORCH:
                found = {module.split(".")[0] for module in imports(ast.parse(file.read_text()), late=False)}
                assert not found & {"torch", "torchvision", "numpy", "cv2", "onnx"}, file
