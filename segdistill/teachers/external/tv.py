"""torchvision's segmentation networks, tv:NAME with its published weights or tv:NAME:FILE with a state dict."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segdistill.checkpoints.tensors import weights_digest
from segdistill.config.schema import InputConfig
from segdistill.errors import ModelError, UsageError, nearest
from segdistill.networks import SegNetwork, download_weights
from segdistill.storage.weights import mismatch, read_weights
from segdistill.teachers.external._base import (
    LoadedTeacher,
    capture_input,
    capture_outputs,
    numbered_classes,
    set_normalization,
)
from segdistill.types import SegOutput

LOCATION = "NAME[:FILE]"
CLASSIFIER_TENSORS = ("classifier.4.weight", "classifier.low_classifier.weight")
"""Tensors that tell how many classes there are: of FCN and DeepLabV3, of LR-ASPP."""


class Torchvision(SegNetwork):
    """Backbone and head at their own stride: torchvision's network would enlarge its logits to the image's size."""

    def __init__(self, model: nn.Module, num_classes: int) -> None:
        super().__init__(num_classes)
        self.model = model

    def segment(self, image: Tensor) -> SegOutput:
        """Segment normalized images; the features are the backbone's stages, then what feeds the classifier."""
        head, backbone = self.model.get_submodule("classifier"), self.model.get_submodule("backbone")
        blocks = dict(backbone.named_children())
        stages = [block for name, block in blocks.items() if name.startswith("layer")]
        with capture_outputs(stages or list(blocks.values())) as maps:
            named_maps: Mapping[str, Tensor] = backbone(image)
        if not stages:  # MobileNet is a row of blocks
            maps = _last_of_each_size(maps)
        if not isinstance(head, nn.Sequential):  # LR-ASPP classifies two maps
            return SegOutput(head(named_maps), tuple(maps), None)
        with capture_input(head[-1]) as last:
            logits = head(named_maps["out"])
        return SegOutput(logits, (*maps, *last), None)


def weights_file(location: str) -> tuple[Path, tuple[str, ...] | None]:
    """Return the file of a network's weights, downloaded where none is named, and its classes where they are known.

    Raises:
        UsageError: if torchvision has no such network, or its weights cannot be downloaded.
    """
    from torchvision import models  # late: a second of import time

    name, _, file = location.partition(":")
    names = models.list_models(module=models.segmentation)
    if name not in names:
        raise UsageError(f"torchvision has no segmentation network {name!r}.", nearest(name, names))
    published: Any = models.get_model_weights(name).DEFAULT
    path = Path(file) if file else download_weights(published.url, f"The weights of {name}", flag=f"tv:{name}:FILE")
    # a file is known to be torchvision's by its name, which has the beginning of its sha256 in it
    is_published = path.name == Path(published.url).name
    return path, tuple(published.meta["categories"]) if is_published else None


def load(location: str, wanted: InputConfig | None, device: torch.device) -> LoadedTeacher:
    """Build a network of torchvision and fill it, strictly."""
    from torchvision import models  # late: a second of import time

    name = location.partition(":")[0]
    path, categories = weights_file(location)
    weights = read_weights(path).tensors
    model, outputs = _filled(models, name, weights, path)
    network = Torchvision(model, outputs)
    notes = set_normalization(network, wanted)
    classes = categories or numbered_classes(outputs)
    if categories is not None:
        notes = ()
    return LoadedTeacher(network, name, classes, sha256=weights_digest(weights), notes=notes)


def _filled(models: Any, name: str, weights: Mapping[str, Tensor], path: Path) -> tuple[nn.Module, int]:
    """Return torchvision's network of that name with the weights, without its auxiliary head, and its outputs.

    Raises:
        ModelError: if they are not the weights of that network.
    """
    outputs = 1  # of a network of another kind, which is then refused by its tensors
    for tensor in CLASSIFIER_TENSORS:
        if tensor in weights:
            outputs = len(weights[tensor])
            break
    options: dict[str, Any] = {}
    if any(tensor.startswith("aux_classifier.") for tensor in weights):
        options["aux_loss"] = True
    model: Any = models.get_model(name, weights=None, weights_backbone=None, num_classes=outputs, **options)
    difference = mismatch(model.state_dict(), weights)
    if difference:
        raise ModelError(
            f"{path} does not hold the tensors of torchvision's {name}: {difference}",
            "Give the state dict of that network.",
        )
    model.load_state_dict(weights, strict=False)
    model.aux_classifier = None
    return model, outputs


def _last_of_each_size(maps: list[Tensor]) -> list[Tensor]:
    """Return the last map of each size in a row: the ends of a network's stages."""
    ends = [index for index in range(len(maps) - 1) if maps[index].shape[-2:] != maps[index + 1].shape[-2:]]
    return [maps[index] for index in ends] + maps[-1:]
