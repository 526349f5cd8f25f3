"""Distill heavy semantic-segmentation networks into students that run in real time, and prove that they do.

    import segdistill as sd

    sd.distill(teacher="pspnet-resnet101", student="pspnet-resnet18", data="camvid:CamVid", out="runs/student")
    ids = sd.load("runs/student").predict(image)      # (H, W, 3) uint8 RGB to (H, W) class ids
    kd = sd.Distiller(student, teacher, terms={"pixel": 1.0})   # for any two networks, in a loop of one's own

What is named here is stable; modules further down are not. Each name is imported when it is asked for: the command line
answers before torch is there.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segdistill import errors, losses
    from segdistill.api import metrics
    from segdistill.api.commands import distill, evaluate, export, infer, resume, train_teacher
    from segdistill.api.distiller import Distiller
    from segdistill.api.model import Model, load
    from segdistill.api.networks import create_network, list_networks
    from segdistill.types import SegOutput

__version__ = "0.1.0"
__all__ = [
    "Distiller",
    "Model",
    "SegOutput",
    "__version__",
    "create_network",
    "distill",
    "errors",
    "evaluate",
    "export",
    "infer",
    "list_networks",
    "load",
    "losses",
    "metrics",
    "resume",
    "train_teacher",
]
_MODULES = {"errors": "errors", "losses": "losses", "metrics": "api.metrics"}
"""Modules that are public as a whole, by their public names."""
_HOMES = {
    "Distiller": "api.distiller",
    "Model": "api.model",
    "SegOutput": "types",
    "create_network": "api.networks",
    "distill": "api.commands",
    "evaluate": "api.commands",
    "export": "api.commands",
    "infer": "api.commands",
    "list_networks": "api.networks",
    "load": "api.model",
    "resume": "api.commands",
    "train_teacher": "api.commands",
}
"""Modules of the other names."""

if not TYPE_CHECKING:  # which would take any name for one of ours

    def __getattr__(name: str) -> Any:
        """Import what a public name stands for, and keep it."""
        if name in _MODULES:
            value = import_module(f"segdistill.{_MODULES[name]}")
        elif name in _HOMES:
            value = getattr(import_module(f"segdistill.{_HOMES[name]}"), name)
        else:
            raise AttributeError(f"module 'segdistill' has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    """Return the public names."""
    return __all__
