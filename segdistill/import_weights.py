"""Published checkpoints under our names: what the tensors' names begin with there, and here, per layout."""

from collections.abc import Mapping

from torch import Tensor

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
CIRKD_DEEPLABV3 = _CIRKD | {
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
"""deeplabv3, `stem = "deep"`; `head_width = 512` in checkpoints of 2025. github.com/winycg/CIRKD"""
CIRKD_PSPNET = _CIRKD | {
    "head.psp.conv1.": "pyramid.branches.0.",
    "head.psp.conv2.": "pyramid.branches.1.",
    "head.psp.conv3.": "pyramid.branches.2.",
    "head.psp.conv4.": "pyramid.branches.3.",
    "head.block.": "pyramid.fuse.",
    "head.classifier.": "classifier.",
}
"""pspnet, `stem = "deep"` and `align_corners`; `head_width = 256` on ResNet-101 in checkpoints of 2025."""
TORCHVISION_DEEPLABV3 = _TORCHVISION | {
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
TORCHVISION_FCN = _TORCHVISION | {"classifier.0.": "reduce.0.", "classifier.1.": "reduce.1."}


def renamed(weights: Mapping[str, Tensor], layout: Mapping[str, str]) -> dict[str, Tensor]:
    """Return a published state dict under our names; what the layout does not know keeps its own."""

    def ours(name: str) -> str:
        known = next((start for start in layout if name.startswith(start)), None)
        return name if known is None else layout[known] + name.removeprefix(known)

    return {ours(name): tensor for name, tensor in weights.items()}
