"""A network that the user's own code builds, py:MODULE:FUNCTION. The code runs because the command line names it."""

import hashlib
import os
import sys
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from segdistill.checkpoints.tensors import weights_digest
from segdistill.config.schema import InputConfig
from segdistill.errors import ModelError, UsageError, nearest, out_of_memory
from segdistill.networks import SegNetwork
from segdistill.storage.files import sha256_of
from segdistill.teachers.external._base import (
    LoadedTeacher,
    dry_forward,
    numbered_classes,
    set_normalization,
)
from segdistill.types import SegOutput

LOCATION = "MODULE:FUNCTION"
LOGITS_KEYS = ("out", "logits")
"""Keys of a mapping under which logits are found: as torchvision has it, and as transformers does."""
LIBRARIES = ("torch", "torchvision", "segdistill")
"""Packages whose code is not the user's."""


class PythonModule(SegNetwork):
    """A module that returns logits, a `SegOutput`, or a mapping with the logits under "out" or "logits"."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(0)
        self.model = model

    def segment(self, image: Tensor) -> SegOutput:
        """Segment normalized images.

        Raises:
            ModelError: if the module fails on them, or returns no logits.
        """
        try:
            output = self.model(image)
        except Exception as error:  # of the user's code; at a size other than that at which it was tried
            if out_of_memory(error):
                raise
            images, _, height, width = image.shape
            seen = f"an image of {height}x{width}" if images == 1 else f"{images} images of {height}x{width}"
            raise ModelError(
                f"The teacher's module fails on {seen}: {type(error).__name__}: {error}",
                "Expected: logits (B, C, h, w) of images (B, 3, H, W) of any size: crops (data.crop) and whole images, "
                "enlarged by teacher.scale.",
            ) from error
        if isinstance(output, SegOutput):
            return output._replace(aux=None)  # a teacher's auxiliary head teaches nothing
        if isinstance(output, Mapping):
            return SegOutput(_logits_in(output), (), None)
        if not isinstance(output, Tensor):
            raise _no_logits(f"a {type(output).__name__}")
        return SegOutput(output, (), None)


def load(location: str, wanted: InputConfig | None, device: torch.device) -> LoadedTeacher:
    """Call the function; its module may have the names of the classes in an attribute `classes`."""
    model = _build(location)
    network: SegNetwork
    if isinstance(model, SegNetwork):
        network = model
        notes = set_normalization(network, wanted, model.images)
    else:
        network = PythonModule(model)
        notes = set_normalization(network, wanted)
    # nothing but a forward pass tells how many classes a module has
    network.num_classes = dry_forward(network, f"py:{location}").logits.shape[1]
    classes = _class_names(model, location) or numbered_classes(network.num_classes)
    if len(classes) != network.num_classes:
        raise ModelError(
            f"py:{location} has {len(classes)} names in `classes`, and {network.num_classes} outputs.",
            "Name each output.",
        )
    return LoadedTeacher(
        network,
        name=location,
        classes=classes,
        sha256=weights_digest(model.state_dict()),
        details={"code": _code_digest(model, location.partition(":")[0])},
        notes=notes,
    )


def _logits_in(output: Mapping[Any, Any]) -> Tensor:
    """Return the logits in a mapping: what is under the first of the keys that it has.

    Raises:
        ModelError: if that is no tensor, or it has neither key.
    """
    keys = [key for key in LOGITS_KEYS if key in output]
    logits = output[keys[0]] if keys else None
    if not isinstance(logits, Tensor):
        raise _no_logits(f"a mapping with {', '.join(map(repr, output)) or 'nothing'}")
    return logits


def _no_logits(found: str) -> ModelError:
    return ModelError(
        f"The module returns {found}.",
        'Expected: logits (B, C, h, w), or a mapping with them under "out" or "logits". '
        "Let the function return a module that picks them.",
    )


def _code_digest(model: nn.Module, module: str) -> str:
    """Return a sha256 of the files with the user's code: the module that is named, and those of the model's classes."""
    # Not what these import in turn: that cannot be known, as a function may import anything later.
    names = {module, *(type(part).__module__ for part in model.modules())}
    digest = hashlib.sha256()
    for name in sorted(names):
        if name.partition(".")[0] in LIBRARIES:
            continue
        file = getattr(sys.modules.get(name), "__file__", None)
        content = ""  # of what is built in, or was made in memory
        if file and Path(file).is_file():
            content = sha256_of(Path(file))
        digest.update(f"{name} {content}\n".encode())
    return digest.hexdigest()


def _class_names(model: nn.Module, location: str) -> tuple[str, ...]:
    """Return the names of the classes that the module has, none where it has no such attribute."""
    names = getattr(model, "classes", ())
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise ModelError(f"py:{location}: its attribute `classes` is {names!r}.", "Expected: a list of names.")
    return tuple(str(name) for name in names)


def _build(location: str) -> nn.Module:
    """Import the module, from the working folder too as `python -m` does, and call the function."""
    name, _, function = location.partition(":")
    if not name or not function:
        raise UsageError(f"py:{location} names no function.", f"Write py:{LOCATION}, for example py:my_teacher:build.")
    module = _import(name, location)
    build = getattr(module, function, None)
    if not callable(build):
        callables = [attribute for attribute, value in vars(module).items() if callable(value)]
        raise UsageError(
            f"py:{location}: the module {name} has no function {function!r}.", nearest(function, callables)
        )
    try:
        model = build()
    except (Exception, SystemExit) as error:  # whatever the user's code leads to
        if out_of_memory(error):
            raise
        raise UsageError(
            f"py:{location}: {function}() fails: {type(error).__name__}: {error}", "It is called without arguments."
        ) from error
    if not isinstance(model, nn.Module):
        raise UsageError(f"py:{location}: {function}() returns {type(model).__name__}.", "Return a torch.nn.Module.")
    return model


def _import(name: str, location: str) -> ModuleType:
    """Import the user's module."""
    sys.path.insert(0, os.getcwd())  # it stays: what the function imports may lie there too
    try:
        return import_module(name)
    except (Exception, SystemExit) as error:  # whatever the user's code leads to
        raise UsageError(
            f"py:{location}: the module {name} cannot be imported: {type(error).__name__}: {error}",
            "It is looked for in the working folder and among the installed ones.",
        ) from error
