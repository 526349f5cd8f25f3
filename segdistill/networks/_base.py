"""What every network has in common: it normalises its own input and returns a `SegOutput`."""

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from segdistill.types import SegOutput

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
"""RGB statistics of ImageNet in units of 0..255, as torchvision's weights expect them."""


class Backbone(nn.Module):
    """A classifier without its last layer; the tensors have the names of the published ImageNet weights."""

    name: str
    imagenet: str | None
    """torchvision's name of the weights, as `torchvision.models.get_weight` takes it; None where there are none."""
    channels: tuple[int, ...]
    """Of each feature map, shallow to deep."""

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the feature maps of normalised images, shallow to deep."""
        raise NotImplementedError


class SegNetwork(nn.Module):
    """A segmentation network from RGB images in 0..255 to a `SegOutput`; subclasses write `segment`.

    Channels beyond the third (a label-assisted teacher has them) are taken as they are. The mean and the deviation
    are not part of the state dict: the model file's header carries them.
    """

    mean: Tensor
    std: Tensor
    num_classes: int
    backbone: Backbone | None
    """What ImageNet weights fill; None where no part of the network has such weights."""
    training_only: tuple[str, ...] = ("aux",)
    """How the names of the tensors begin that are not shipped: the auxiliary head's."""

    def __init__(self, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.backbone = None
        more = in_channels - 3
        mean, std = IMAGENET_MEAN + (0.0,) * more, IMAGENET_STD + (1.0,) * more
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> SegOutput:
        """Segment images (B, 3, H, W), RGB in 0..255, of any size."""
        return self.segment((image - self.mean) / self.std)

    def segment(self, image: Tensor) -> SegOutput:
        """Segment normalised images (B, 3, H, W)."""
        raise NotImplementedError


class Deployed(nn.Module):
    """A network as it is shipped: images (B, 3, H, W) in, logits (B, C, H, W) at the same size out, nothing else."""

    def __init__(self, network: SegNetwork) -> None:
        super().__init__()
        self.network = network
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        """Return logits at the images' size."""
        logits: Tensor = self.network(image).logits
        return F.interpolate(logits, size=image.shape[-2:], mode="bilinear", align_corners=False)


def enlarged(x: Tensor, like: Tensor, *, align_corners: bool) -> Tensor:
    """Return maps at the size of `like`, bilinear, and in its memory format.

    A 1x1 map has lost its format, and one part in NCHW would make a whole concatenation NCHW.
    """
    layout = torch.channels_last if like.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    larger = F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=align_corners)
    return larger.contiguous(memory_format=layout)


def conv_bn_relu(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    """Return a convolution that keeps the size, batch norm and ReLU: what heads are made of."""
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def auxiliary_head(inputs: int, num_classes: int, dropout: float) -> nn.Sequential:
    """Return the head on stage 3 that helps in training: a quarter of the channels, then the classes."""
    width = inputs // 4
    return nn.Sequential(
        conv_bn_relu(inputs, width, 3),
        nn.Dropout2d(dropout),
        nn.Conv2d(width, num_classes, 1),
    )


def draw_convolutions(network: nn.Module) -> None:
    """Draw the weights of all convolutions as He et al. 2015 do, by the number of their outputs."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def count_macs(network: SegNetwork, size: tuple[int, int]) -> int:
    """Return the multiply-adds of one image (H, W) through the deployed network; FLOPs are twice as many."""
    training = network.training
    # Fake tensors have shapes and no numbers: nothing is computed.
    with FakeTensorMode(allow_non_fake_inputs=True), FlopCounterMode(display=False) as counter, torch.no_grad():
        Deployed(network)(torch.zeros(1, network.mean.shape[1], *size, device=network.mean.device))
    network.train(training)
    return int(counter.get_total_flops()) // 2


def count_parameters(network: SegNetwork) -> int:
    """Return the number of parameters that are shipped: without the auxiliary head."""
    return sum(p.numel() for name, p in network.named_parameters() if not name.startswith(network.training_only))
