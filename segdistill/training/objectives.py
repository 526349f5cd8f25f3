"""What a training minimizes: cross entropy, plus the terms of a distillation or the agreement of two paths."""

from torch import Tensor, nn

from segdistill import losses
from segdistill.config.schema import LabelEmbedding, OptimConfig
from segdistill.errors import UsageError
from segdistill.teachers.label_embedding import PATHS, with_random_embedding
from segdistill.terms import Weighted
from segdistill.training.supervision import Supervision
from segdistill.types import Batch, Frozen, Objective, Step, Term


class Distillation(Objective):
    """Cross entropy of the student (and its auxiliary head) plus weighted terms between student and teacher.

    Without terms it is plain training, and no teacher is asked: teachers and baselines run through the same code.
    What is compared is the teacher's to say: see `Frozen.comparable`.
    """

    def __init__(
        self,
        supervision: Supervision | float,
        teacher: Frozen | None = None,
        terms: dict[str, Weighted] | None = None,
    ) -> None:
        """Take the terms and register what they train.

        Args:
            supervision: what is learned from the labels; or the weight of the auxiliary head's cross entropy, where
                that and the main one are all.
            teacher: what the terms compare with.
            terms: by the name under which each is logged.

        Raises:
            UsageError: if more than one of the terms trains a critic.
        """
        super().__init__()
        terms = terms or {}
        assert teacher is not None or not terms, "terms compare with a teacher"
        self.supervision = supervision if isinstance(supervision, Supervision) else Supervision(supervision)
        # A teacher that labels images is asked without terms, too: cross entropy learns from it.
        is_asked = bool(terms) or (teacher is not None and teacher.labels_images)
        self.teacher = teacher if is_asked else None
        self.terms = nn.ModuleDict({name: weighted.term for name, weighted in terms.items()})
        self.weights = {name: weighted.weight for name, weighted in terms.items()}
        self.layers = {name: weighted.layers for name, weighted in terms.items()}
        self._adversarial = _name_with_critic(terms)

    @property
    def critic(self) -> nn.Module | None:
        """The critic of the one term that has one."""
        return None if self._adversarial is None else self._term(self._adversarial).critic

    @property
    def critic_optim(self) -> OptimConfig | None:
        """The optimizer of that critic."""
        return None if self._adversarial is None else self._term(self._adversarial).critic_optim

    def forward(self, model: nn.Module, batch: Batch) -> Step:
        """Return cross entropy and all weighted terms of the batch."""
        output = model(batch.image)
        if self.teacher is None:
            return Step(self.supervision(model, [output], batch), output, None)
        teacher_output = self.teacher(batch)
        batch = self.teacher.with_targets(batch, teacher_output)
        terms: dict[str, Tensor] = self.supervision(model, [output], batch)
        comparison = self.teacher.comparable(output, teacher_output, batch)
        for name, term in self.terms.items():
            student, teacher = comparison.student, comparison.teacher
            layers = self.layers[name]
            if layers is not None:  # a term finds the map that it compares at the end
                student, teacher = student.upto(layers.student.number), teacher.upto(layers.teacher.number)
            terms[name] = self.weights[name] * term(student, teacher, comparison.batch)
        return Step(terms, output, teacher_output)

    def critic_loss(self, step: Step, batch: Batch) -> Tensor:
        """Return what the critic minimizes on the outputs of this step."""
        assert self.teacher is not None
        assert self._adversarial is not None
        assert step.student is not None
        assert step.teacher is not None
        batch = self.teacher.with_targets(batch, step.teacher)
        comparison = self.teacher.comparable(step.student, step.teacher, batch)
        return self._term(self._adversarial).critic_loss(comparison.student, comparison.teacher, comparison.batch)

    def _term(self, name: str) -> Term:
        term = self.terms[name]
        assert isinstance(term, Term)  # a ModuleDict knows modules alone
        return term


class LabelAssisted(Objective):
    """Two paths of one teacher through the same images, with other label embeddings in each (Qiu et al. 2024).

    Cross entropy of both (and of their auxiliary heads), and what they disagree in: the channel-wise divergence of
    each from the other, which is held fixed. With one embedding for both paths there would be nothing to disagree in.
    """

    def __init__(self, supervision: Supervision | float, options: LabelEmbedding, num_classes: int) -> None:
        """Take the options.

        Args:
            supervision: what is learned from the labels, as for `Distillation`.
            options: how labels are embedded, and the weight and temperature of the agreement.
            num_classes: C.
        """
        super().__init__()
        self.supervision = supervision if isinstance(supervision, Supervision) else Supervision(supervision)
        self.options = options
        self.num_classes = num_classes

    def forward(self, model: nn.Module, batch: Batch) -> Step:
        """Return the terms for a network of four input channels."""
        first, second = (model(with_random_embedding(batch, self.options, self.num_classes, path)) for path in PATHS)
        terms: dict[str, Tensor] = self.supervision(model, [first, second], batch)
        valid = losses.resize_mask(batch.valid_mask(), first.logits.shape[-2:])
        temperature = self.options.temperature
        # the loss takes no gradient with respect to its second argument
        disagreement = losses.channel_kl(first.logits, second.logits, temperature, valid)
        disagreement = disagreement + losses.channel_kl(second.logits, first.logits, temperature, valid)
        return Step(terms | {"consistency": self.options.consistency * disagreement}, None, None)


def _name_with_critic(terms: dict[str, Weighted]) -> str | None:
    """Return the name of the one term that trains a critic; None where none does.

    Raises:
        UsageError: if there are several: there is one optimizer for a critic.
    """
    names = [name for name, weighted in terms.items() if weighted.term.critic is not None]
    if len(names) > 1:
        raise UsageError(
            f"Terms {' and '.join(names)} each train a critic, and a training has one.",
            "Set the weight of all but one to 0.",
        )
    return names[0] if names else None
