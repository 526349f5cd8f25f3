"""What a training minimises: cross entropy, plus the terms of a distillation or the agreement of two paths."""

import torch
from torch import Tensor, nn

from segdistill import losses
from segdistill.class_map import Mapped
from segdistill.config import LabelCodes, OptimConfig
from segdistill.distributed import share_of_step
from segdistill.errors import UsageError
from segdistill.label_codes import PATHS, LabelledFrozen, with_random_codes
from segdistill.networks import SegNetwork
from segdistill.terms import Weighted
from segdistill.types import IGNORE, Batch, Frozen, Objective, SegOutput, Step


class Distillation(Objective):
    """Cross entropy of the student (and its auxiliary head) plus weighted terms between student and teacher.

    Without terms it is plain training, and no teacher is asked: teachers and baselines run through the same code.
    A label-assisted teacher would see nothing but void on an image without labels, which it was never trained on: with
    one, labelled pixels alone are compared, and terms that leave ignored pixels out get nothing from such images.
    """

    def __init__(
        self, aux_weight: float, teacher: Frozen | None = None, terms: dict[str, Weighted] | None = None
    ) -> None:
        super().__init__()
        terms = terms or {}
        assert teacher is not None or not terms, "terms compare with a teacher"
        self.aux_weight = aux_weight
        self.teacher = teacher if terms else None
        self.terms = nn.ModuleDict({name: weighted.term for name, weighted in terms.items()})
        self.weights = {name: weighted.weight for name, weighted in terms.items()}
        self.layers = {name: weighted.layers for name, weighted in terms.items()}
        self._masked: tuple[tuple[Batch, ...], tuple[Batch, ...]] = ((), ())
        adversaries = [weighted.term for weighted in terms.values() if weighted.term.critic is not None]
        if len(adversaries) > 1:
            names = [name for name, weighted in terms.items() if weighted.term.critic is not None]
            raise UsageError(f"{' and '.join(names)} each train a critic.", "Set the weight of all but one to 0.")
        # in a tuple, so that it is not registered a second time
        self._adversary = tuple(adversaries)

    @property
    def critic(self) -> nn.Module | None:
        """The critic of the one term that has one."""
        return self._adversary[0].critic if self._adversary else None

    @property
    def critic_optim(self) -> OptimConfig | None:
        """The optimiser of that critic."""
        return self._adversary[0].critic_optim if self._adversary else None

    def forward(self, model: nn.Module, batch: Batch) -> Step:
        """Return cross entropy and all weighted terms of the batch."""
        student = model(batch.image)
        terms = _supervised(model, [student], batch, self.aux_weight)
        if self.teacher is None:
            return Step(terms, student, None)
        teacher = self.teacher(batch)
        seen = self._comparable(student, teacher, batch)
        for name, term in self.terms.items():
            own, target, compared = seen
            if (layers := self.layers[name]) is not None:
                own, target = own.upto(layers.student.number), target.upto(layers.teacher.number)
            terms[name] = self.weights[name] * term(own, target, compared)
        return Step(terms, student, teacher)

    def critic_loss(self, step: Step, batch: Batch) -> Tensor:
        """Return what the critic minimises on the outputs of this step."""
        assert step.student is not None
        assert step.teacher is not None
        return self._adversary[0].critic_loss(*self._comparable(step.student, step.teacher, batch))

    def _comparable(self, student: SegOutput, teacher: SegOutput, batch: Batch) -> tuple[SegOutput, SegOutput, Batch]:
        """Return what the terms see: logits of the classes that the teacher knows, and the pixels it can speak of."""
        assert self.teacher is not None
        if isinstance(self.teacher, LabelledFrozen):
            return student, teacher, _labelled(batch)
        network = self.teacher.network
        if not isinstance(network, Mapped):
            return student, teacher, batch
        known = list(network.meaning.known)
        own, target = (output._replace(logits=output.logits[:, known]) for output in (student, teacher))
        if self._masked[0] is not batch.parts:  # a mean over the step is over what counts in all parts
            parts = tuple(network.compared(part, self.teacher(part).logits) for part in batch.parts)
            self._masked = batch.parts, parts
        return own, target, network.compared(batch, teacher.logits)._replace(parts=self._masked[1])


class LabelAssisted(Objective):
    """Two paths of one teacher through the same images, their labels in different codes (Qiu et al. 2024).

    Cross entropy of both (and of their auxiliary heads), and what they disagree in: the channel-wise divergence of
    each from the other, which is held fixed. With one draw for both paths there would be nothing to disagree in.
    """

    def __init__(self, aux_weight: float, options: LabelCodes, num_classes: int) -> None:
        super().__init__()
        self.aux_weight = aux_weight
        self.options = options
        self.num_classes = num_classes

    def forward(self, model: nn.Module, batch: Batch) -> Step:
        """Return the terms for a network of four input channels."""
        one, other = (model(with_random_codes(batch, self.options, self.num_classes, path)) for path in PATHS)
        valid = losses.at_size(batch.compared(), one.logits.shape[-2:])
        apart = [
            losses.channel_kl(a.logits, fixed.logits, self.options.temperature, valid)
            for a, fixed in ((one, other), (other, one))
        ]
        terms = _supervised(model, [one, other], batch, self.aux_weight)
        return Step(terms | {"consistency": self.options.consistency * (apart[0] + apart[1])}, None, None)


def _labelled(batch: Batch) -> Batch:
    """Return the batch, and its micro-batches, with teacher and student compared at labelled pixels alone."""
    parts = tuple(map(_labelled, batch.parts))
    return batch._replace(valid=batch.label != IGNORE, parts=parts)


def _supervised(model: nn.Module, outputs: list[SegOutput], batch: Batch, aux_weight: float) -> dict[str, Tensor]:
    """Return the cross entropies of the outputs, and of their auxiliary heads: this batch's share of the step's."""
    aligned = isinstance(model, SegNetwork) and model.align_corners
    share = share_of_step(batch, lambda part: (part.label != IGNORE).sum())

    def total(logits: list[Tensor]) -> Tensor:
        each = [losses.cross_entropy(one, batch.label, align_corners=aligned) for one in logits]
        return torch.stack(each).sum() * share

    terms = {"cross_entropy": total([output.logits for output in outputs])}
    if aux := [output.aux for output in outputs if output.aux is not None]:
        terms["aux"] = aux_weight * total(aux)  # with weight 0 too: DistributedDataParallel waits for every gradient
    return terms
