"""The data that flows between the parts, with names and types.

Shape legend, used in every docstring:
    B images, C classes, D feature channels, H x W the input's pixels, h x w a network's own smaller grid.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, NamedTuple

from pydantic import Field
from torch import Tensor, nn, no_grad

from segdistill.config.schema import OptimConfig, Strict

IGNORE = 255
"""The label of pixels that count nowhere: void, unlabeled, padding."""
MAX_CLASSES = 250
"""Most classes of a label map, which has 8 bits; the last ids are taken."""


class Batch(NamedTuple):
    """Images with their labels, on their way to the networks."""

    image: Tensor
    """(B, 3, H, W) float32 RGB in 0..255: every network normalizes its own input, so teacher and student may differ."""
    label: Tensor
    """(B, H, W) int64 in [0, C) or IGNORE; all IGNORE where an image has no label."""
    names: tuple[str, ...]
    """Names of the images, B of them, for messages."""
    seeds: Tensor
    """(B,) int64: whatever is random per sample is drawn from its seed, so results do not depend on the loaders."""
    valid: Tensor | None = None
    """(B, H, W) bool, where teacher and student are compared; None stands for what `valid_mask` makes of the labels."""
    parts: tuple["Batch", ...] = ()
    """All micro-batches of this optimizer step on this process, where gradients are accumulated."""

    def valid_mask(self) -> Tensor:
        """Return where teacher and student are compared, (B, H, W) bool.

        That is each pixel with a label, and an image without any label whole: it has no void, only padding, which
        `valid` knows.
        """
        if self.valid is not None:
            return self.valid
        is_labeled = self.label != IGNORE
        # Terms that need no label have all of such an image to compare.
        has_no_label = ~is_labeled.flatten(1).any(1)
        return is_labeled | has_no_label[:, None, None]


class SegOutput(NamedTuple):
    """The output of every network."""

    logits: Tensor
    """(B, C, h, w) before softmax, at the network's own stride."""
    features: tuple[Tensor, ...]
    """Feature maps (B, D_i, h_i, w_i), shallow to deep; the last one feeds the classifier."""
    aux: Tensor | None
    """Logits (B, C, h', w') of the auxiliary head, in training only."""

    def upto(self, layer: int) -> "SegOutput":
        """Return the output without the feature maps that are deeper than this one."""
        return self._replace(features=self.features[: layer + 1])


class Step(NamedTuple):
    """The terms that one optimizer step minimizes, and the outputs that they were computed from."""

    terms: dict[str, Tensor]
    """Weighted scalars; their sum is the loss and each is logged under its name."""
    student: SegOutput | None
    """Output of the model that is trained; None where no critic will need it."""
    teacher: SegOutput | None
    """Output of the teacher; None where no teacher took part."""


class Comparison(NamedTuple):
    """Outputs that terms compare."""

    student: SegOutput
    teacher: SegOutput
    """Output of the teacher for the same images, with logits of the same classes as the student's here."""
    batch: Batch
    """Batch whose `valid` leaves out the pixels that the teacher cannot speak of."""


class Objective(nn.Module):
    """Runs the forward passes and returns named, weighted loss terms; `engine.fit` minimizes their sum."""

    @property
    def critic(self) -> nn.Module | None:
        """The network with an optimizer of its own that is trained after each step on the same outputs.

        Its parameters require a gradient only while it is trained, so the student's step leaves none in it.
        """
        return None

    @property
    def critic_optim(self) -> OptimConfig | None:
        """The critic's optimizer; its schedule is as long as the stage's."""
        return None

    def forward(self, model: nn.Module, batch: Batch) -> Step:
        """Return the terms of this batch for `model`."""
        raise NotImplementedError

    def critic_loss(self, step: Step, batch: Batch) -> Tensor:
        """Return what the critic minimizes, given the outputs of this step."""
        raise NotImplementedError


class Frozen(nn.Module):
    """A teacher that stays as it is: eval mode, no gradient, no batch-norm update, whoever calls `train()`.

    It takes the whole batch, so that a teacher which needs more than the image finds it.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> "Frozen":
        """Stay in eval mode."""
        # `train()` of whatever holds this module reaches it too, and would switch the teacher's batch norm.
        return super().train(False)

    def forward(self, batch: Batch) -> SegOutput:
        """Return the teacher's output, outside any graph."""
        # Tensors of `inference_mode` cannot be saved for the student's backward pass.
        with no_grad():
            output: SegOutput = self.network(batch.image)
        return output

    labels_images: bool = False
    """Whether images without labels get the teacher's classes for labels; see `with_targets`."""

    def with_targets(self, batch: Batch, teacher: SegOutput) -> Batch:
        """Return the batch with the labels that a student is to learn: its own, unless a kind of teacher adds some.

        Args:
            batch: on the device.
            teacher: what this teacher has returned for it.
        """
        return batch

    def comparable(self, student: SegOutput, teacher: SegOutput, batch: Batch) -> Comparison:
        """Return what terms may compare of two outputs: everything, unless a kind of teacher says otherwise.

        Args:
            student: output of the student for the batch.
            teacher: what this teacher has returned for it.
            batch: on the device.
        """
        return Comparison(student, teacher, batch)


@dataclass(frozen=True)
class Stage:
    """One training: `model` and the objective's own parameters are optimized under `optim`."""

    name: str
    """Lower-case words with hyphens between them: it names the stage in the log, and a file of the run."""
    model: nn.Module
    objective: Objective
    optim: OptimConfig


class StageSettings(Strict):
    """Keys of a term's table for something that it has trained beforehand.

    A term's options have them as the value of a key, as in [terms.adaptation.autoencoder]. By this type the stage is
    known to whoever limits the length of all stages.
    """

    steps: Annotated[int, Field(ge=1)]
    """Length of the stage in optimizer steps."""


class Term(nn.Module):
    """One kind of knowledge: an unweighted scalar from the two outputs. Adapters are its submodules."""

    critic: nn.Module | None
    """Network that judges the student's output, trained by `critic_loss` after each step; None of most terms."""
    critic_optim: OptimConfig | None
    """Optimizer of the critic; the length of its schedule is replaced by the student's."""

    def __init__(self) -> None:
        super().__init__()
        self.critic = None
        self.critic_optim = None

    @property
    def messages(self) -> tuple[str, ...]:
        """Sentences about how this term computes that the user should read; complete after a first forward pass."""
        return ()

    def pretraining_stages(self, teacher: Frozen) -> Iterator[Stage]:
        """Yield what must be trained before the student; nothing unless a term says otherwise.

        The caller goes through all terms in their order, each to its end, before the student is trained:

            for stage in term.pretraining_stages(teacher):
                ...  # train stage.model, or load weights that it once got with this teacher, these images and optim

        When the caller asks for the next stage, or finds that there is none, this one is done: the term then takes what
        it needs from `stage.model`, and freezes it. The model's first weights are drawn from torch's global generator
        when its stage is asked for. Until then a term computes with random weights (a probe of its costs may), and
        says so in `messages`. The weights are kept in the run's folder under the stage's name.

        Args:
            teacher: the one that the student will have.
        """
        return iter(())

    def forward(self, student: SegOutput, teacher: SegOutput, batch: Batch) -> Tensor:
        """Return the term's unweighted value, a scalar."""
        raise NotImplementedError

    def critic_loss(self, student: SegOutput, teacher: SegOutput, batch: Batch) -> Tensor:
        """Return what the term's critic minimizes."""
        raise NotImplementedError
