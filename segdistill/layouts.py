"""Published checkpoints: what their tensors' names begin with there and here, and what those networks expect.

    CIRKD        github.com/winycg/CIRKD                            BGR, mean alone, align_corners
    torchvision  torchvision.models.segmentation                    ImageNet's RGB
    ESPNet       github.com/sacmehta/ESPNet                         BGR, statistics of the training images, / 255
    STDC-Seg     github.com/MichaelFan01/STDC-Seg                   ImageNet's RGB, align_corners
    PIDNet       github.com/XuJiacong/PIDNet                        the same (configs/default.py)
    OCRNet       github.com/HRNet/HRNet-Semantic-Segmentation       the same, branch HRNet-OCR
    DDRNet       github.com/ydhongHIT/DDRNet                        ImageNet's RGB

Where our own names are the published ones, nothing is to be renamed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from segdistill.config import InputConfig


@dataclass(frozen=True)
class Layout:
    """How a publication calls the tensors of a network, and what its weights expect."""

    source: str
    names: Mapping[str, str] = field(default_factory=dict)
    """What names begin with there: and here. All others are the same in both."""
    images: InputConfig = field(default_factory=InputConfig)
    images_by_outputs: Mapping[int, InputConfig] = field(default_factory=dict)
    """The same where the number of outputs tells which of several published checkpoints it is."""
    align_corners: bool = False
    left_out: Mapping[str, str] = field(default_factory=dict)
    """What the names of tensors begin with that have no place here: why."""


_CIRKD = {
    "pretrained.": "backbone.",
    "auxlayer.block.0.": "auxiliary.0.0.",
    "auxlayer.block.1.": "auxiliary.0.1.",
    "auxlayer.block.4.": "auxiliary.2.",
}
_TORCHVISION = {
    "backbone.": "backbone.",
    "aux_classifier.0.": "auxiliary.0.0.",
    "aux_classifier.1.": "auxiliary.0.1.",
    "aux_classifier.4.": "auxiliary.2.",
    "classifier.4.": "classifier.",
}
_CIRKD_DEEPLABV3 = _CIRKD | {
    "head.aspp.b0.": "aspp.branches.0.",
    "head.aspp.b1.block.": "aspp.branches.1.",
    "head.aspp.b2.block.": "aspp.branches.2.",
    "head.aspp.b3.block.": "aspp.branches.3.",
    "head.aspp.b4.gap.1.": "aspp.pool.0.",
    "head.aspp.b4.gap.2.": "aspp.pool.1.",
    "head.aspp.project.": "aspp.project.",
    "head.block.0.": "fuse.0.",
    "head.block.1.": "fuse.1.",
    "head.block.4.": "classifier.",
}
_CIRKD_PSPNET = _CIRKD | {
    "head.psp.conv1.": "pyramid.branches.0.",
    "head.psp.conv2.": "pyramid.branches.1.",
    "head.psp.conv3.": "pyramid.branches.2.",
    "head.psp.conv4.": "pyramid.branches.3.",
    "head.block.": "pyramid.fuse.",
    "head.classifier.": "classifier.",
}
_TORCHVISION_DEEPLABV3 = _TORCHVISION | {
    "classifier.0.convs.0.": "aspp.branches.0.",
    "classifier.0.convs.1.": "aspp.branches.1.",
    "classifier.0.convs.2.": "aspp.branches.2.",
    "classifier.0.convs.3.": "aspp.branches.3.",
    "classifier.0.convs.4.1.": "aspp.pool.0.",
    "classifier.0.convs.4.2.": "aspp.pool.1.",
    "classifier.0.project.": "aspp.project.",
    "classifier.1.": "fuse.0.",
    "classifier.2.": "fuse.1.",
}
_TORCHVISION_FCN = _TORCHVISION | {"classifier.0.": "reduce.0.", "classifier.1.": "reduce.1."}

_CIRKD_IMAGES = InputConfig(mean=(122.67891434, 116.66876762, 104.00698793), std=(1, 1, 1), order="bgr")
_OF_THE_LOSS = {"loss.": "weights of the classes in the loss"}
"""Of networks that were saved together with their loss."""

OURS = Layout("the names of our own networks")
CIRKD_DEEPLABV3 = Layout("CIRKD's DeepLabV3", _CIRKD_DEEPLABV3, _CIRKD_IMAGES, align_corners=True)
CIRKD_PSPNET = Layout("CIRKD's PSPNet", _CIRKD_PSPNET, _CIRKD_IMAGES, align_corners=True)
TORCHVISION_DEEPLABV3 = Layout("torchvision's DeepLabV3", _TORCHVISION_DEEPLABV3)
TORCHVISION_FCN = Layout("torchvision's FCN", _TORCHVISION_FCN)
ESPNET = Layout(
    "ESPNet's",
    images=InputConfig(order="bgr", divide=255),
    images_by_outputs={
        12: InputConfig(mean=(105.03, 108.41, 110.33), std=(69.90, 72.69, 72.13), order="bgr", divide=255),  # CamVid
        20: InputConfig(mean=(73.16, 82.91, 72.39), std=(44.91, 46.15, 45.32), order="bgr", divide=255),  # Cityscapes
    },
)
STDCSEG = Layout(
    "STDC-Seg's",
    align_corners=True,
    left_out={f"cp.backbone.{part}.": "a second name of the same weights" for part in ("x2", "x4", "x8", "x16", "x32")}
    | {f"cp.backbone.{part}.": "the backbone as a classifier" for part in ("conv_last", "fc", "bn", "linear")}
    | {"conv_out32.": "an auxiliary head that is not here", "conv_out_sp": "a head for details, in training only"},
)
PIDNET = Layout(
    "PIDNet's", align_corners=True, left_out={"seghead_d.": "a head for edges, in training only"} | _OF_THE_LOSS
)
OCRNET = Layout("OCRNet's", align_corners=True, left_out=_OF_THE_LOSS)
DDRNET = Layout("DDRNet's", left_out=_OF_THE_LOSS)

LAYOUTS = {
    "deeplabv3": (OURS, CIRKD_DEEPLABV3, TORCHVISION_DEEPLABV3),
    "pspnet": (OURS, CIRKD_PSPNET),
    "fcn": (OURS, TORCHVISION_FCN),
    "espnet": (ESPNET,),
    "stdcseg": (STDCSEG,),
    "pidnet": (PIDNET,),
    "ocrnet": (OCRNET,),
    "ddrnet": (DDRNET,),
}
"""By architecture. The order decides where several fit equally well."""


def layouts_of(network: str) -> tuple[Layout, ...]:
    """Return the layouts that a network, given by its full name, is published in; without any, that of its own names.

    What a layout is called by the names alone decides between them.
    """
    return LAYOUTS.get(network.partition("-")[0], (OURS,))


def renamed(weights: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """Return a published state dict under our names; what the layout does not know keeps its own.

    So does a tensor whose name here is taken by another one of them.
    """

    def ours(name: str) -> str:
        known = next((start for start in layout.names if name.startswith(start)), "")
        new = layout.names.get(known, "") + name.removeprefix(known)
        return name if new in weights else new

    return {ours(name): tensor for name, tensor in weights.items()}


def as_published(weights: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """Return a state dict of ours under the names that the layout has for it."""
    back = Layout(layout.source, {here: there for there, here in layout.names.items()})
    return renamed(weights, back)
