"""Distillation in a training loop of one's own: the objective that our trainings minimize, for any two networks."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from segdistill.api._state import unchanged_process
from segdistill.api.any_network import FeatureMaps, as_network
from segdistill.config.checking import validated
from segdistill.config.schema import TermConfig
from segdistill.errors import ShapeError, UsageError
from segdistill.networks import SegNetwork
from segdistill.runtime.distributed import all_reduce_mean
from segdistill.runtime.precision import Precision
from segdistill.terms import PROBE_SIDE, TermContext, build_terms, dry_output, needs_pretraining
from segdistill.training.engine import critic_backward, fit
from segdistill.training.objectives import Distillation
from segdistill.training.optim import build_optimizer
from segdistill.types import IGNORE, Batch, Comparison, Frozen, SegOutput, Step, Term

MAX_SEED = 2**62
"""Seeds of samples are drawn below this."""
ToPixels = Callable[[Tensor], Tensor]
"""From images as the networks take them to RGB in 0..255, (B, 3, H, W)."""


class Distiller(nn.Module):
    """A frozen teacher, and what a student learns from it: `loss = kd(image, label)`.

    The loss is cross entropy with the label plus each term times its weight, as `segdistill distill` minimizes it.

        kd = Distiller(student, teacher, terms={"pixel": 1.0, "holistic": 0.001})
        optimizer = torch.optim.SGD(kd.parameters(), lr=0.01)
        for image, label in loader:
            loss = kd(image, label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            kd.critic_step()
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        terms: Mapping[str, float | Mapping[str, Any]],
        *,
        feature_maps: FeatureMaps | None = None,
        aux_weight: float = 0.4,
        ignore_index: int = IGNORE,
        to_pixels: ToPixels | None = None,
        example: Tensor | None = None,
    ) -> None:
        """Build the terms for two networks. Adapters and critic are drawn from torch's generator.

        Args:
            student: trained by the loss.
            teacher: frozen from now on: eval mode, no gradients.
            terms: weight of each term by its name, or its table as a preset has it: {"weight": 3, "temperature": 4}.
            feature_maps: reads a network that is not segdistill's: takes it and the images, returns a `SegOutput`.
                Without it networks may return logits, or a dictionary with "out"; terms on feature maps then have none.
            aux_weight: weight of the cross entropy of a student's auxiliary head.
            ignore_index: label of pixels that do not count.
            to_pixels: from images as the networks take them to RGB in 0..255, for terms that look at the image
                (holistic); by default they are that already.
            example: (1, channels, H, W), an image that both networks can take; by default zeros, 3 x 128 x 128. They
                are asked once for their maps.

        Raises:
            UsageError: an unknown term or key; networks that do not fit each other or a term; a label-assisted teacher.
        """
        super().__init__()
        _check_networks(student, teacher)
        device = next(student.parameters()).device
        image = torch.zeros(1, 3, PROBE_SIDE, PROBE_SIDE) if example is None else example
        image = image.to(device)
        self.student = as_network(student, feature_maps)
        frozen = _FrozenTeacher(as_network(teacher, feature_maps), to_pixels).to(device)
        num_classes = _num_classes(self.student, frozen.network, image)
        context = TermContext(self.student, frozen.network, num_classes, image=image)
        built = build_terms(_term_configs(terms), context)
        self.objective = Distillation(aux_weight, frozen, built).to(device)
        self.ignore_index = ignore_index
        self.to_pixels = to_pixels
        self.critic_optimizer = self._build_critic_optimizer()
        """Optimizer of the critic, for a schedule of one's own; None without a term that has one."""
        self.last_terms: dict[str, Tensor] = {}
        """Weighted terms of the last loss by their names, detached, the critic's loss among them once it has one."""
        self._last: _LastStep | None = None
        self._has_seen_pixels = False
        self._pretrained = not self._terms_to_pretrain()

    def forward(
        self, image: Tensor, label: Tensor | None = None, *, valid: Tensor | None = None, seeds: Tensor | None = None
    ) -> Tensor:
        """Return the loss of a batch.

        Args:
            image: (B, 3, H, W), as the networks take it.
            label: (B, H, W) class ids or `ignore_index`; None of images without labels, which the terms compare whole.
            valid: (B, H, W) bool, where student and teacher are compared; by default where there is a label, and an
                image without any label whole.
            seeds: (B,) int64, from which is drawn what is random in some terms; by default drawn themselves, by torch's
                generator.

        Raises:
            UsageError: before a term's pretraining, see `pretrain`; for a term that looks at the image, if it is not in
                0..255.
            ShapeError: if image and label are not of the same number of images.
        """
        if not self._pretrained:
            names = " and ".join(self._terms_to_pretrain())
            raise UsageError(f"Pretraining of {names} has not run.", "Call kd.pretrain(images) first.")
        batch = self._batch(image, label, valid=valid, seeds=seeds)
        self._check_pixels(batch)
        step: Step = self.objective(self.student, batch)
        self.last_terms = {name: value.detach() for name, value in step.terms.items()}
        self._last = None
        if self.training and self.objective.critic is not None:
            self._last = _LastStep(_detached(step), batch)
        return torch.stack(list(step.terms.values())).sum()

    def critic_step(self) -> Tensor | None:
        """Train the critic on the outputs of the last loss, once its backward pass is done; return the critic's loss.

        Without a term that has a critic nothing happens. A step whose gradient is not finite changes nothing.

        Raises:
            UsageError: if there has been no loss in training mode since the last step.
        """
        critic, optimizer = self.objective.critic, self.critic_optimizer
        if critic is None or optimizer is None:
            return None
        if self._last is None:
            raise UsageError("critic_step: no loss of a batch since the last one.", "Call kd(image, label) first.")
        loss = critic_backward(self.objective, self._last.step, self._last.batch).detach()
        gradients = [parameter.grad for parameter in critic.parameters() if parameter.grad is not None]
        all_reduce_mean(gradients)
        if torch.nn.utils.get_total_norm(gradients).isfinite():
            optimizer.step()
        optimizer.zero_grad()
        self.last_terms["critic"] = loss
        self._last = None
        return loss

    def pretrain(self, images: Iterable[Tensor | tuple[Tensor, Tensor]], *, seed: int = 0) -> None:
        """Train what some terms need before the student: the auto-encoders of adaptation and affinity.

        Their steps and learning rate are keys of the terms' tables. It is not part of the state dict.

        Args:
            images: batches of images, or of images and labels, such as a loader; gone through as often as it takes.
            seed: of what is random on the way.

        Raises:
            UsageError: if there are no batches.
        """
        device = next(self.student.parameters()).device
        precision = Precision("fp32", device, torch.float32)
        teacher = self.objective.teacher
        if teacher is None:  # no term weighs anything
            return
        with unchanged_process():
            torch.manual_seed(seed)
            for term in self._terms().values():
                for stage in term.pretraining_stages(teacher):
                    fit(stage, self._repeated(images), precision=precision, seed=seed, on_step=lambda report: None)
        self._pretrained = True

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield what the loss trains: of the student and the terms' adapters, not of teacher and critic.

        `parameters()` follows: it is what the optimizer takes.
        """
        for name, parameter in super().named_parameters(prefix, recurse, remove_duplicate):
            if parameter.requires_grad:
                yield name, parameter

    @property
    def messages(self) -> tuple[str, ...]:
        """Sentences about how terms compute that the user should read; complete after the first loss."""
        return tuple(message for term in self._terms().values() for message in term.messages)

    def _build_critic_optimizer(self) -> torch.optim.Optimizer | None:
        critic, optim = self.objective.critic, self.objective.critic_optim
        if critic is None or optim is None:
            return None
        critic.requires_grad_(False)  # it gets a gradient from its own loss alone
        return build_optimizer(optim, list(critic.parameters()))

    def _terms(self) -> dict[str, Term]:
        return {name: term for name, term in self.objective.terms.items() if isinstance(term, Term)}

    def _terms_to_pretrain(self) -> list[str]:
        return [name for name, term in self._terms().items() if needs_pretraining(term)]

    def _check_pixels(self, batch: Batch) -> None:
        """Look once whether a critic sees images in 0..255, and not as a network wants them.

        Raises:
            UsageError: if it does not.
        """
        if self._has_seen_pixels or self.objective.critic is None:
            return
        pixels = batch.image if self.to_pixels is None else self.to_pixels(batch.image)
        low, high = pixels.min().item(), pixels.max().item()
        if low < -1 or not 1 < high < 257:  # a normalization that is undone leaves a rounding error
            raise UsageError(
                f"Images for the critic have values of {low:.3g} to {high:.3g}, expected: RGB in 0..255.",
                "Give to_pixels, a function from images as the networks take them to RGB in 0..255.",
            )
        self._has_seen_pixels = True

    def _batch(self, image: Tensor, label: Tensor | None, *, valid: Tensor | None, seeds: Tensor | None) -> Batch:
        if label is None:
            label = torch.full((len(image), *image.shape[2:]), IGNORE, device=image.device)
        elif label.dim() != 3 or len(label) != len(image):
            raise ShapeError(
                f"The images have shape {tuple(image.shape)} and the label {tuple(label.shape)}.",
                "Expected: (B, 3, H, W) and (B, H, W).",
            )
        else:
            label = label.long().masked_fill(label == self.ignore_index, IGNORE)
        if seeds is None:
            seeds = torch.randint(MAX_SEED, (len(image),))
        names = tuple(str(index) for index in range(len(image)))
        batch = Batch(image, label, names=names, seeds=seeds, valid=valid)
        return batch._replace(valid=batch.valid_mask())

    def _repeated(self, images: Iterable[Tensor | tuple[Tensor, Tensor]]) -> Iterator[Batch]:
        """Yield batches of images and labels, again and again."""
        while True:
            count = 0
            for item in images:
                count += 1
                if isinstance(item, Tensor):
                    yield self._batch(item, None, valid=None, seeds=None)
                else:
                    image, label, *_ = item
                    yield self._batch(image, label, valid=None, seeds=None)
            if not count:
                raise UsageError(
                    "pretrain: the images have come to their end.",
                    "Give what can be gone through several times, such as a loader or a list of batches.",
                )


class _LastStep(NamedTuple):
    """The outputs of the last loss, for the critic."""

    step: Step
    batch: Batch


class _FrozenTeacher(Frozen):
    """A teacher whose images are as the networks take them, while terms look at pixels."""

    def __init__(self, network: nn.Module, to_pixels: ToPixels | None) -> None:
        super().__init__(network)
        self.to_pixels = to_pixels

    def comparable(self, student: SegOutput, teacher: SegOutput, batch: Batch) -> Comparison:
        """Return both outputs, and the batch with its images in 0..255."""
        if self.to_pixels is not None:
            batch = batch._replace(image=self.to_pixels(batch.image))
        return Comparison(student, teacher, batch)


def _check_networks(student: nn.Module, teacher: nn.Module) -> None:
    """Refuse a network that is its own teacher, and a teacher that wants labels.

    Raises:
        UsageError: naming what it is.
    """
    if student is teacher:
        raise UsageError("Student and teacher are one network, which would be frozen.", "Give a copy: copy.deepcopy.")
    if isinstance(teacher, SegNetwork) and teacher.mean.shape[1] != 3:
        raise UsageError(
            "The teacher is label-assisted: it sees the labels in a fourth channel, which a Distiller does not draw.",
            "Distill it with segdistill.distill, or give a teacher that sees images alone.",
        )


def _num_classes(student: nn.Module, teacher: nn.Module, image: Tensor) -> int:
    """Return how many classes two networks have.

    Raises:
        UsageError: if they have not the same number.
    """
    student_classes, teacher_classes = (dry_output(network, image).logits.shape[1] for network in (student, teacher))
    if student_classes != teacher_classes:
        raise UsageError(
            f"The student has {student_classes} classes and the teacher {teacher_classes}.",
            "Expected: the same, in the same order. A feature_maps function can pick the teacher's channels.",
        )
    return student_classes


def _term_configs(terms: Mapping[str, float | Mapping[str, Any]]) -> dict[str, TermConfig]:
    """Return the tables of terms, of which some may be given as a weight alone.

    Raises:
        UsageError: naming the mistakes in a table.
    """
    configs = {}
    for name, value in terms.items():
        table = value if isinstance(value, Mapping) else {"weight": value}
        configs[name] = validated(TermConfig, table, f"[terms.{name}]")
    return configs


def _detached(step: Step) -> Step:
    """Return the outputs of a step without their graph, which is gone after the backward pass."""
    student = step.student
    assert student is not None, "a distillation returns it"
    features = tuple(features.detach() for features in student.features)
    return Step({}, SegOutput(student.logits.detach(), features, None), step.teacher)
