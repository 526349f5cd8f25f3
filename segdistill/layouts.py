"""Published checkpoints: what their tensors' names begin with there and here, and what those networks expect.

    CIRKD        github.com/winycg/CIRKD                            BGR, mean alone, align_corners
    SKD          github.com/irfanICMLL/structure_knowledge_distillation
                   master, networks/pspnet_combine.py               the same
                   cvpr_19, network/ESPnet.py                       BGR, statistics of Cityscapes, align_corners
    IFVD         github.com/YukangWang/IFVD, networks/pspnet.py     as SKD's master, by the same names
    torchvision  torchvision.models.segmentation                    ImageNet's RGB
    ESPNet       github.com/sacmehta/ESPNet                         BGR, statistics of the training images, / 255
    STDC-Seg     github.com/MichaelFan01/STDC-Seg                   ImageNet's RGB, align_corners
    PIDNet       github.com/XuJiacong/PIDNet                        the same (configs/default.py)
    OCRNet       github.com/HRNet/HRNet-Semantic-Segmentation       the same, branch HRNet-OCR
    DDRNet       github.com/ydhongHIT/DDRNet                        ImageNet's RGB

Where our own names are the published ones, nothing is to be renamed. A layout whose checkpoints do not all expect the
same, or of which that is not known, says so by having no `preprocessing`: then it must be told, or the number of
outputs tells which published checkpoint it is.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from segdistill.config import InputConfig


class Preprocessing(NamedTuple):
    """What the weights of one publication expect of images, and how their logits are enlarged."""

    publication: str
    images: InputConfig
    align_corners: bool = False
    void_output: int | None = None
    """The output that stands for void there."""
    scored_at: str = ""
    """The images' size for which its scores are published, where that is not the files' own."""


class Conversion(NamedTuple):
    """Tensors that a publication computes with otherwise than our networks do, and how they come to the same here."""

    tensors: str
    names: re.Pattern[str]
    """All of their names here."""
    reason: str
    convert: Callable[[Tensor], Tensor]


class Question(NamedTuple):
    """A choice about a network that such a file leaves open."""

    tensors: str
    """What the names of the tensors begin with whose presence raises it."""
    problem: str
    answers: str
    """The flags to choose from, as a sentence."""


@dataclass(frozen=True)
class Layout:
    """How a publication calls the tensors of a network, and what its weights expect."""

    source: str
    names: Mapping[str, str] = field(default_factory=dict)
    """What names begin with there: and here. All others are the same in both."""
    preprocessing: Preprocessing | None = None
    """Of all its checkpoints; None where they differ, or where it is not known."""
    by_outputs: Mapping[int, Preprocessing] = field(default_factory=dict)
    """Of those published checkpoints that their number of outputs tells."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Choices about the network that its publication made and that no tensor tells."""
    questions: Mapping[str, Question] = field(default_factory=dict)
    """Choices that its publication made now so, now so."""
    conversions: tuple[Conversion, ...] = ()
    label_convolution: str = ""
    """The convolution, by its name here, that sees the label too in checkpoints of the same code by Qiu et al. 2024."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """What the names of tensors begin with that have no place here: why."""

    def preprocessing_of(self, outputs: int) -> Preprocessing | None:
        """Return what a checkpoint of so many outputs expects; None where that is not known."""
        return self.preprocessing or self.by_outputs.get(outputs)

    def known(self) -> list[Preprocessing]:
        """Return what its published checkpoints expect, each once."""
        every = [*self.by_outputs.values()] if self.preprocessing is None else [self.preprocessing]
        return [one for place, one in enumerate(every) if one not in every[:place]]


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

_SKD_PSPNET = {f"{part}.": f"backbone.{part}." for part in ("conv1", "conv2", "conv3", "bn1", "bn2", "bn3")}
_SKD_PSPNET |= {f"layer{stage}.": f"backbone.layer{stage}." for stage in (1, 2, 3, 4)}
for _grid in range(4):
    _SKD_PSPNET[f"pspmodule.stages.{_grid}.1."] = f"pyramid.branches.{_grid}.0."
    _SKD_PSPNET[f"pspmodule.stages.{_grid}.2."] = f"pyramid.branches.{_grid}.1."
_SKD_PSPNET |= {"pspmodule.bottleneck.": "pyramid.fuse.", "head.": "classifier."}
_SKD_ESPNET = {
    f"{part}.": f"encoder.{part}." for part in ("level1", "b1", "level2_0", "level2", "b2", "level3_0", "level3", "b3")
} | {"classifier_1.": "encoder.classifier."}

ABN_EPS = 1e-5


def _as_multiplied(weight: Tensor) -> Tensor:
    """Return what in-place activated batch norm (Rota Bulo et al. 2018) multiplies by, in single precision at least.

    It must be able to invert itself, so that its kernels take |weight| + eps, of which the state dict says nothing.
    """
    return weight.to(torch.promote_types(weight.dtype, torch.float32)).abs() + ABN_EPS


def _halves_exchanged(weight: Tensor) -> Tensor:
    """Return a convolution for the same inputs in the other order: the pyramid has as many channels as the stage."""
    return weight.roll(weight.shape[1] // 2, dims=1)


def _activated(names: str) -> Conversion:
    reason = "to |weight| + 1e-5, by which in-place activated batch norm multiplies"
    return Conversion("weights of batch norm", re.compile(names), reason, _as_multiplied)


IMAGENET = InputConfig()
"""RGB, with ImageNet's mean and deviation."""
_CIRKD_IMAGES = InputConfig(mean=(122.67891434, 116.66876762, 104.00698793), std=(1, 1, 1), order="bgr")
_CIRKD_EXPECTS = Preprocessing("CIRKD", _CIRKD_IMAGES, align_corners=True)
_SKD_EXPECTS = Preprocessing("Liu et al. 2019, PSPNet", _CIRKD_IMAGES, align_corners=True)
_TORCHVISION_EXPECTS = Preprocessing("torchvision", IMAGENET)
_ESPNET_CAMVID = Preprocessing(
    "ESPNet's authors, CamVid",
    InputConfig(mean=(105.03, 108.41, 110.33), std=(69.90, 72.69, 72.13), order="bgr", divide=255),
    void_output=11,
    scored_at="360x480",
)
_ESPNET_CITYSCAPES = Preprocessing(
    "ESPNet's authors, Cityscapes",
    InputConfig(mean=(73.16, 82.91, 72.39), std=(44.91, 46.15, 45.32), order="bgr", divide=255),
    void_output=19,
    scored_at="512x1024",
)
_SKD_ESPNET_IMAGES = InputConfig(
    # theirs stand beside BGR images in the order 73.18 82.94 72.42, 45.32 46.15 44.91; with CamVid too
    mean=(72.41519599, 82.93553322, 73.18188461),
    std=(44.9148, 46.1528, 45.3199),
    order="bgr",
)
_SKD_CAMVID = Preprocessing("Liu et al. 2019, CamVid", _SKD_ESPNET_IMAGES, align_corners=True, scored_at="360x480")
_SKD_CITYSCAPES = Preprocessing(
    *("Liu et al. 2019, Cityscapes", _SKD_ESPNET_IMAGES), align_corners=True, scored_at="512x1024"
)
_OF_THE_LOSS = {"loss.": "weights of the classes in the loss"}
"""Of networks that were saved together with their loss."""

OURS = Layout("our own networks")
CIRKD_DEEPLABV3 = Layout(
    "CIRKD's DeepLabV3", _CIRKD_DEEPLABV3, _CIRKD_EXPECTS, label_convolution="backbone.conv1.weight"
)
CIRKD_PSPNET = Layout("CIRKD's PSPNet", _CIRKD_PSPNET, _CIRKD_EXPECTS, label_convolution="backbone.conv1.weight")
SKD_PSPNET = Layout(
    "Liu et al.'s PSPNet",
    _SKD_PSPNET,
    _SKD_EXPECTS,
    options={"dilation": "early", "stem_pool": "ceil", "head_slope": 0.01},
    conversions=(
        _activated(r"backbone\.(.*\.)?(bn\d|downsample\.1)\.weight|pyramid\.(branches\.\d|fuse)\.1\.weight"),
        Conversion(
            "weights of the pyramid's fusion",
            re.compile(r"pyramid\.fuse\.0\.weight"),
            "to the order in which the stage comes before the averages, there it comes after them",
            _halves_exchanged,
        ),
    ),
    left_out={"dsn.": "the auxiliary head, in training only, of another form"},
)
TORCHVISION_DEEPLABV3 = Layout("torchvision's DeepLabV3", _TORCHVISION_DEEPLABV3, _TORCHVISION_EXPECTS)
TORCHVISION_FCN = Layout("torchvision's FCN", _TORCHVISION_FCN, _TORCHVISION_EXPECTS)
ESPNET = Layout("ESPNet's authors", by_outputs={12: _ESPNET_CAMVID, 20: _ESPNET_CITYSCAPES})
SKD_ESPNET = Layout("Liu et al.'s ESPNet", _SKD_ESPNET, by_outputs={11: _SKD_CAMVID, 19: _SKD_CITYSCAPES})
ESPNET_C = Layout("ESPNet-C's authors and Liu et al.", by_outputs={**ESPNET.by_outputs, **SKD_ESPNET.by_outputs})
"""Both have the same names; but Liu et al.'s have no output for void."""
STDCSEG = Layout(
    "STDC-Seg's authors",
    preprocessing=Preprocessing(
        *("STDC-Seg's authors", IMAGENET),
        align_corners=True,
        scored_at="512x1024 (files that end in 50) or 768x1536 (75)",
    ),
    questions={
        "conv_last": Question(
            "cp.backbone.conv_last.",
            "which STDC-Seg's code stores whether its network computes with it (use_conv_last) or not",
            "Give --set conv_last=false, the default of their training and evaluation, or --set conv_last=true.",
        )
    },
    conversions=(_activated(r"(cp\.(arm|conv_)|ffm\.|conv_out).*\.bn(_atten)?\.weight"),),
    left_out={f"cp.backbone.{part}.": "a second name of the same weights" for part in ("x2", "x4", "x8", "x16", "x32")}
    | {f"cp.backbone.{part}.": "the backbone as a classifier" for part in ("conv_last", "fc", "bn", "linear")}
    | {"conv_out32.": "an auxiliary head that is not here", "conv_out_sp": "a head for details, in training only"},
)
PIDNET = Layout(
    "PIDNet's authors",
    preprocessing=Preprocessing("PIDNet's authors", IMAGENET, align_corners=True),
    left_out={"seghead_d.": "a head for edges, in training only"} | _OF_THE_LOSS,
)
OCRNET = Layout(
    "OCRNet's authors",
    preprocessing=Preprocessing("OCRNet's authors", IMAGENET, align_corners=True),
    left_out=_OF_THE_LOSS,
)
DDRNET = Layout("DDRNet's authors", preprocessing=Preprocessing("DDRNet's authors", IMAGENET), left_out=_OF_THE_LOSS)

LAYOUTS = {
    "deeplabv3": (OURS, CIRKD_DEEPLABV3, TORCHVISION_DEEPLABV3),
    "pspnet": (OURS, CIRKD_PSPNET, SKD_PSPNET),
    "fcn": (OURS, TORCHVISION_FCN),
    "espnet": (ESPNET, SKD_ESPNET),
    "espnet-c": (ESPNET_C,),
    "espnet-c-q3": (ESPNET,),
    "espnet-c-q5": (ESPNET,),
    "stdcseg": (STDCSEG,),
    "pidnet": (PIDNET,),
    "ocrnet": (OCRNET,),
    "ddrnet": (DDRNET,),
}
"""By network, or by architecture where its networks do not differ. The order decides where several fit equally well."""


def layouts_of(network: str) -> tuple[Layout, ...]:
    """Return the layouts that a network, given by its full name, is published in; without any, that of its own names.

    What a layout is called by the names alone decides between them.
    """
    return LAYOUTS.get(network) or LAYOUTS.get(network.partition("-")[0], (OURS,))


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
