"""Importing the package, any part of it, changes nothing for the process: that belongs to the command line alone."""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import segdistill
from segdistill.runtime.library_messages import leave_out_messages
from segdistill.runtime.precision import exact_float32

PACKAGE = Path(segdistill.__file__).parent
PROGRAM = """
import importlib, logging, json, locale, os, random, signal, sys, threading, warnings

libraries, modules = json.loads(sys.argv[1])
for name in libraries:
    importlib.import_module(name)

import cv2, numpy, torch, torch.multiprocessing
from PIL import Image, ImageFile

hooks = []
register_at_fork = os.register_at_fork


def counted(**functions):
    hooks.append(functions)
    register_at_fork(**functions)


os.register_at_fork = counted


def state():
    umask = os.umask(0)
    os.umask(umask)
    loggers = {"": logging.root} | logging.root.manager.loggerDict
    return {
        "environment": dict(os.environ),
        "warnings": [str(entry) for entry in warnings.filters],
        "signals": {number: str(signal.getsignal(number)) for number in signal.valid_signals()},
        "loggers": {
            name: (logger.level, str(logger.handlers), logger.propagate, logger.disabled)
            for name, logger in loggers.items()
            if isinstance(logger, logging.Logger)
        },
        "fork hooks": len(hooks),
        "exception hooks": (str(sys.excepthook), str(threading.excepthook)),
        "threads": threading.active_count(),
        "path": sys.path + sys.argv + [os.getcwd()],
        "importers": [str(entry) for entry in sys.meta_path],
        "streams": [(stream.errors, stream.encoding) for stream in (sys.stdout, sys.stderr)],
        "umask": umask,
        "locale": locale.setlocale(locale.LC_ALL),
        "recursion": sys.getrecursionlimit(),
        "Pillow": (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES),
        "OpenCV": (cv2.getNumThreads(), cv2.ocl.useOpenCL()),
        "NumPy": (numpy.geterr(), str(numpy.get_printoptions()), str(numpy.random.get_state())),
        "random": hash(random.getstate()),
        "torch": (
            torch.backends.cudnn.allow_tf32,
            torch.backends.cuda.matmul.allow_tf32,
            torch.get_float32_matmul_precision(),
            torch.backends.cudnn.benchmark,
            torch.backends.cudnn.deterministic,
            torch.are_deterministic_algorithms_enabled(),
            torch.backends.mkldnn.enabled,
            torch.get_num_threads(),
            torch.get_num_interop_threads(),
            str(torch.get_default_dtype()),
            torch.is_grad_enabled(),
            torch.random.get_rng_state().sum().item(),
            torch.multiprocessing.get_sharing_strategy(),
        ),
    }


before = state()
for name in modules:
    importlib.import_module(name)
after = state()
print(json.dumps([[part, str(before[part]), str(after[part])] for part in before if before[part] != after[part]]))
"""
"""Imports libraries, then modules, and prints what the latter have changed."""


def modules() -> list[str]:
    names = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        if parts[-1] != "__main__":  # which is the command line
            names.append(".".join(parts).removesuffix(".__init__"))
    return names


def libraries() -> list[str]:
    """Return what the package's modules import from elsewhere: what these change is not ours to answer for."""
    names: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        names |= set(imported(ast.parse(path.read_text()).body))
    names = {name for name in names if name.split(".")[0] != "segdistill"}
    # They import these while they are used.
    return sorted(names | {"PIL.TiffImagePlugin", "torch.utils.module_tracker", "torch.utils.flop_counter"})


def imported(statements: list[ast.stmt]) -> Iterator[str]:
    for node in statements:
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module)
        elif isinstance(node, ast.With):  # libraries that are imported with their telemetry switched off
            yield from imported(node.body)


def changes(modules: list[str], program: str = PROGRAM) -> list[tuple[str, str, str]]:
    # Those that would talk to somebody while they are imported are told not to, as our modules do.
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent), "NO_ALBUMENTATIONS_UPDATE": "1"}
    words = [sys.executable, "-c", program, json.dumps([libraries(), modules])]
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [(part, before, after) for part, before, after in json.loads(done.stdout.splitlines()[-1])]


def test_importing_every_module_changes_nothing() -> None:
    assert len(modules()) > 200
    assert changes(modules()) == []


CHANGES = {
    "environment": "os.environ['A_NEW_NAME'] = '1'",
    "warnings": "warnings.simplefilter('error')",
    "signals": "signal.signal(signal.SIGTERM, signal.SIG_IGN)",
    "loggers": "logging.getLogger('PIL').setLevel(10)",
    "fork hooks": "os.register_at_fork(before=print)",
    "exception hooks": "sys.excepthook = print",
    "Pillow": "Image.MAX_IMAGE_PIXELS = 5",
    "torch": "torch.backends.cudnn.allow_tf32 = not torch.backends.cudnn.allow_tf32",
}


def test_change_detection_sees_changes() -> None:
    program = PROGRAM.replace("after = state()", "\n".join([*CHANGES.values(), "after = state()"]))
    assert [part for part, _, _ in changes(["segdistill"], program)] == list(CHANGES)


def test_exact_float32_context_restores_the_switch() -> None:
    before = torch.backends.cudnn.allow_tf32
    try:
        for switch in (True, False):
            torch.backends.cudnn.allow_tf32 = switch
            with exact_float32():
                assert not torch.backends.cudnn.allow_tf32
            assert torch.backends.cudnn.allow_tf32 == switch
    finally:
        torch.backends.cudnn.allow_tf32 = before


LARGE_IMAGE = """
import warnings
from pathlib import Path
from PIL import Image
from segdistill.data.image_file import open_image
from segdistill.runtime.library_messages import leave_out_messages

{before}
with warnings.catch_warnings(record=True) as caught, open_image(Path("large.png")) as image:
    print(len(caught), image.size)
"""
"""Opens an image of 90 megapixels, of which Pillow warns and which is within our limit."""


@pytest.mark.parametrize(("before", "warned"), [("", 1), ("leave_out_messages()", 0)])
def test_command_line_silences_large_image_warnings_of_pillow(before: str, warned: int, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("1", (9500, 9500)).save(tmp_path / "large.png")
    program = LARGE_IMAGE.format(before=before)
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
    words = [sys.executable, "-c", program]
    done = subprocess.run(words, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == f"{warned} (9500, 9500)\n"


def test_transformers_verbosity_of_the_environment_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    import logging
    import warnings

    level = logging.getLogger("matplotlib").level
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "info")
    try:
        with warnings.catch_warnings():
            leave_out_messages()
        assert os.environ["TRANSFORMERS_VERBOSITY"] == "info"
    finally:
        logging.getLogger("matplotlib").setLevel(level)
