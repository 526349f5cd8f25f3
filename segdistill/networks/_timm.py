"""Backbones of timm (Wightman, pytorch-image-models), the extra `segdistill[timm]`: any convolutional one by its name.

Only what gives feature maps of images of any size can be a backbone; timm decides which output strides a network has.
Those named mobilenetv4_* and efficientvit_b* are made for phones; the latter have output stride 32 only.
"""

from difflib import get_close_matches
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from segdistill.config import IMAGENET_MEAN, IMAGENET_STD, NetworkConfig
from segdistill.errors import UsageError
from segdistill.networks._base import Backbone
from segdistill.telemetry import switched_off

ODD_SIZE = (65, 97)


class TimmBackbone(Backbone):
    """A network of timm without its classifier."""

    imagenet = None

    def __init__(self, timm_name: str, output_stride: int, in_channels: int) -> None:
        super().__init__()
        self.name = f"timm:{timm_name}"
        self.timm_name, self.output_stride = timm_name, output_stride
        self.model = self._create(in_channels)
        info: Any = self.model.feature_info
        self.channels = tuple(info.channels())
        self._check_odd_size(in_channels)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return what timm calls the features, one for each stride (or stage, where later ones do not stride)."""
        return tuple(self.model(image))

    def published(self) -> dict[str, Tensor]:
        """Return the tensors with timm's own weights, for RGB images, from its hub or the hub's cache.

        Raises:
            UsageError: if they cannot be had, or expect images normalised otherwise than by ImageNet's statistics.
        """
        with switched_off():
            import timm

        try:
            wanted: Any = timm.get_pretrained_cfg(self.timm_name)
            model = self._create(3, pretrained=True)
        except Exception as error:  # of timm, of the hub's client or of the net: they have none in common
            raise UsageError(
                f"timm has no weights for {self.timm_name}, or cannot fetch them ({type(error).__name__}): {error}",
                "Leave --pretrained out, or fetch them on another machine and bring the hub's cache, HF_HOME.",
            ) from None
        if [round(255 * x, 3) for x in (*wanted.mean, *wanted.std)] != [*IMAGENET_MEAN, *IMAGENET_STD]:
            raise UsageError(
                f"timm's weights for {self.timm_name} expect images of mean {wanted.mean} and deviation {wanted.std}; "
                "this network normalises by ImageNet's.",
                "Leave --pretrained out, or choose weights that were trained with ImageNet's.",
            )
        return {f"model.{name}": tensor for name, tensor in model.state_dict().items()}

    def _create(self, in_channels: int, *, pretrained: bool = False) -> nn.Module:
        with switched_off():
            import timm  # late: it is an extra, and takes seconds

        if not timm.is_model(self.timm_name):
            close = get_close_matches(self.timm_name, timm.list_models(), cutoff=0.5)
            hint = f"Did you mean {' or '.join(close)}?" if close else "timm.list_models() returns all its names."
            raise UsageError(f"timm has no network {self.timm_name!r}.", hint)
        # 32 is what they have by default; many know no other, and not the option either.
        stride: dict[str, Any] = {} if self.output_stride == 32 else {"output_stride": self.output_stride}
        try:
            model: nn.Module = timm.create_model(
                self.timm_name, pretrained=pretrained, features_only=True, in_chans=in_channels, **stride
            )
            return model
        # How timm's families say that they have no feature maps, no such stride or no option for it: each otherwise,
        # some by NotImplementedError.
        except (AssertionError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
            if pretrained:
                raise
            raise UsageError(
                f"timm's {self.timm_name} cannot be a backbone of output stride {self.output_stride}: {error}",
                "Set output_stride to 32, for example with --set student.output_stride=32, or choose another network.",
            ) from None

    def _check_odd_size(self, in_channels: int) -> None:
        """Refuse what takes images of one size only, or has features other than (B, D, h, w)."""
        training, image = self.training, torch.zeros(1, in_channels, *ODD_SIZE)
        try:
            with torch.no_grad():
                found: object = tuple(feature.shape[1] for feature in self.eval()(image))
        except (AssertionError, RuntimeError, ValueError) as error:
            found = error
        self.train(training)
        if found != self.channels:
            raise UsageError(
                f"timm's {self.timm_name} has no feature maps of {self.channels} channels for an image of "
                f"{ODD_SIZE[0]}x{ODD_SIZE[1]}, but: {found}",
                "Choose a convolutional network, which takes images of any size.",
            )


def timm_backbone(config: NetworkConfig, in_channels: int) -> TimmBackbone:
    """Build the backbone that a network's full name ends in, such as pspnet-timm:mobilenetv4_conv_small."""
    assert config.output_stride is not None, "resolved"
    return TimmBackbone(config.network.partition("timm:")[2], config.output_stride, in_channels)


def full_timm_name(text: str) -> str | None:
    """Return the full name of a network that is typed as timm:NAME; None where the text does not name one.

    Raises:
        UsageError: if timm is not installed.
    """
    decoder, marker, name = text.partition("timm:")
    if not marker or decoder not in ("", "pspnet-"):
        return None
    if find_spec("timm") is None:
        raise UsageError(
            f"The network {text} needs timm, which is not installed.", "Install it: pip install 'segdistill[timm]'"
        )
    return f"pspnet-timm:{name}"
