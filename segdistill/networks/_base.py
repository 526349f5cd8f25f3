"""The base of all networks: each normalizes its input and returns a `SegOutput`."""

import torch
from torch import Tensor, nn

from segdistill.config.schema import IMAGENET_STD, InputConfig
from segdistill.networks._backbone import Backbone
from segdistill.networks._prelu import SummedPReLU
from segdistill.types import SegOutput


class SegNetwork(nn.Module):
    """A segmentation network from RGB images in 0..255 to a `SegOutput`; subclasses write `segment`.

    Channels beyond the third (a label-assisted teacher has them) are brought to the scale of the colors: they are
    divided by the colors' mean deviation over ImageNet's. What it wants of its images and how its maps are enlarged
    is not part of the state dict: the model file's header carries it.
    """

    mean: Tensor
    """(1, in_channels, 1, 1): mean of each channel in 0..255."""
    std: Tensor
    """(1, in_channels, 1, 1): divisor of each channel."""
    num_classes: int
    """Number of outputs, a void output included."""
    backbone: Backbone | None
    """Part that ImageNet weights fill; None where no part of the network has such weights."""
    training_only: tuple[str, ...] = ("aux",)
    """Beginnings of the names of the tensors that are not shipped: the auxiliary head's."""
    only_size: tuple[int, int] | None = None
    """Size (H, W) to which it brings all its images, if it can take no others."""
    void_output: int | None = None
    """Number of the output which says that a pixel is of none of the classes, where there is one more than classes.
    Like what it wants of its images, the model file's header carries it."""

    def __init__(self, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.backbone = None
        # Buffers, so that they move with the network and are part of an exported graph.
        self.register_buffer("mean", torch.zeros(1, in_channels, 1, 1), persistent=False)
        self.register_buffer("std", torch.ones(1, in_channels, 1, 1), persistent=False)
        self.set_preprocessing(InputConfig(), align_corners=False)

    def set_preprocessing(self, images: InputConfig, *, align_corners: bool) -> None:
        """Take images as the weights were, or will be, trained on, and enlarge maps likewise."""
        self.images = images
        self.align_corners = align_corners
        color_std = [deviation * images.divide for deviation in images.std]
        further_std = images.divide * sum(images.std) / sum(IMAGENET_STD)
        self.mean[:, :3] = torch.tensor(images.mean).view(1, 3, 1, 1)
        self.std[:, :3] = torch.tensor(color_std).view(1, 3, 1, 1)
        self.std[:, 3:] = further_std

    def forward(self, image: Tensor) -> SegOutput:
        """Segment images (B, 3, H, W), RGB in 0..255, of any size."""
        normalized = (image - self.mean) / self.std
        # Mean and deviation are of RGB, so the order changes after them.
        if self.images.order == "bgr":
            normalized = torch.cat([normalized[:, :3].flip(1), normalized[:, 3:]], dim=1)
        return self.segment(normalized)

    def segment(self, image: Tensor) -> SegOutput:
        """Segment normalized images (B, 3, H, W)."""
        raise NotImplementedError

    def void_last(self, logits: Tensor) -> Tensor:
        """Return logits (B, num_classes, h, w) in the order in which they are shipped: a void output is the last."""
        void = self.void_output
        if void is None:
            return logits
        return torch.cat([logits[:, :void], logits[:, void + 1 :], logits[:, void : void + 1]], dim=1)

    def prepare_for_export(self) -> None:
        """Become what is exported: it computes the same with what runtimes are fast at, and is not trained any more."""
        # A list, because modules are replaced on the way.
        for module in list(self.modules()):
            if isinstance(module, nn.ReLU | nn.LeakyReLU | nn.Hardtanh):
                module.inplace = False  # the graph is the same, and traced in half the time
            for name, child in module.named_children():
                if isinstance(child, nn.PReLU):
                    setattr(module, name, SummedPReLU(child))
