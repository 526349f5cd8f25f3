"""What all external teachers have in common."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from segdistill.config.schema import InputConfig, Size
from segdistill.errors import ModelError, out_of_memory
from segdistill.networks import SegNetwork
from segdistill.types import SegOutput

PROBE_SIDE = 128
"""Side in pixels of the image that a teacher is tried on, where nothing says how large its images are."""
GRAY = 127.0
"""Value of all pixels of that image, in 0..255."""
EXPECTED_LOGITS = "Expected: logits (B, C, h, w), before softmax and not yet the labels."
EXPECTED_LOGIT = "Expected: the output z (B, 1, h, w) before the sigmoid, or two logits (B, 2, h, w) before softmax."


@dataclass(frozen=True)
class LoadedTeacher:
    """A teacher, and what is known of it."""

    network: SegNetwork
    name: str
    """Name behind its scheme: nothing of where it lies."""
    classes: tuple[str, ...]
    """Names of the classes; "0", "1" and so on where they have none."""
    sha256: str
    """Sha256 of its weights."""
    size: Size | None = None
    """Size (height, width) that its images are brought to where it is scored, if it says so."""
    void_output: int | None = None
    """Output that says that a pixel is of none of the classes, where there is one."""
    details: Mapping[str, str] = field(default_factory=dict)
    """Digests of what it depends on beside its weights, as far as that can be known, by name; see `ModelInfo`."""
    notes: tuple[str, ...] = ()
    """Notes for the user, in sentences that go on after "Teacher: "."""


def numbered_classes(outputs: int) -> tuple[str, ...]:
    """Return the classes of outputs that have no names."""
    return tuple(str(index) for index in range(outputs))


def set_normalization(
    network: SegNetwork, wanted: InputConfig | None, own: InputConfig | None = None
) -> tuple[str, ...]:
    """Let a network have its images as the user says, and in what the user does not say as it says itself.

    Args:
        network: gets the normalization.
        wanted: what the user says.
        own: what the teacher says.

    Returns:
        A note where neither says anything.
    """
    if wanted is None and own is None:
        return ("its images are normalized by ImageNet's statistics; teacher.input.mean and .std say otherwise.",)
    images = own or InputConfig()  # ImageNet's statistics
    if wanted is not None:
        images = wanted.over(images)
    network.set_preprocessing(images, align_corners=network.align_corners)
    return ()


def dry_forward(network: SegNetwork, name: str, height: int = PROBE_SIDE, width: int = PROBE_SIDE) -> SegOutput:
    """Return what a network makes of one gray image.

    Args:
        network: is put into eval mode.
        name: what messages call it.
        height: of the image.
        width: of the image.

    Raises:
        ModelError: if it fails, or that is not logits of at least two classes.
    """
    output = _tried(network, name, torch.full((1, 3, height, width), GRAY))
    _check_logits(output.logits, name)
    if output.logits.shape[1] == 1:
        _check_single_logit(_tried(network, name, _half_white(height, width)).logits, name)
    return output


def _tried(network: SegNetwork, name: str, image: Tensor) -> SegOutput:
    """Return what a network makes of an image.

    Raises:
        ModelError: if it fails.
    """
    try:
        with torch.no_grad():
            output: SegOutput = network.eval()(image)
    except ModelError:
        raise  # it says already what is wrong
    except (Exception, SystemExit) as error:  # somebody else's code
        if out_of_memory(error):
            raise
        height, width = image.shape[2:]
        raise ModelError(
            f"{name} fails on an image of {height}x{width}: {type(error).__name__}: {error}",
            "Expected: a network from images (B, 3, H, W) to logits (B, C, h, w).",
        ) from None
    return output


def _half_white(height: int, width: int) -> Tensor:
    """Return an image (1, 3, height, width) that is black on the left and white on the right."""
    image = torch.zeros(1, 3, height, width)
    image[..., width // 2 :] = 255
    return image


@contextmanager
def capture_outputs(modules: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """Collect the outputs of modules in the order in which they are called."""
    captured: list[Tensor] = []

    def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        captured.append(output)

    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield captured
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def capture_input(module: nn.Module) -> Iterator[list[Tensor]]:
    """Collect the first input of a module, each time that it is called."""
    captured: list[Tensor] = []

    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        captured.append(args[0])

    handle = module.register_forward_pre_hook(hook)
    try:
        yield captured
    finally:
        handle.remove()


def _check_logits(logits: Tensor, name: str) -> None:
    """Refuse what cannot be the logits of one image.

    Raises:
        ModelError: naming what it is.
    """
    is_map = logits.dim() == 4 and len(logits) == 1 and logits.is_floating_point()
    if not is_map or logits.shape[1] < 1:
        dtype = str(logits.dtype).removeprefix("torch.")
        raise ModelError(f"{name} makes {dtype} of shape {tuple(logits.shape)} of an image.", EXPECTED_LOGITS)
    if logits.shape[1] == 1:
        return  # those of a gray image may all lie between 0 and 1
    # logits could be all positive, or sum to 1 somewhere; both at each pixel is what a softmax makes
    if (logits >= 0).all() and torch.allclose(logits.sum(1), torch.ones(()), atol=1e-3):
        raise ModelError(f"{name} makes probabilities of an image: they sum to 1.", EXPECTED_LOGITS)


def _check_single_logit(logits: Tensor, name: str) -> None:
    """Refuse what a sigmoid makes of an image with black and white in it: no logits are all between 0 and 1 there.

    Raises:
        ModelError: with what is expected.
    """
    if ((logits >= 0) & (logits <= 1)).all():
        raise ModelError(f"{name} makes probabilities of an image: one output, between 0 and 1.", EXPECTED_LOGIT)
