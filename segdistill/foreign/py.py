"""A network that the user's own code builds, py:MODULE:FUNCTION. The code runs because the command line names it."""

import hashlib
import os
import sys
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor, nn

from segdistill.checkpoint import weights_digest
from segdistill.config import InputConfig
from segdistill.errors import ModelError, UsageError, nearest, out_of_memory
from segdistill.foreign._base import Loaded, normalised_by, numbered, tried
from segdistill.networks import SegNetwork
from segdistill.store import sha256_of
from segdistill.types import SegOutput

WHERE = "MODULE:FUNCTION"


class PythonModule(SegNetwork):
    """A module that returns logits, a `SegOutput`, or a mapping with the logits under "out" or "logits"."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(0)
        self.model = model

    def segment(self, image: Tensor) -> SegOutput:
        """Segment normalised images."""
        output = self.model(image)
        if isinstance(output, SegOutput):
            return output._replace(aux=None)
        found = f"a {type(output).__name__}"
        if isinstance(output, Mapping):
            found = f"a mapping with {', '.join(map(repr, output)) or 'nothing'}"
            output = next((output[key] for key in ("out", "logits") if key in output), None)
        if not isinstance(output, Tensor):
            raise ModelError(
                f"The module returns {found}.",
                'Expected are logits (B, C, h, w), or a mapping with them under "out" or "logits". '
                "Let the function return a module that picks them.",
            )
        return SegOutput(output, (), None)


def load(where: str, wanted: InputConfig | None, device: torch.device) -> Loaded:
    """Call the function; its module may have the names of the classes in an attribute `classes`."""
    model = _built(where)
    network = model if isinstance(model, SegNetwork) else PythonModule(model)
    own = network.images if network is model else None
    notes = normalised_by(network, wanted, own)
    network.num_classes = tried(network, f"py:{where}").logits.shape[1]
    classes = _names(model, where) or numbered(network.num_classes)
    if len(classes) != network.num_classes:
        raise ModelError(
            f"py:{where} has {len(classes)} names in `classes`, and {network.num_classes} outputs.",
            "Name each output.",
        )
    details = {"code": _code(model, where.partition(":")[0])}
    return Loaded(network, where, classes, weights_digest(model.state_dict()), details=details, notes=notes)


def _code(model: nn.Module, module: str) -> str:
    """Return a sha256 of the files with the user's code: the module that is named, and those of the model's classes."""
    names = {module, *(type(part).__module__ for part in model.modules())}
    own = {name for name in names if name.partition(".")[0] not in ("torch", "torchvision", "segdistill")}
    digest = hashlib.sha256()
    for name in sorted(own):
        file = getattr(sys.modules.get(name), "__file__", None)
        digest.update(f"{name} {sha256_of(Path(file)) if file and Path(file).is_file() else ''}\n".encode())
    return digest.hexdigest()


def _names(model: nn.Module, where: str) -> tuple[str, ...]:
    """Return the names of the classes that the module has, none where it has no such attribute."""
    names = getattr(model, "classes", ())
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise ModelError(f"py:{where}: its attribute `classes` is {names!r}.", "Expected is a list of names.")
    return tuple(map(str, names))


def _built(where: str) -> nn.Module:
    """Import the module, from the working folder too as `python -m` does, and call the function."""
    name, _, function = where.partition(":")
    if not name or not function:
        raise UsageError(f"py:{where} names no function.", f"Write py:{WHERE}, for example py:my_teacher:build.")
    sys.path.insert(0, os.getcwd())  # it stays: what the function imports may lie there too
    try:
        module = import_module(name)
    except (Exception, SystemExit) as error:  # whatever the user's code leads to
        raise UsageError(
            f"py:{where}: the module {name} cannot be imported: {type(error).__name__}: {error}",
            "It is looked for in the working folder and among the installed ones.",
        ) from error
    build = getattr(module, function, None)
    if not callable(build):
        known = [own for own, value in vars(module).items() if callable(value)]
        raise UsageError(f"py:{where}: the module {name} has no function {function!r}.", nearest(function, known))
    try:
        model = build()
    except (Exception, SystemExit) as error:  # whatever the user's code leads to
        if out_of_memory(error):
            raise
        raise UsageError(
            f"py:{where}: {function}() fails: {type(error).__name__}: {error}", "It is called without arguments."
        ) from error
    if not isinstance(model, nn.Module):
        raise UsageError(f"py:{where}: {function}() returns {type(model).__name__}.", "Return a torch.nn.Module.")
    return model
