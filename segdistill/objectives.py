"""What a training minimises: cross entropy, plus the terms of a distillation."""

from torch import Tensor, nn

from segdistill import losses
from segdistill.config import OptimConfig
from segdistill.distributed import share_of_step
from segdistill.errors import UsageError
from segdistill.terms import Weighted
from segdistill.types import IGNORE, Batch, Frozen, Objective, Step


class Distillation(Objective):
    """Cross entropy of the student (and its auxiliary head) plus weighted terms between student and teacher.

    Without terms it is plain training, and no teacher is asked: teachers and baselines run through the same code.
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
        share = share_of_step(batch, lambda part: (part.label != IGNORE).sum())
        terms = {"cross_entropy": losses.cross_entropy(student.logits, batch.label) * share}
        if student.aux is not None:  # with weight 0 too: DistributedDataParallel waits for every parameter's gradient
            terms["aux"] = self.aux_weight * losses.cross_entropy(student.aux, batch.label) * share
        teacher = None if self.teacher is None else self.teacher(batch)
        for name, term in self.terms.items():
            terms[name] = self.weights[name] * term(student, teacher, batch)
        return Step(terms, student, teacher)

    def critic_loss(self, step: Step, batch: Batch) -> Tensor:
        """Return what the critic minimises on the outputs of this step."""
        assert step.student is not None
        assert step.teacher is not None
        return self._adversary[0].critic_loss(step.student, step.teacher, batch)
