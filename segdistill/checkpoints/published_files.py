"""Checkpoints that their own file names tell: the network, the classes, and the output that stands for void."""

import re
from typing import NamedTuple

from segdistill.data.datasets import cityscapes
from segdistill.networks import resolve_name


class PublishedFile(NamedTuple):
    """A checkpoint, as its authors publish it."""

    network: str
    """Full name of the network."""
    classes: tuple[str, ...]
    """Names of the classes, by output, void left out."""
    palette: tuple[tuple[int, int, int], ...]
    """Colors of the classes."""
    void_output: int | None
    """Output that stands for void, behind all classes."""


ESPNETV2_CITYSCAPES = re.compile(r"espnetv2_s_(0\.5|1\.0|1\.5|2\.0)_city_\d+x\d+\.pth")
"""Names of the files in sacmehta/EdgeNets, model/segmentation/model_zoo/espnetv2: scale, and the size of the images."""


def published_file(name: str) -> PublishedFile | None:
    """Return what a file's name, without its folder, tells; None where no publication is known to call its files so."""
    match = ESPNETV2_CITYSCAPES.fullmatch(name)
    if match is None:
        return None
    scale = "" if match[1] == "1.0" else f"-{match[1]}"
    return PublishedFile(
        network=resolve_name(f"espnetv2{scale}"),
        classes=cityscapes.CLASSES,
        palette=cityscapes.PALETTE,
        void_output=len(cityscapes.CLASSES),
    )
