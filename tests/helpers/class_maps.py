"""Headers of teachers with other classes."""

from helpers.tiny import model_info
from segdistill.checkpoints.model_file import ModelInfo


def info(*classes: str, void: int | None = None) -> ModelInfo:
    return model_info("pspnet-resnet18-half", classes, role="teacher", void_output=void)
