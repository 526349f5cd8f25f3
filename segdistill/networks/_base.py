"""What every network has in common: it normalises its own input and returns a `SegOutput`."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from segdistill.config import IMAGENET_STD, InputConfig
from segdistill.types import SegOutput


class Backbone(nn.Module):
    """A classifier without its last layer; the tensors have the names of the published ImageNet weights."""

    name: str
    imagenet: str | None
    """torchvision's name of the weights, as `torchvision.models.get_weight` takes it; None where there are none."""
    channels: tuple[int, ...]
    """Of each feature map, shallow to deep."""
    beyond: tuple[str, ...] = ("fc.",)
    """What the names of the published tensors begin with that only the classifier has a use for."""

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the feature maps of normalised images, shallow to deep."""
        raise NotImplementedError


class SegNetwork(nn.Module):
    """A segmentation network from RGB images in 0..255 to a `SegOutput`; subclasses write `segment`.

    Channels beyond the third (a label-assisted teacher has them) are brought to the scale of the colours: they are
    divided by the colours' mean deviation over ImageNet's. What it wants of its images and how its maps are enlarged
    is not part of the state dict: the model file's header carries it.
    """

    mean: Tensor
    std: Tensor
    num_classes: int
    backbone: Backbone | None
    """What ImageNet weights fill; None where no part of the network has such weights."""
    training_only: tuple[str, ...] = ("aux",)
    """How the names of the tensors begin that are not shipped: the auxiliary head's."""
    only_size: tuple[int, int] | None = None
    """To which (H, W) it brings all its images, if it can take no others."""
    void_output: int | None = None
    """Which output says that a pixel is of none of the classes, where there is one more than classes. Like what it
    wants of its images, the model file's header carries it."""

    def __init__(self, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.backbone = None
        self.register_buffer("mean", torch.zeros(1, in_channels, 1, 1), persistent=False)
        self.register_buffer("std", torch.ones(1, in_channels, 1, 1), persistent=False)
        self.expect(InputConfig(), align_corners=False)

    def expect(self, images: InputConfig, *, align_corners: bool) -> None:
        """Take images as the weights were, or will be, trained on, and enlarge maps likewise."""
        self.images = images
        self.align_corners = align_corners
        self.mean[:, :3] = torch.tensor(images.mean).view(1, 3, 1, 1)
        self.std[:, :3] = torch.tensor([deviation * images.divide for deviation in images.std]).view(1, 3, 1, 1)
        self.std[:, 3:] = images.divide * sum(images.std) / sum(IMAGENET_STD)

    def forward(self, image: Tensor) -> SegOutput:
        """Segment images (B, 3, H, W), RGB in 0..255, of any size."""
        normalised = (image - self.mean) / self.std
        if self.images.order == "bgr":
            normalised = torch.cat([normalised[:, :3].flip(1), normalised[:, 3:]], dim=1)
        return self.segment(normalised)

    def segment(self, image: Tensor) -> SegOutput:
        """Segment normalised images (B, 3, H, W)."""
        raise NotImplementedError

    def ship(self) -> None:
        """Become what is exported: it computes the same with what runtimes are fast at, and is not trained any more."""
        for module in list(self.modules()):
            if isinstance(module, nn.ReLU | nn.LeakyReLU | nn.Hardtanh):
                module.inplace = False  # the graph is the same, and traced in half the time
            for name, child in module.named_children():
                if isinstance(child, nn.PReLU):
                    setattr(module, name, SummedPReLU(child))


class SummedPReLU(nn.Module):
    """A PReLU as a sum: onnxruntime's own operator for it takes three times as long as these three together."""

    least = torch.finfo(torch.float32).min
    """With a bound on both sides it is exported as Clip, which is faster than Min."""

    def __init__(self, act: nn.PReLU) -> None:
        super().__init__()
        self.more = nn.Parameter((act.weight.detach() - 1).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to the same shape."""
        return x + self.more * x.clamp(self.least, 0.0)


class Deployed(nn.Module):
    """A network as it is shipped: images (B, 3, H, W) in, logits (B, C, H, W) at the same size out, nothing else.

    A void output comes last: logits (B, C + 1, H, W).
    """

    def __init__(self, network: SegNetwork) -> None:
        super().__init__()
        self.network = network
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        """Return logits at the images' size."""
        logits: Tensor = self.network(image).logits
        void = self.network.void_output
        if void is not None:
            logits = torch.cat([logits[:, :void], logits[:, void + 1 :], logits[:, void : void + 1]], dim=1)
        return enlarged(logits, image, align_corners=self.network.align_corners)


def draw_convolutions(network: nn.Module) -> None:
    """Draw the weights of all convolutions as He et al. 2015 do, by the number of their outputs."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def enlarged(x: Tensor, like: Tensor, *, align_corners: bool) -> Tensor:
    """Return maps at the size of `like`, bilinear, and in its memory format.

    A 1x1 map has lost its format, and one part in NCHW would make a whole concatenation NCHW.
    """
    layout = torch.channels_last if like.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    larger = F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=align_corners)
    return larger.contiguous(memory_format=layout)


def conv_bn_relu(
    inputs: int,
    outputs: int,
    kernel: int,
    *,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    relu: Callable[..., nn.Module] = nn.ReLU,
) -> nn.Sequential:
    """Return a convolution that keeps the size at stride 1, batch norm and ReLU."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2 * dilation, dilation, groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), relu(inplace=True))


def separable(inputs: int, outputs: int, *, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """Return a 3x3 convolution of each channel by itself and a 1x1 of all, each with batch norm and ReLU."""
    depthwise = conv_bn_relu(inputs, inputs, 3, stride=stride, dilation=dilation, groups=inputs)
    return nn.Sequential(*depthwise, *conv_bn_relu(inputs, outputs, 1))


def fcn_head(inputs: int, num_classes: int, dropout: nn.Module) -> nn.Sequential:
    """Return a 3x3 convolution to a quarter of the channels, dropout, and the classifier.

    FCN's own head in torchvision, and the auxiliary head on stage 3 that helps other networks in training.
    """
    width = inputs // 4
    return nn.Sequential(conv_bn_relu(inputs, width, 3), dropout, nn.Conv2d(width, num_classes, 1))


def count_macs(network: SegNetwork, size: tuple[int, int]) -> int:
    """Return the multiply-adds of one image (H, W) through the deployed network; FLOPs are twice as many."""
    training = network.training
    # Fake tensors have shapes and no numbers: nothing is computed. In a blank network no tensor has numbers.
    mode = nullcontext() if network.mean.is_meta else FakeTensorMode(allow_non_fake_inputs=True)
    with mode, FlopCounterMode(display=False) as counter, torch.no_grad(), _NoBatchNorm():
        Deployed(network)(torch.zeros(1, network.mean.shape[1], *size, device=network.mean.device))
    network.train(training)
    return int(counter.get_total_flops()) // 2


class _NoBatchNorm(TorchFunctionMode):
    """Leaves out batch norm, which has no multiply-adds once deployed and, without numbers, takes longest of all."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if func is F.batch_norm else func(*args, **(kwargs or {}))


def countable_macs(network: SegNetwork, size: tuple[int, int]) -> int | None:
    """Return the multiply-adds of somebody else's network; None where it does not run on tensors without numbers."""
    try:
        return count_macs(network, size)
    except Exception:  # whatever that leads to in code that is not ours
        return None


def count_parameters(network: SegNetwork) -> int:
    """Return the number of parameters that are shipped: without the auxiliary head."""
    return sum(p.numel() for name, p in network.named_parameters() if not name.startswith(network.training_only))
