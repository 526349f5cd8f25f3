"""External teachers, typed SCHEME:LOCATION: each file here without a leading underscore is a scheme.

A scheme's module has
    LOCATION                        what follows the colon, for messages
    load(location, wanted, device)  returns a `LoadedTeacher`, ready to segment; `wanted` is what the user says of its
                                    images, or None

Whatever it is, a teacher is a `SegNetwork` with a `ModelInfo`. No header or configuration of a run can build it again:
it is what its user named on the command line.
"""

import torch

from segdistill.checkpoints.model_file import ModelInfo
from segdistill.config.schema import InputConfig, NetworkConfig
from segdistill.teachers.external._base import LoadedTeacher
from segdistill.teachers.external._sigmoid import NOTE, SigmoidNetwork, classes_of_one
from segdistill.teachers.external_spec import ExternalSpec, is_external, parse_external, scheme_module
from segdistill.teachers.teacher import Teacher

__all__ = ["ExternalSpec", "LoadedTeacher", "is_external", "load_external", "parse_external"]


def load_external(
    spec: ExternalSpec, wanted: InputConfig | None, device: torch.device
) -> tuple[Teacher, tuple[str, ...]]:
    """Load a teacher; return it with sentences for the user.

    Args:
        spec: as `parse_external` returned it.
        wanted: how its images are normalized, where that is not what it says itself.
        device: where it is going to segment.

    Raises:
        UsageError: if there is no such teacher, or an extra is missing.
        ModelError: if it cannot be used.
    """
    loaded: LoadedTeacher = scheme_module(spec.scheme).load(spec.location, wanted, device)
    network, classes, notes = loaded.network.eval(), loaded.classes, loaded.notes
    if len(classes) == 1:
        network, classes, notes = SigmoidNetwork(network).eval(), classes_of_one(classes), (*notes, NOTE)
    # Its data has no name here, so nothing that a file says of its scores is compared with them.
    config = NetworkConfig(
        network=f"{spec.scheme}:{loaded.name}", input=network.images, align_corners=network.align_corners
    )
    info = ModelInfo(
        network=config,
        classes=classes,
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
    return Teacher(network, info), notes
