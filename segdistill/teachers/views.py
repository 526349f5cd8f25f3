"""A network that sees each image several times, enlarged or mirrored, and answers with the mean of its probabilities.

A network that was trained on large images finds more in small ones that are enlarged, and what it says of one image in
several views is steadier than what it says of one. It costs as many forward passes as there are views, of a teacher
alone: the student is as fast as ever.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from segdistill.config.schema import TeacherConfig
from segdistill.errors import UsageError
from segdistill.networks import SegNetwork
from segdistill.types import SegOutput


class Views(NamedTuple):
    """The views of an image that a network is shown."""

    scales: tuple[float, ...] = (1.0,)
    """Factors of the image's height and width, one or more."""
    flip: bool = False
    """Whether each is shown mirrored left to right, too."""

    @property
    def is_plain(self) -> bool:
        """Whether the network sees the image once, as it is."""
        return self == Views()

    def __str__(self) -> str:
        """Return the views in words, such as "1x, 1.5x, mirrored too"."""
        words = [f"{scale:g}x" for scale in self.scales]
        if self.flip:
            words.append("mirrored too")
        return ", ".join(words)


PLAIN = Views()
"""An image that is seen once, as it is."""


def views_of(config: TeacherConfig) -> Views:
    """Return the views of each image that a configuration's teacher is shown."""
    scales = (config.scale,) if config.scales is None else config.scales
    return Views(scales, config.flip)


class ViewedNetwork(SegNetwork):
    """A network whose answer is that of several views of each image.

    Its logits are on the largest grid among those of the views: a single view's logits as they are. Of several, the
    probabilities are averaged, not the logits: a view that is sure of itself beyond reason then counts no more than
    any other. What it returns is the logarithm of that mean, plus the mean of the views' own normalizers
    (log-sum-exp), so that terms which compare maps of logits find them on the scale that they have in one view.
    Feature maps are those of the first scale, not mirrored: maps of two views are of different places.
    """

    def __init__(self, network: SegNetwork, views: Views) -> None:
        super().__init__(network.num_classes)
        # Images go to the network within as they are, and it normalizes them; its maps are enlarged out here.
        self.set_preprocessing(self.images, align_corners=network.align_corners)
        self.network = network
        self.views = views
        self.only_size = network.only_size
        self.void_output = network.void_output
        self.training_only = tuple(f"network.{prefix}" for prefix in network.training_only)

    def forward(self, image: Tensor) -> SegOutput:
        """Segment images (B, 3, H, W), RGB in 0..255."""
        outputs: list[SegOutput] = []
        for scale in self.views.scales:
            seen = _scaled(image, scale)
            outputs.append(self.network(seen))
            if self.views.flip:
                mirrored: SegOutput = self.network(seen.flip(-1))
                outputs.append(mirrored._replace(logits=mirrored.logits.flip(-1)))
        logits = [output.logits for output in outputs]
        return SegOutput(mean_of_views(logits, align_corners=self.align_corners), outputs[0].features, None)

    def _get_name(self) -> str:
        return type(self.network).__name__  # what messages call it


def mean_of_views(logits: Sequence[Tensor], *, align_corners: bool) -> Tensor:
    """Return logits whose softmax is the mean of the softmax of each view, on the largest grid among them.

    Args:
        logits: (B, C, h, w) of each view, all of the same places; of one view they are returned as they are.
        align_corners: how maps are enlarged to the largest grid.

    Returns:
        (B, C, h, w) float32 of several views: the logarithm of the mean, plus the mean of the views' log-sum-exp.
    """
    if len(logits) == 1:
        return logits[0]
    grid = max((view.shape[-2:] for view in logits), key=lambda size: size.numel())
    probabilities: list[Tensor] = []
    normalizers: list[Tensor] = []
    for view in logits:
        # float32 under any autocast: probabilities of rare classes are far below what bfloat16 tells from 0
        at_grid = F.interpolate(view.float(), size=grid, mode="bilinear", align_corners=align_corners)
        probabilities.append(at_grid.softmax(1))
        normalizers.append(at_grid.logsumexp(1, keepdim=True))
    mean = torch.stack(probabilities).mean(0)
    # a class that no view gives any probability has no logarithm
    log_mean = mean.clamp(min=torch.finfo(mean.dtype).tiny).log()
    return log_mean + torch.stack(normalizers).mean(0)


def with_views(network: SegNetwork, views: Views) -> SegNetwork:
    """Return a network that is shown these views; itself where it sees each image once, as it is.

    Raises:
        UsageError: if it brings all images to one size, so that none is enlarged for it.
    """
    if views.is_plain:
        return network
    if network.only_size is not None and any(scale != 1 for scale in views.scales):
        height, width = network.only_size
        raise UsageError(
            f"The teacher takes images of {height}x{width} alone: enlarged ones are brought to that size again.",
            "Leave out teacher.scale and teacher.scales, or export its graph for images of any size.",
        )
    return ViewedNetwork(network, views)


def _scaled(image: Tensor, scale: float) -> Tensor:
    """Return images (B, 3, H, W) whose sides are multiplied, rounded to whole pixels."""
    if scale == 1:
        return image
    height, width = image.shape[-2:]
    size = (max(1, round(scale * height)), max(1, round(scale * width)))
    # antialiased: a smaller image would lose what is thin
    return F.interpolate(image, size=size, mode="bilinear", align_corners=False, antialias=scale < 1)
