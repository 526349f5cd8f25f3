"""Teachers from elsewhere, typed SCHEME:WHERE: each file here without a leading underscore is a scheme.

A scheme's module has
    WHERE                       what follows the colon, for messages
    load(where, wanted, device) -> Loaded, ready to segment; `wanted` is what the user says of its images, or None

Whatever it is, a teacher is a `SegNetwork` with a `ModelInfo`. No header or configuration of a run can build it again:
it is what its user named on the command line.
"""

from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from segdistill.checkpoint import ModelInfo
from segdistill.config import InputConfig, NetworkConfig, components, find
from segdistill.foreign._base import Loaded
from segdistill.networks import SegNetwork

__all__ = ["Loaded", "file_named", "is_foreign", "load_foreign", "uri"]


def uri(text: str) -> tuple[str, str] | None:
    """Return the scheme of a teacher from elsewhere and where it is; None of a run, a model file and a network's name.

    Raises:
        UsageError: if there is no such scheme, with those that there are.
    """
    scheme, colon, where = text.partition(":")
    if scheme in components("foreign") and colon:
        return scheme, where
    if text.endswith(".onnx"):
        return "onnx", text
    if not colon or scheme.endswith("timm") or "/" in scheme or Path(text).exists():
        return None
    spellings = ", ".join(f"{name}:{_module(name).WHERE}" for name in components("foreign"))
    find("foreign", scheme, "kind of teacher", f"A teacher from elsewhere is given as {spellings}.")
    return None


def file_named(scheme: str, where: str) -> Path | None:
    """Return the file or folder that a teacher from elsewhere lies in; None where it names none."""
    known = {"onnx": (where, where.rpartition(":")[0]), "tv": (where.partition(":")[2],), "hf": (where,)}
    return next((Path(name) for name in known.get(scheme, ()) if name and Path(name).exists()), None)


def is_foreign(network: str) -> bool:
    """Whether a network's name, as configurations and `ModelInfo` have it, is that of a teacher from elsewhere."""
    scheme, colon, _ = network.partition(":")
    return bool(colon) and scheme in components("foreign")


def load_foreign(
    scheme: str, where: str, wanted: InputConfig | None, device: torch.device
) -> tuple[SegNetwork, ModelInfo, tuple[str, ...]]:
    """Load a teacher; return it with what a model file's header would say, and sentences for the user.

    Args:
        scheme: as `uri` returned it.
        where: likewise.
        wanted: how its images are normalised, where that is not what it says itself.
        device: where it is going to segment.

    Raises:
        UsageError: if there is no such teacher, or an extra is missing.
        ModelError: if it cannot be used.
    """
    loaded: Loaded = _module(scheme).load(where, wanted, device)
    network = loaded.network.eval()
    info = ModelInfo(
        network=NetworkConfig(
            network=f"{scheme}:{loaded.name}", input=network.images, align_corners=network.align_corners
        ),
        classes=loaded.classes,
        palette=(),
        role="teacher",
        void_output=loaded.void_output,
        size=loaded.size,
        data="",
        preset="",
        steps=0,
        sha256=loaded.sha256,
        details=dict(loaded.details),
    )
    return network, info, loaded.notes


def _module(scheme: str) -> Any:
    return import_module(find("foreign", scheme, "kind of teacher"))
