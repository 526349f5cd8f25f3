"""Imports run downwards only, and what a library is for stays in one place."""

import ast
from collections.abc import Iterator
from pathlib import Path

import segdistill

PACKAGE = Path(segdistill.__file__).parent
LAYERS = (
    {"errors", "config", "talk", "signals", "reading", "telemetry"},
    {"types", "autocast", "convolutions", "conditions"},
    {"losses", "metrics", "distributed", "store"},
    {"terms", "networks", "checkpoint"},
    {"label_codes", "class_map", "comparison", "layouts"},
    {"engine", "data", "latency", "objectives", "prediction"},
    {
        *("training", "graph", "graph_limits", "export", "parity"),
        *("inference", "inputs", "pictures", "report", "submission"),
    },
    {"setting", "foreign"},
    {"record", "preparations"},
    {"teachers", "banner", "teacher_check", "first_step"},
    {"run", "deploy", "doctor", "catalogue", "import_weights"},
    {"quickstart"},
    {"console", "cli"},
)
"""From the ground up. A module may import its neighbours, as long as that makes no circle."""
ONE_HOME = {
    "rich": {"console.py"},
    "typer": {"cli"},
    "albumentations": {"data/_transforms.py"},
    "matplotlib": {"pictures.py"},
    "onnx": {"export.py", "graph.py", "graph_limits.py"},
    "onnxruntime": {"doctor.py", "graph.py"},
    "timm": {"networks/_timm.py"},
    "transformers": {"foreign/hf.py"},
}
WITHOUT_TORCH = (
    "errors.py",
    "config.py",
    "talk.py",
    "reading.py",
    "store.py",
    "telemetry.py",
    "console.py",
    "doctor.py",
    "__main__.py",
)


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
    """Return the layer's name for a module: segdistill.data._image belongs to data."""
    return module.split(".")[1] if module.startswith("segdistill.") else ""


def graph() -> dict[str, set[str]]:
    """Return which part of the package imports which."""
    known = set().union(*LAYERS)
    found: dict[str, set[str]] = {name: set() for name in known}
    for path in modules():
        own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if not own.startswith("__"):
            found[own] |= {part(name) for name in imports(ast.parse(path.read_text()), late=True)} & known - {own}
    return found


def test_every_module_has_a_layer() -> None:
    parts = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in modules()}
    assert parts - {"__init__", "__main__"} == set().union(*LAYERS)


def test_imports_run_downwards() -> None:
    height = {name: level for level, names in enumerate(LAYERS) for name in names}
    upwards = {(name, other) for name, others in graph().items() for other in others if height[other] > height[name]}
    assert not upwards


def test_no_modules_import_each_other_in_a_circle() -> None:
    remaining = graph()
    while free := {name for name, others in remaining.items() if not others & remaining.keys()}:
        remaining = {name: others for name, others in remaining.items() if name not in free}
    assert not remaining


def test_the_engine_knows_nothing_of_its_neighbours() -> None:
    assert not graph()["engine"] & {"data", "objectives", "latency", "terms", "networks", "checkpoint", "store"}


def test_libraries_stay_in_one_place() -> None:
    users: dict[str, set[str]] = {name: set() for name in ONE_HOME}
    for path in modules():
        for name in imports(ast.parse(path.read_text()), late=True):
            if name.split(".")[0] in users:
                own = path.relative_to(PACKAGE)
                users[name.split(".")[0]].add("cli" if own.parts[0] == "cli" else own.as_posix())
    assert users == ONE_HOME


def test_what_help_needs_does_not_import_torch() -> None:
    for path in (*map(PACKAGE.joinpath, WITHOUT_TORCH), *(PACKAGE / "cli").glob("*.py")):
        found = {module.split(".")[0] for module in imports(ast.parse(path.read_text()), late=False)}
        assert not found & {"torch", "torchvision", "numpy", "cv2", "onnx"}, path
