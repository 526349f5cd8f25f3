"""The data that flows between the parts, with names and types.

Shape legend, used in every docstring:
    B images, C classes, D feature channels, H x W the input's pixels, h x w a network's own smaller grid.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn, no_grad

from segdistill.config import OptimConfig

IGNORE = 255
"""The label of pixels that count nowhere: void, unlabelled, padding."""
MOST_CLASSES = 250
"""Label maps have 8 bits, of which the last ids are taken."""


class Batch(NamedTuple):
    """Images with their labels, on their way to the networks."""

    image: Tensor
    """(B, 3, H, W) float32 RGB in 0..255: every network normalises its own input, so teacher and student may differ."""
    label: Tensor
    """(B, H, W) int64 in [0, C) or IGNORE; all IGNORE where an image has no label."""
    names: tuple[str, ...]
    """One per image, for messages."""
    seeds: Tensor
    """(B,) int64: whatever is random per sample draws from these."""
    valid: Tensor | None = None
    """(B, H, W) bool, where teacher and student are compared; None stands for what `compared` makes of the labels."""
    parts: tuple["Batch", ...] = ()
    """All micro-batches of this optimiser step on this process, where gradients are accumulated."""

    def compared(self) -> Tensor:
        """Return where teacher and student are compared, (B, H, W) bool.

        That is each pixel with a label, and an image without any label whole: it has no void, only padding, which
        `valid` knows.
        """
        if self.valid is not None:
            return self.valid
        labelled = self.label != IGNORE
        return labelled | ~labelled.flatten(1).any(1)[:, None, None]


class SegOutput(NamedTuple):
    """What every network returns."""

    logits: Tensor
    """(B, C, h, w) before softmax, at the network's own stride."""
    features: tuple[Tensor, ...]
    """(B, D_i, h_i, w_i) shallow to deep; the last one feeds the classifier."""
    aux: Tensor | None
    """(B, C, h', w') logits of the auxiliary head, in training only."""

    def upto(self, layer: int) -> "SegOutput":
        """Return the output without the feature maps that are deeper than this one."""
        return self._replace(features=self.features[: layer + 1])


class Step(NamedTuple):
    """What one optimiser step minimises."""

    terms: dict[str, Tensor]
    """Weighted scalars; their sum is the loss and each is logged under its name."""
    student: SegOutput | None
    teacher: SegOutput | None


class Objective(nn.Module):
    """Runs the forward passes and returns named, weighted loss terms; `engine.fit` minimises their sum."""

    @property
    def critic(self) -> nn.Module | None:
        """A network with an optimiser of its own, trained after each step on the same outputs.

        Its parameters require a gradient only while it is trained, so the student's step leaves none in it.
        """
        return None

    @property
    def critic_optim(self) -> OptimConfig | None:
        """How the critic is trained; its schedule is as long as the stage's."""
        return None

    def forward(self, model: nn.Module, batch: Batch) -> Step:
        """Return the terms of this batch for `model`."""
        raise NotImplementedError

    def critic_loss(self, step: Step, batch: Batch) -> Tensor:
        """Return what the critic minimises, given the outputs of this step."""
        raise NotImplementedError


class Frozen(nn.Module):
    """A teacher that stays as it is: eval mode, no gradient, no batch-norm update, whoever calls `train()`.

    It is given the whole batch, so that a teacher which needs more than the image finds it.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> "Frozen":
        """Stay in eval mode."""
        return super().train(False)

    def forward(self, batch: Batch) -> SegOutput:
        """Return the teacher's output, outside any graph; `inference_mode` would break the student's backward."""
        with no_grad():
            output: SegOutput = self.network(batch.image)
        return output


@dataclass(frozen=True)
class Stage:
    """One training: `model` and the objective's own parameters are optimised under `optim`."""

    name: str
    model: nn.Module
    objective: Objective
    optim: OptimConfig


class Term(nn.Module):
    """One kind of knowledge: an unweighted scalar from the two outputs. Adapters are its submodules."""

    critic: nn.Module | None
    critic_optim: OptimConfig | None

    def __init__(self) -> None:
        super().__init__()
        self.critic = None
        self.critic_optim = None

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of how this term computes, one sentence each; asked after a first forward pass."""
        return ()

    def before(self, teacher: nn.Module) -> Iterator[Stage]:
        """Yield what must be trained before the student; nothing unless a term says otherwise.

        The caller goes through all terms in their order, each to its end, before the student is trained:

            for stage in term.before(teacher):
                ...  # train stage.model, or load weights that it once got with this teacher, these images and optim

        That the next stage is asked for, or found not to be, tells the term that this one is done: it takes what it
        needs from `stage.model`, and freezes it. The model's first weights are drawn from torch's global generator
        when its stage is asked for. Until then a term computes with random weights (a probe of its costs may), and
        says so in `notes`. The weights are kept as NAME.safetensors, a name that `store.PREPARED` has to know.

        Args:
            teacher: the `Frozen` teacher that the student will have, or the network where it needs images alone.
        """
        return iter(())

    def forward(self, student: SegOutput, teacher: SegOutput, batch: Batch) -> Tensor:
        """Return the term's unweighted value, a scalar."""
        raise NotImplementedError

    def critic_loss(self, student: SegOutput, teacher: SegOutput, batch: Batch) -> Tensor:
        """Return what the term's critic minimises."""
        raise NotImplementedError
