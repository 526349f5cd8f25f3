"""Backbones of timm (Wightman, pytorch-image-models), the extra `segdistill[timm]`: any convolutional one by its name.

Only what gives feature maps of images of any size can be a backbone; timm decides which output strides a network has.
Those named mobilenetv4_* and efficientvit_b* are made for phones; the latter have output stride 32 only.
"""

from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segdistill.config.schema import InputConfig, NetworkConfig
from segdistill.errors import ModelError, UsageError
from segdistill.networks._backbone import Backbone, PublishedWeights
from segdistill.networks._packaged_weights import EFFICIENTNET_LITE_IMAGES, TIMM_FILES, packaged_file
from segdistill.runtime.telemetry import switched_off
from segdistill.storage.weights import mismatch, read_weights

ODD_SIZE = (65, 97)
"""Size (H, W) that no stride divides, at which networks show whether they take images of any size."""
HUB_FILE = "model.safetensors"
"""File of a network's weights in timm's repositories at the hub."""
DEFAULT_STRIDE = 32
"""Output stride of timm's networks by default; many know no other, and not the option either."""


class TimmBackbone(Backbone):
    """A network of timm without its classifier."""

    imagenet = None

    def __init__(self, timm_name: str, output_stride: int, in_channels: int) -> None:
        super().__init__()
        self.name = f"timm:{timm_name}"
        self.timm_name = timm_name
        self.output_stride = output_stride
        self.model = self._create(in_channels)
        info: Any = self.model.feature_info
        self.channels = tuple(info.channels())
        self._check_odd_size(in_channels)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return what timm calls the features, one for each stride (or stage, where later ones do not stride)."""
        return tuple(self.model(image))

    @property
    def has_published_weights(self) -> bool:
        """Whether timm names weights for it, or a package carries some; nothing is read or downloaded."""
        return _packaged(self.timm_name) is not None or _published_config(self.timm_name) is not None

    def published_images(self) -> InputConfig:
        """Return what timm says of the images of its weights, or the package where they lie."""
        return timm_images(self.timm_name)

    def published_weights(self) -> PublishedWeights:
        """Return timm's own weights, for RGB images: from an installed package, a cache on the machine, or timm's hub.

        Raises:
            UsageError: if they cannot be had.
            ModelError: if a file that was found is not of this network.
        """
        file = _packaged(self.timm_name)
        if file is not None:
            return self._from_tensors(file, self._renamed(file))
        file = _cached(self.timm_name)
        if file is not None:
            return self._from_tensors(file, read_weights(file).tensors)
        try:
            model = self._create(3, pretrained=True)
        except Exception as error:  # of timm, of the hub's client or of the net: they have none in common
            raise UsageError(
                f"timm has no weights for {self.timm_name}, or cannot fetch them ({type(error).__name__}): {error}",
                "Leave --pretrained out, give a file with --backbone-weights FILE, or fetch them on another machine "
                "and bring the hub's cache, HF_HOME.",
            ) from None
        return PublishedWeights("timm's hub", _as_ours(model))

    def weights_of_file(self, file: Path) -> PublishedWeights:
        """Return the weights in a file of the user's, with the tensors of timm's classifier of this name.

        Raises:
            UsageError: if there is no such file.
            ModelError: if it is damaged, or its tensors are not this network's.
        """
        if file.name == TIMM_FILES.get(_architecture(self.timm_name)):
            return self._from_tensors(file, self._renamed(file))
        return self._from_tensors(file, read_weights(file).tensors)

    def _renamed(self, file: Path) -> dict[str, Tensor]:
        """Return a packaged file's tensors by timm's names: they are in timm's order, which shapes confirm."""
        tensors = read_weights(file).tensors
        expected = self._classifier().state_dict()
        if [tensor.shape for tensor in tensors.values()] != [tensor.shape for tensor in expected.values()]:
            raise ModelError(f"{file} does not hold the tensors of {self.name}, in timm's order.")
        return dict(zip(expected, tensors.values(), strict=True))

    def _from_tensors(self, file: Path, tensors: dict[str, Tensor]) -> PublishedWeights:
        """Return a classifier's weights by the names that the backbone has for them.

        Raises:
            ModelError: if a tensor is missing, or has another name or shape; the last layer may be any, or none.
        """
        classifier = self._classifier()
        last_layers = _last_layers(classifier)
        expected = _without(classifier.state_dict(), last_layers)
        tensors = _without(tensors, last_layers)
        problem = mismatch(expected, tensors)
        if problem:
            raise ModelError(
                f"{file} does not hold the tensors of {self.name}: {problem}",
                f"Give the weights of timm's {self.timm_name}: the tensor names of timm.create_model.",
            )
        # timm brings them to the names of its networks without a last layer, which differ from family to family.
        model = self._create(3, pretrained=True, state_dict=tensors)
        return PublishedWeights(str(file), _as_ours(model))

    def _classifier(self) -> nn.Module:
        """Return timm's whole network, without numbers."""
        with switched_off():
            import timm

        with torch.device("meta"):
            model: nn.Module = timm.create_model(self.timm_name)
        return model

    def _create(
        self, in_channels: int, *, pretrained: bool = False, state_dict: dict[str, Tensor] | None = None
    ) -> nn.Module:
        # The hub's client, which timm imports, would report its use.
        with switched_off():
            import timm  # late: it is an extra, and takes seconds

        if not timm.is_model(self.timm_name):
            close = get_close_matches(self.timm_name, timm.list_models(), cutoff=0.5)
            hint = f"Did you mean {' or '.join(close)}?" if close else "timm.list_models() returns all its names."
            raise UsageError(f"timm has no network {self.timm_name!r}.", hint)
        options: dict[str, Any] = {}
        if state_dict is not None:
            options["pretrained_cfg_overlay"] = {"state_dict": state_dict}
        if self.output_stride != DEFAULT_STRIDE:
            options["output_stride"] = self.output_stride
        try:
            model: nn.Module = timm.create_model(
                self.timm_name,
                pretrained=pretrained,
                features_only=True,
                in_chans=in_channels,
                **options,
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
        was_training = self.training  # eval mode, so that the statistics of batch norm stay as they are
        image = torch.zeros(1, in_channels, *ODD_SIZE)
        outcome: object
        try:
            with torch.no_grad():
                outcome = tuple(feature.shape[1] for feature in self.eval()(image))
        except (AssertionError, RuntimeError, ValueError) as error:
            outcome = error
        self.train(was_training)
        if outcome != self.channels:
            raise UsageError(
                f"timm's {self.timm_name} has no feature maps of {self.channels} channels for an image of "
                f"{ODD_SIZE[0]}x{ODD_SIZE[1]}, but: {outcome}",
                "Choose a convolutional network, which takes images of any size.",
            )


def timm_backbone(config: NetworkConfig, in_channels: int) -> TimmBackbone:
    """Build the backbone that a network's full name ends in, such as pspnet-timm:mobilenetv4_conv_small."""
    assert config.output_stride is not None, "resolved"
    timm_name = config.network.partition("timm:")[2]
    return TimmBackbone(timm_name, config.output_stride, in_channels)


def timm_images(timm_name: str) -> InputConfig:
    """Return the images that the published weights of timm's network were trained on, without reading these.

    Raises:
        UsageError: if timm has no weights of that name.
    """
    if _packaged(timm_name) is not None:
        return EFFICIENTNET_LITE_IMAGES
    published = _published_config(timm_name)
    if published is None:
        raise UsageError(f"timm has no weights for {timm_name}.", "Leave --pretrained out.")
    # timm has statistics of 0..1.
    mean, std = (tuple(round(255 * value, 3) for value in values) for values in (published.mean, published.std))
    return InputConfig(mean=mean, std=std)


def _published_config(timm_name: str) -> Any:
    """Return what timm says of its weights; None where it has none."""
    with switched_off():
        import timm

    try:
        return timm.get_pretrained_cfg(timm_name)
    except RuntimeError:  # the network is known, and its tag is not
        return None


def _architecture(timm_name: str) -> str:
    """Return a name of timm's without the tag of its weights."""
    return timm_name.partition(".")[0]


def _packaged(timm_name: str) -> Path | None:
    """Return the file of an installed package with the weights of timm's network; None where there is none."""
    file_name = TIMM_FILES.get(_architecture(timm_name))
    return None if file_name is None else packaged_file(file_name)


def _cached(timm_name: str) -> Path | None:
    """Return the file in which a cache of this machine has timm's weights; None where there is none.

    Nothing is asked of the net, which takes half a minute where there is none.
    """
    published = _published_config(timm_name)
    if published is None:
        return None
    if published.hf_hub_id and find_spec("huggingface_hub") is not None:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(published.hf_hub_id, HUB_FILE)
        if isinstance(found, str):
            return Path(found)
    file_name = (published.url or "").rpartition("/")[2]
    file = Path(torch.hub.get_dir(), "checkpoints", file_name)
    return file if file_name and file.is_file() else None


def _last_layers(classifier: nn.Module) -> tuple[str, ...]:
    """Return the beginnings of the names of the tensors that depend on ImageNet's classes."""
    config: Any = classifier.pretrained_cfg
    names = config["classifier"] or ()
    names = (names,) if isinstance(names, str) else names
    return tuple(f"{name}." for name in names)


def _without(tensors: dict[str, Tensor], prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(prefixes)}


def _as_ours(model: nn.Module) -> dict[str, Tensor]:
    return {f"model.{name}": tensor for name, tensor in model.state_dict().items()}


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
