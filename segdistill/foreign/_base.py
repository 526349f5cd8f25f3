"""What all teachers from elsewhere have in common."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from segdistill.config import InputConfig, Size
from segdistill.errors import ModelError, out_of_memory
from segdistill.networks import SegNetwork
from segdistill.types import SegOutput

TRIAL = 128
"""Side of the image that a teacher is tried on, where nothing says how large its images are."""


@dataclass(frozen=True)
class Loaded:
    """A teacher, and what is known of it."""

    network: SegNetwork
    name: str
    """What it is called behind its scheme: nothing of where it lies."""
    classes: tuple[str, ...]
    """"0", "1" and so on where they have no names."""
    sha256: str
    """Of its weights."""
    size: Size | None = None
    """What its images are brought to where it is scored, if it says so."""
    void_output: int | None = None
    details: Mapping[str, str] = field(default_factory=dict)
    """What else it depends on beside its weights, as far as that can be known, by name; see `ModelInfo`."""
    notes: tuple[str, ...] = ()
    """What the user should know, in sentences that go on after "Teacher: "."""


def numbered(outputs: int) -> tuple[str, ...]:
    """Return the classes of outputs that have no names."""
    return tuple(map(str, range(outputs)))


def normalised_by(network: SegNetwork, wanted: InputConfig | None, own: InputConfig | None = None) -> tuple[str, ...]:
    """Let a network have its images as the user says, and in what he does not as it says itself.

    Returns:
        What to say of it where neither says anything.
    """
    if wanted is not None or own is not None:
        own = own or InputConfig()
        network.expect(own if wanted is None else wanted.over(own), align_corners=network.align_corners)
        return ()
    return ("its images are normalised by ImageNet's statistics; teacher.input.mean and .std say otherwise.",)


def tried(network: SegNetwork, what: str, height: int = TRIAL, width: int = TRIAL) -> SegOutput:
    """Return what a network makes of one grey image.

    Raises:
        ModelError: if it fails, or that is not logits of at least two classes.
    """
    image = torch.full((1, 3, height, width), 127.0)
    try:
        with torch.no_grad():
            output: SegOutput = network.eval()(image)
    except ModelError:
        raise
    except (Exception, SystemExit) as error:  # somebody else's code
        if out_of_memory(error):
            raise
        raise ModelError(
            f"{what} fails on an image of {height}x{width}: {type(error).__name__}: {error}",
            "Expected is a network from images (B, 3, H, W) to logits (B, C, h, w).",
        ) from None
    logits, expected = output.logits, "Expected are logits (B, C, h, w), before softmax and not yet the labels."
    if logits.dim() != 4 or len(logits) != 1 or logits.shape[1] < 2 or not logits.is_floating_point():
        raise ModelError(
            f"{what} makes {str(logits.dtype).removeprefix('torch.')} of shape {tuple(logits.shape)} of an image.",
            expected,
        )
    if (logits >= 0).all() and torch.allclose(logits.sum(1), torch.ones(()), atol=1e-3):
        raise ModelError(f"{what} makes probabilities of an image: they sum to 1.", expected)
    return output


@contextmanager
def watched(modules: Sequence[nn.Module], *, inputs: bool = False) -> Iterator[list[Tensor]]:
    """Collect the outputs (or the first inputs) of modules in the order in which they are called."""
    seen: list[Tensor] = []

    def before(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen.append(args[0])

    def after(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        seen.append(output)

    hooks = [m.register_forward_pre_hook(before) if inputs else m.register_forward_hook(after) for m in modules]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
