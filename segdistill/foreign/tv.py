"""torchvision's segmentation networks, tv:NAME with its published weights or tv:NAME:FILE with a state dict."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segdistill.checkpoint import weights_digest
from segdistill.config import InputConfig
from segdistill.errors import ModelError, UsageError, nearest
from segdistill.foreign._base import Loaded, normalised_by, numbered, watched
from segdistill.networks import SegNetwork, downloaded
from segdistill.networks._weights import mismatch, read_weights
from segdistill.types import SegOutput

WHERE = "NAME[:FILE]"
LAST = ("classifier.4.weight", "classifier.low_classifier.weight")
"""The tensors that tell how many classes there are: of FCN and DeepLabV3, of LR-ASPP."""


class Torchvision(SegNetwork):
    """Backbone and head at their own stride: torchvision's network would enlarge its logits to the image's size."""

    def __init__(self, model: nn.Module, num_classes: int) -> None:
        super().__init__(num_classes)
        self.model = model

    def segment(self, image: Tensor) -> SegOutput:
        """Segment normalised images; the features are the backbone's stages, then what feeds the classifier."""
        head, backbone = self.model.get_submodule("classifier"), self.model.get_submodule("backbone")
        blocks = dict(backbone.named_children())
        stages = [block for name, block in blocks.items() if name.startswith("layer")] or list(blocks.values())
        with watched(stages) as maps:
            found: Mapping[str, Tensor] = backbone(image)
        if "layer1" not in blocks:  # MobileNet's blocks: the last of each size ends a stage
            maps = [own for own, after in zip(maps, [*maps[1:], None], strict=True) if _ends(own, after)]
        if not isinstance(head, nn.Sequential):  # LR-ASPP classifies two maps
            return SegOutput(head(found), tuple(maps), None)
        with watched([head[-1]], inputs=True) as last:
            logits = head(found["out"])
        return SegOutput(logits, (*maps, *last), None)


def load(where: str, wanted: InputConfig | None, device: torch.device) -> Loaded:
    """Build a network of torchvision and fill it, strictly."""
    from torchvision import models  # late: a second of import time

    name, _, file = where.partition(":")
    names = models.list_models(module=models.segmentation)
    if name not in names:
        raise UsageError(f"torchvision has no segmentation network {name!r}.", nearest(name, names))
    published: Any = models.get_model_weights(name).DEFAULT
    path = Path(file) if file else downloaded(published.url, f"The weights of {name}", f"tv:{name}:FILE")
    weights = read_weights(path).tensors
    outputs = [len(weights[tensor]) for tensor in LAST if tensor in weights]
    aux = {"aux_loss": True} if any(tensor.startswith("aux_classifier.") for tensor in weights) else {}
    model: Any = models.get_model(
        name, weights=None, weights_backbone=None, num_classes=outputs[0] if outputs else 1, **aux
    )
    if wrong := mismatch(model.state_dict(), weights):
        raise ModelError(
            f"{path} does not hold the tensors of torchvision's {name}: {wrong}", "Give the state dict of that network."
        )
    model.load_state_dict(weights, strict=False)
    model.aux_classifier = None
    network = Torchvision(model, outputs[0])
    ours = path.name == Path(published.url).name
    classes = tuple(published.meta["categories"]) if ours else numbered(outputs[0])
    notes = normalised_by(network, wanted)
    return Loaded(network, name, classes, weights_digest(weights), notes=() if ours else notes)


def _ends(own: Tensor, after: Tensor | None) -> bool:
    return after is None or own.shape[-2:] != after.shape[-2:]
