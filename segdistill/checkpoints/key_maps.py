"""Published checkpoints: how their tensors' names begin there and here, and the preprocessing of those networks.

    CIRKD        github.com/winycg/CIRKD                            BGR, mean alone, align_corners
    SKD          github.com/irfanICMLL/structure_knowledge_distillation
                   master, networks/pspnet_combine.py               the same
                   cvpr_19, network/ESPnet.py                       BGR, statistics of Cityscapes, align_corners
    IFVD         github.com/YukangWang/IFVD, networks/pspnet.py     as SKD's master, by the same names
    torchvision  torchvision.models.segmentation                    ImageNet's RGB
    ESPNet       github.com/sacmehta/ESPNet                         BGR, statistics of the training images, / 255
    ESPNetv2     github.com/sacmehta/EdgeNets                       ImageNet's RGB, align_corners
    STDC-Seg     github.com/MichaelFan01/STDC-Seg                   the same
    PIDNet       github.com/XuJiacong/PIDNet                        the same (configs/default.py)
    OCRNet       github.com/HRNet/HRNet-Semantic-Segmentation       the same, branch HRNet-OCR
    DDRNet       github.com/ydhongHIT/DDRNet                        ImageNet's RGB
    mmseg        github.com/open-mmlab/mmsegmentation, 1.x          ImageNet's RGB
    smp          github.com/qubvel-org/segmentation_models.pytorch  what its user chose

Where our own names are the published ones, nothing is to be renamed. A key map whose checkpoints do not all have the
same preprocessing, or of which that is not known, has no `preprocessing`: then flags must give it, or the number of
outputs tells which published checkpoint it is.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from segdistill.checkpoints import mmsegmentation_names
from segdistill.config.schema import InputConfig


class Preprocessing(NamedTuple):
    """The images that the weights of one publication expect, and the way their logits are enlarged."""

    publication: str
    images: InputConfig
    """Mean, standard deviation and order of channels."""
    align_corners: bool = False
    """Whether logits are enlarged with corners aligned."""
    void_output: int | None = None
    """Index of the output that stands for void there."""
    scored_at: str = ""
    """Size of the images for which its scores are published, HxW, where that is not the files' own."""


class Conversion(NamedTuple):
    """Tensors that a publication computes with otherwise than our networks do, and what makes them come to the same."""

    tensors: str
    """Words for these tensors, in the plural."""
    names: re.Pattern[str]
    """Pattern of all their names here."""
    reason: str
    """Words that go on from "converted": to what, and why."""
    convert: Callable[[Tensor], Tensor]
    """Function from a published tensor to ours."""


class Question(NamedTuple):
    """A choice about a network that such a file leaves open."""

    tensors: str
    """Beginning of the names of the tensors whose presence raises it."""
    problem: str
    """Words on what the file does not tell."""
    answers: str
    """Flags to choose from, as a sentence."""


@dataclass(frozen=True)
class KeyMap:
    """The names that a publication gives to the tensors of a network, and all else that its files leave unsaid."""

    source: str
    """Words for the publication, as a subject."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Beginnings of names here, by those there. All other names are the same in both."""
    preprocessing: Preprocessing | None = None
    """Preprocessing of all its checkpoints; None where they differ, or where it is not known."""
    by_outputs: Mapping[int, Preprocessing] = field(default_factory=dict)
    """Preprocessing of those published checkpoints that their number of outputs tells; it comes first."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Choices about the network that its publication made and that no tensor tells."""
    questions: Mapping[str, Question] = field(default_factory=dict)
    """Choices that its publication made differently in different checkpoints, by the network's option."""
    conversions: tuple[Conversion, ...] = ()
    """Tensors that have other values here."""
    label_convolution: str = ""
    """Convolution, by its name here, that sees the label too in checkpoints of the same code by Qiu et al. 2024."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Reasons why tensors are left out, by the beginnings of their names there."""
    unlike: Mapping[str, str] = field(default_factory=dict)
    """Differences between its network and ours that no tensor shows, by the ending of our network's full name."""
    zeros: tuple[str, ...] = ()
    """Biases of ours, by their names here, that the publication's network does not have."""

    def preprocessing_of(self, outputs: int) -> Preprocessing | None:
        """Return the preprocessing of a checkpoint of so many outputs; None where that is not known."""
        return self.by_outputs.get(outputs, self.preprocessing)

    def known(self) -> list[Preprocessing]:
        """Return the preprocessing of its published checkpoints, each once."""
        if self.preprocessing is not None:
            return [self.preprocessing]
        distinct: list[Preprocessing] = []
        for preprocessing in self.by_outputs.values():
            if preprocessing not in distinct:  # a set would need hashes, and lose the order
                distinct.append(preprocessing)
        return distinct


# Numbers in names, such as block.4 here, are places in the publications' nn.Sequential: between two of them are
# activations and dropout, which have no tensors.
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

# Their backbone is not a module of its own, so that each of its parts is renamed for itself.
_SKD_PSPNET_BACKBONE = ("conv1", "conv2", "conv3", "bn1", "bn2", "bn3", "layer1", "layer2", "layer3", "layer4")
_SKD_PSPNET = {f"{part}.": f"backbone.{part}." for part in _SKD_PSPNET_BACKBONE} | {
    "pspmodule.stages.0.1.": "pyramid.branches.0.0.",
    "pspmodule.stages.0.2.": "pyramid.branches.0.1.",
    "pspmodule.stages.1.1.": "pyramid.branches.1.0.",
    "pspmodule.stages.1.2.": "pyramid.branches.1.1.",
    "pspmodule.stages.2.1.": "pyramid.branches.2.0.",
    "pspmodule.stages.2.2.": "pyramid.branches.2.1.",
    "pspmodule.stages.3.1.": "pyramid.branches.3.0.",
    "pspmodule.stages.3.2.": "pyramid.branches.3.1.",
    "pspmodule.bottleneck.": "pyramid.fuse.",
    "head.": "classifier.",
}
_SKD_ESPNET_ENCODER = ("level1", "b1", "level2_0", "level2", "b2", "level3_0", "level3", "b3")
_SKD_ESPNET = {f"{part}.": f"encoder.{part}." for part in _SKD_ESPNET_ENCODER} | {
    "classifier_1.": "encoder.classifier."
}

ABN_EPS = 1e-5
"""Number that in-place activated batch norm adds to its weights, by the default of its code."""


def _as_multiplied(weight: Tensor) -> Tensor:
    """Return what in-place activated batch norm (Rota Bulo et al. 2018) multiplies by, in single precision at least.

    It must be able to invert itself, so that its kernels take |weight| + eps, of which the state dict says nothing.
    """
    return weight.to(torch.promote_types(weight.dtype, torch.float32)).abs() + ABN_EPS


def _halves_exchanged(weight: Tensor) -> Tensor:
    """Return a convolution for the same inputs in the other order: the pyramid has as many channels as the stage."""
    return weight.roll(weight.shape[1] // 2, dims=1)


def _activated(names: str) -> Conversion:
    return Conversion(
        tensors="weights of batch norm",
        names=re.compile(names),
        reason="to |weight| + 1e-5, by which in-place activated batch norm multiplies",
        convert=_as_multiplied,
    )


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
    # Their code has them in the order 73.18 82.94 72.42, 45.32 46.15 44.91, of BGR images; those of CamVid too.
    mean=(72.41519599, 82.93553322, 73.18188461),
    std=(44.9148, 46.1528, 45.3199),
    order="bgr",
)
_SKD_CAMVID = Preprocessing("Liu et al. 2019, CamVid", _SKD_ESPNET_IMAGES, align_corners=True, scored_at="360x480")
_SKD_CITYSCAPES = Preprocessing(
    "Liu et al. 2019, Cityscapes", _SKD_ESPNET_IMAGES, align_corners=True, scored_at="512x1024"
)
_ESPNETV2_EXPECTS = Preprocessing("ESPNetv2's authors", IMAGENET, align_corners=True)
_ESPNETV2_CITYSCAPES = Preprocessing(
    "ESPNetv2's authors, Cityscapes",
    IMAGENET,
    align_corners=True,
    void_output=19,
    scored_at="512x1024 or 256x512 (as the file's name says)",
)
_STDCSEG_EXPECTS = Preprocessing(
    "STDC-Seg's authors",
    IMAGENET,
    align_corners=True,
    scored_at="512x1024 (files that end in 50) or 768x1536 (75)",
)
_LOSS_TENSORS = {"loss.": "weights of the classes in the loss"}
"""Tensors of networks that were saved together with their loss."""
_STDCSEG_LEFT_OUT = {
    "cp.backbone.x2.": "a second name of the same weights",
    "cp.backbone.x4.": "a second name of the same weights",
    "cp.backbone.x8.": "a second name of the same weights",
    "cp.backbone.x16.": "a second name of the same weights",
    "cp.backbone.x32.": "a second name of the same weights",
    "cp.backbone.conv_last.": "the backbone as a classifier",
    "cp.backbone.fc.": "the backbone as a classifier",
    "cp.backbone.bn.": "the backbone as a classifier",
    "cp.backbone.linear.": "the backbone as a classifier",
    "conv_out32.": "an auxiliary head that is not here",
    "conv_out_sp": "a head for details, in training only",
}

# By network and publication. Key maps without names are of networks that have the published names here too.
NATIVE = KeyMap("our own networks")
CIRKD_DEEPLABV3 = KeyMap(
    "CIRKD's DeepLabV3", _CIRKD_DEEPLABV3, _CIRKD_EXPECTS, label_convolution="backbone.conv1.weight"
)
CIRKD_PSPNET = KeyMap("CIRKD's PSPNet", _CIRKD_PSPNET, _CIRKD_EXPECTS, label_convolution="backbone.conv1.weight")
SKD_PSPNET = KeyMap(
    "Liu et al.'s PSPNet",
    _SKD_PSPNET,
    _SKD_EXPECTS,
    options={"dilation": "early", "stem_pool": "ceil", "head_slope": 0.01},
    conversions=(
        _activated(r"backbone\.(.*\.)?(bn\d|downsample\.1)\.weight|pyramid\.(branches\.\d|fuse)\.1\.weight"),
        Conversion(
            tensors="weights of the pyramid's fusion",
            names=re.compile(r"pyramid\.fuse\.0\.weight"),
            reason="to the order in which the stage comes before the averages, there it comes after them",
            convert=_halves_exchanged,
        ),
    ),
    left_out={"dsn.": "the auxiliary head, in training only, of another form"},
)
TORCHVISION_DEEPLABV3 = KeyMap("torchvision's DeepLabV3", _TORCHVISION_DEEPLABV3, _TORCHVISION_EXPECTS)
TORCHVISION_FCN = KeyMap("torchvision's FCN", _TORCHVISION_FCN, _TORCHVISION_EXPECTS)
ESPNET = KeyMap("ESPNet's authors", by_outputs={12: _ESPNET_CAMVID, 20: _ESPNET_CITYSCAPES})
SKD_ESPNET = KeyMap("Liu et al.'s ESPNet", _SKD_ESPNET, by_outputs={11: _SKD_CAMVID, 19: _SKD_CITYSCAPES})
ESPNET_C = KeyMap("ESPNet-C's authors and Liu et al.", by_outputs={**ESPNET.by_outputs, **SKD_ESPNET.by_outputs})
"""Both have the same names; but Liu et al.'s have no output for void."""
ESPNETV2 = KeyMap(
    "ESPNetv2's authors",
    {"base_net.": "backbone."},
    _ESPNETV2_EXPECTS,
    by_outputs={20: _ESPNETV2_CITYSCAPES},
    left_out={
        f"base_net.level{level}_0.eesp.module_act.": "an activation that their code does not compute with"
        for level in (2, 3, 4)
    },
)
STDCSEG = KeyMap(
    "STDC-Seg's authors",
    preprocessing=_STDCSEG_EXPECTS,
    questions={
        "conv_last": Question(
            "cp.backbone.conv_last.",
            "which STDC-Seg's code stores whether its network computes with it (use_conv_last) or not",
            "Give --set conv_last=false, the default of their training and evaluation, or --set conv_last=true.",
        )
    },
    conversions=(_activated(r"(cp\.(arm|conv_)|ffm\.|conv_out).*\.bn(_atten)?\.weight"),),
    left_out=_STDCSEG_LEFT_OUT,
)
PIDNET = KeyMap(
    "PIDNet's authors",
    preprocessing=Preprocessing("PIDNet's authors", IMAGENET, align_corners=True),
    left_out={"seghead_d.": "a head for edges, in training only"} | _LOSS_TENSORS,
)
OCRNET = KeyMap(
    "OCRNet's authors",
    preprocessing=Preprocessing("OCRNet's authors", IMAGENET, align_corners=True),
    left_out=_LOSS_TENSORS,
)
DDRNET = KeyMap("DDRNet's authors", preprocessing=Preprocessing("DDRNet's authors", IMAGENET), left_out=_LOSS_TENSORS)

_MMSEGMENTATION = Preprocessing("mmsegmentation", IMAGENET)
_MMSEGMENTATION_ALIGNED = Preprocessing("mmsegmentation", IMAGENET, align_corners=True)
_UNDILATED = "the second convolution of a block does not dilate there, and does here, as in torchvision"
MMSEG_PSPNET = KeyMap(
    "mmsegmentation's PSPNet",
    mmsegmentation_names.PSPNET,
    _MMSEGMENTATION,
    unlike={"resnet18": _UNDILATED, "resnet18-half": _UNDILATED, "resnet34": _UNDILATED},
)
MMSEG_DDRNET = KeyMap(
    "mmsegmentation's DDRNet",
    mmsegmentation_names.DDRNET,
    _MMSEGMENTATION,
    left_out={"decode_head.aux_": "the auxiliary head, in training only"},
    zeros=mmsegmentation_names.DUAL_BIASES,
)
MMSEG_PIDNET = KeyMap(
    "mmsegmentation's PIDNet",
    mmsegmentation_names.PIDNET,
    _MMSEGMENTATION_ALIGNED,
    left_out={f"decode_head.{letter}_": "a head in training only" for letter in "pd"},
    zeros=mmsegmentation_names.DUAL_BIASES,
)
_MMSEG_STDC_LEFT_OUT = {"auxiliary_head.": "heads in training only"}
MMSEG_STDC1 = KeyMap(
    "mmsegmentation's STDC",
    mmsegmentation_names.STDC1,
    _MMSEGMENTATION_ALIGNED,
    options={"classifier_bias": True},
    left_out=_MMSEG_STDC_LEFT_OUT,
)
MMSEG_STDC2 = KeyMap(
    "mmsegmentation's STDC",
    mmsegmentation_names.STDC2,
    _MMSEGMENTATION_ALIGNED,
    options={"classifier_bias": True},
    left_out=_MMSEG_STDC_LEFT_OUT,
)
_SMP_UNET = {"encoder.": "backbone.", "segmentation_head.0.": "classifier."} | {
    f"decoder.blocks.{block}.conv{part + 1}.{place}.": f"decoder.{block}.{part}.{place}."
    for block in range(5)
    for part in (0, 1)
    for place in (0, 1)
}
SMP_UNET = KeyMap("segmentation_models.pytorch's Unet", _SMP_UNET)

KEY_MAPS = {
    "deeplabv3": (NATIVE, CIRKD_DEEPLABV3, TORCHVISION_DEEPLABV3),
    "pspnet": (NATIVE, CIRKD_PSPNET, SKD_PSPNET, MMSEG_PSPNET),
    "fcn": (NATIVE, TORCHVISION_FCN),
    "espnet": (ESPNET, SKD_ESPNET),
    "espnet-c": (ESPNET_C,),
    "espnet-c-q3": (ESPNET,),
    "espnet-c-q5": (ESPNET,),
    "espnetv2": (NATIVE, ESPNETV2),
    "stdcseg-stdc1": (STDCSEG, MMSEG_STDC1),
    "stdcseg-stdc2": (STDCSEG, MMSEG_STDC2),
    "pidnet": (PIDNET, MMSEG_PIDNET),
    "ocrnet": (OCRNET,),
    "ddrnet": (DDRNET, MMSEG_DDRNET),
    "unet": (NATIVE, SMP_UNET),
}
"""Key maps by network, or by architecture where its networks do not differ. The first counts of those that fit equally
well."""


def key_maps_of(network: str) -> tuple[KeyMap, ...]:
    """Return the key maps that a network, given by its full name, is published with; else the one of its own names.

    The names of a file's tensors alone decide between them.
    """
    architecture = network.partition("-")[0]
    return KEY_MAPS.get(network) or KEY_MAPS.get(architecture, (NATIVE,))


def renamed(weights: Mapping[str, Tensor], key_map: KeyMap) -> dict[str, Tensor]:
    """Return a published state dict under our names; a tensor that the key map does not know keeps its own.

    So does a tensor whose name here is taken by another one of them.
    """
    result = {}
    for name, tensor in weights.items():
        beginning = next((beginning for beginning in key_map.names if name.startswith(beginning)), "")
        new_name = key_map.names.get(beginning, "") + name.removeprefix(beginning)
        result[name if new_name in weights else new_name] = tensor
    return result


def as_published(weights: Mapping[str, Tensor], key_map: KeyMap) -> dict[str, Tensor]:
    """Return a state dict of ours under the names that the publication has for it."""
    backwards = KeyMap(key_map.source, {ours: published for published, ours in key_map.names.items()})
    return renamed(weights, backwards)
