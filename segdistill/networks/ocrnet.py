"""OCRNet (Yuan et al., "Object-Contextual Representations for Semantic Segmentation", ECCV 2020) on HRNet.

Structure and tensor names are those of the authors' code, HRNet/HRNet-Semantic-Segmentation, branch HRNet-OCR. Its
first logits say where each class is, so they are computed when it is deployed too; in training they are the auxiliary
ones. The authors' dropout is 0.05; the strides are fixed.
"""

import torch
from torch import Tensor, nn

from segdistill.config import NetworkConfig
from segdistill.networks._base import SegNetwork, draw_convolutions, enlarged
from segdistill.networks._hrnet import HRNet
from segdistill.types import SegOutput

WIDTHS = {"hrnetw18": 18}
BACKBONES = tuple(WIDTHS)
STRIDES = (4,)
OPTIONS = ("dropout",)


def build(config: NetworkConfig, num_classes: int, in_channels: int) -> SegNetwork:
    """Build the network that `config.network` names in full, such as ocrnet-hrnetw18."""
    width = WIDTHS[config.network.removeprefix("ocrnet-")]
    return OCRNet(width, num_classes, in_channels, aux=config.aux, dropout=config.dropout_or(0.05))


class OCRNet(HRNet):
    """HRNet's branches at 1/4, first logits, what each class looks like in this image, and logits that know it."""

    training_only = ()

    def __init__(self, width: int, num_classes: int, in_channels: int, *, aux: bool, dropout: float) -> None:
        super().__init__(width, num_classes, in_channels)
        inputs, middle, key = sum(self.channels), 512, 256
        self.aux = aux
        self.conv3x3_ocr = nn.Sequential(nn.Conv2d(inputs, middle, 3, padding=1), *_norm_relu(middle))
        self.ocr_distri_head = ObjectContext(middle, key, dropout)
        self.cls_head = nn.Conv2d(middle, num_classes, 1)
        self.aux_head = nn.Sequential(
            nn.Conv2d(inputs, inputs, 1), *_norm_relu(inputs), nn.Conv2d(inputs, num_classes, 1)
        )
        draw_convolutions(self)

    def segment(self, image: Tensor) -> SegOutput:
        """Return logits at 1/4; the features are the four branches, and what the classifier reads at 1/4."""
        maps = self.branches(image)
        x = torch.cat([maps[0], *(enlarged(deeper, maps[0], align_corners=True) for deeper in maps[1:])], dim=1)
        first, pixels = self.aux_head(x), self.conv3x3_ocr(x)
        last = self.ocr_distri_head(pixels, regions(pixels, first))
        return SegOutput(self.cls_head(last), (*maps, last), first if self.training and self.aux else None)


def regions(pixels: Tensor, logits: Tensor) -> Tensor:
    """Return what each class looks like: the mean of its pixels, weighted by a softmax over all positions.

    Args:
        pixels: (B, D, h, w).
        logits: (B, C, h, w).

    Returns:
        (B, D, C, 1), as an image of one pixel for each class.
    """
    share = _softmax(logits.flatten(2))
    return (pixels.flatten(2) @ share.mT).unsqueeze(3)


class ObjectContext(nn.Module):
    """Each pixel takes from the regions what is like it, and is fused with that."""

    def __init__(self, channels: int, key: int, dropout: float) -> None:
        super().__init__()
        self.object_context_block = ObjectAttention(channels, key)
        self.conv_bn_dropout = nn.Sequential(*_conv_norm_relu(2 * channels, channels), nn.Dropout2d(dropout))

    def forward(self, pixels: Tensor, proxies: Tensor) -> Tensor:
        """Return (B, D, h, w) of pixels (B, D, h, w) and regions (B, D, C, 1)."""
        context = self.object_context_block(pixels, proxies)
        out: Tensor = self.conv_bn_dropout(torch.cat([context, pixels], dim=1))
        return out


class ObjectAttention(nn.Module):
    """Attention from pixels to regions."""

    def __init__(self, channels: int, key: int) -> None:
        super().__init__()
        self.f_pixel = nn.Sequential(*_conv_norm_relu(channels, key), *_conv_norm_relu(key, key))
        self.f_object = nn.Sequential(*_conv_norm_relu(channels, key), *_conv_norm_relu(key, key))
        self.f_down = _conv_norm_relu(channels, key)
        self.f_up = _conv_norm_relu(key, channels)

    def forward(self, pixels: Tensor, proxies: Tensor) -> Tensor:
        """Return the context (B, D, h, w) of pixels (B, D, h, w) from regions (B, D, C, 1)."""
        query = self.f_pixel(pixels)  # (B, K, h, w)
        key, value = self.f_object(proxies).flatten(2), self.f_down(proxies).flatten(2)  # (B, K, C)
        likeness = query.flatten(2).mT @ key * query.shape[1] ** -0.5  # (B, h * w, C)
        context: Tensor = self.f_up((value @ _softmax(likeness).mT).unflatten(2, query.shape[2:]))
        return context


def _softmax(x: Tensor) -> Tensor:
    """Return the softmax over the last axis, computed in float32 or better."""
    return x.softmax(dim=-1, dtype=torch.promote_types(x.dtype, torch.float32)).to(x.dtype)


def _conv_norm_relu(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.Sequential(*_norm_relu(outputs)))


def _norm_relu(channels: int) -> tuple[nn.Module, nn.Module]:
    return nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
