"""The state of a training: all that its next step depends on, the frozen teacher and the images aside."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from segdistill.errors import ModelError, out_of_memory
from segdistill.runtime.precision import Precision
from segdistill.training.average import WeightAverage
from segdistill.training.optim import build_optimizer, load_optimizer, set_learning_rate
from segdistill.types import Batch, Frozen, Objective, Stage, Step

MAX_ERROR_CHARACTERS = 300
"""Characters of a library's error that are repeated: PyTorch names every tensor of a network that does not fit."""


class TrainModule(nn.Module):
    """The student together with what the objective trains beside it.

    One module of both is moved to the device, saved, and given to DistributedDataParallel, which averages the
    gradients of the module that it wraps and of no other.
    """

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self.objective = objective

    def forward(self, batch: Batch) -> Step:
        """Return the objective's terms."""
        step: Step = self.objective(self.model, batch)
        return step


class Training:
    """The state of one stage: weights, statistics of batch norm, optimizers, loss scale, steps done."""

    def __init__(self, stage: Stage, precision: Precision) -> None:
        """Move the stage to the device, in channels_last, and begin at its first step."""
        self.stage = stage
        self.step = 0
        """Number of steps done, the skipped ones included."""
        self.skipped = 0
        """Number of steps so far that changed nothing, because their gradient was not finite."""
        self.skipped_in_a_row = 0
        """Number of the last steps that were skipped, without one in between that was not; 0 after a resume."""
        self.train_module = TrainModule(stage.model, stage.objective).to(precision.device)
        self.train_module.to(memory_format=torch.channels_last)  # in which convolutions are fastest
        self.critic = stage.objective.critic
        if self.critic is not None:
            # It gets a gradient from its own loss alone: the student's loss goes through it.
            self.critic.requires_grad_(False)
        self.parameters = [p for p in self.train_module.parameters() if p.requires_grad]
        """Parameters that the objective's terms train: all but the critic's and the teacher's."""
        self.optimizer = build_optimizer(stage.optim, self.parameters)
        self.scaler = torch.amp.GradScaler(precision.device.type, enabled=precision.name == "fp16")
        self.critic_optimizer = _build_critic_optimizer(stage.objective)
        self.average = WeightAverage(stage.model, stage.optim.ema) if stage.optim.ema > 0 else None
        """Moving average of the student's weights; None where none is kept."""
        self.ended = False
        """Whether the training is over before the last step of its schedule."""
        self._frozen = _frozen_prefixes(self.train_module)
        self.buffers = [
            buffer for name, buffer in self.train_module.named_buffers() if not name.startswith(self._frozen)
        ]
        """Statistics of batch norm, mostly: what a forward pass changes in training mode."""
        self._buffers_before = [buffer.clone() for buffer in self.buffers]

    @property
    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Optimizer of the student, and of the critic where there is one."""
        return [self.optimizer] if self.critic_optimizer is None else [self.optimizer, self.critic_optimizer]

    def set_learning_rates(self) -> float:
        """Set the rates of the step that comes; return the student's."""
        optim, critic_optim = self.stage.optim, self.stage.objective.critic_optim
        if self.critic_optimizer is not None and critic_optim is not None:
            set_learning_rate(self.critic_optimizer, critic_optim, self.step, optim.steps)
        return set_learning_rate(self.optimizer, optim, self.step, optim.steps)

    def remember_buffers(self) -> None:
        """Keep a copy of the buffers as they are, for `restore_buffers`."""
        torch._foreach_copy_(self._buffers_before, self.buffers)

    def restore_buffers(self) -> None:
        """Undo what forward passes have done to the buffers since `remember_buffers`."""
        torch._foreach_copy_(self.buffers, self._buffers_before)

    def update_average(self) -> None:
        """Take the weights after a step into their average, where one is kept."""
        if self.average is not None:
            self.average.update()

    def averaged(self) -> AbstractContextManager[None]:
        """Return a context in which the student has its averaged weights, where an average is kept."""
        return nullcontext() if self.average is None else self.average.in_place()

    def count_skipped(self, *, finite: bool) -> None:
        """Count a step whose gradient was not finite, which was skipped; one with a finite gradient ends a row."""
        if finite:
            self.skipped_in_a_row = 0
        else:
            self.skipped += 1
            self.skipped_in_a_row += 1

    def state(self) -> dict[str, Any]:
        """Return all that the next step depends on, the frozen teacher aside: references, no copies."""
        critic_state = None if self.critic_optimizer is None else self.critic_optimizer.state_dict()
        # These keys are the format of checkpoints/last: see checkpoints.training_state.
        average = {} if self.average is None else {"average": self.average.state()}
        return {
            "stage": self.stage.name,
            "step": self.step,
            "skipped": self.skipped,
            "weights": self._weights(frozen=False),
            "optimizer": self.optimizer.state_dict(),
            "critic_optimizer": critic_state,
            "scaler": self.scaler.state_dict(),
            **average,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Continue exactly where `state` was taken.

        Raises:
            ModelError: if it was not taken of such a training.
        """
        try:
            # The frozen teacher is in no state, and `load_state_dict` wants all names: its weights are those it has.
            self.train_module.load_state_dict(state["weights"] | self._weights(frozen=True))
            load_optimizer(self.optimizer, state["optimizer"])
            if self.critic_optimizer is not None:
                load_optimizer(self.critic_optimizer, state["critic_optimizer"])
            self.scaler.load_state_dict(state["scaler"])
            if self.average is not None:
                self.average.load(state["average"])
        except Exception as error:  # whatever a forged state leads to; a damaged one does not come this far
            if out_of_memory(error):
                raise
            reason = " ".join(str(error).split())[:MAX_ERROR_CHARACTERS]
            raise ModelError(
                f"The last checkpoint is not of this training ({type(error).__name__}: {reason}).", "Start a new run."
            ) from None
        self.step = state["step"]
        self.skipped = skipped_in(state)

    def _weights(self, *, frozen: bool) -> dict[str, torch.Tensor]:
        """Return the weights and buffers of what is frozen, or of everything else, by name."""
        weights = self.train_module.state_dict()
        return {name: tensor for name, tensor in weights.items() if name.startswith(self._frozen) == frozen}


def _build_critic_optimizer(objective: Objective) -> torch.optim.Optimizer | None:
    """Build what trains the critic of an objective; None where it has none, or none that is trained."""
    if objective.critic is None or objective.critic_optim is None:
        return None
    return build_optimizer(objective.critic_optim, list(objective.critic.parameters()))


def _frozen_prefixes(module: nn.Module) -> tuple[str, ...]:
    """Return how the names of the tensors begin that stay as they are: the teacher's."""
    return tuple(f"{name}." for name, child in module.named_modules() if isinstance(child, Frozen))


def skipped_in(state: dict[str, Any]) -> int:
    """Return the number of steps that had been skipped when a state was taken; earlier versions did not count them.

    Raises:
        ModelError: if that is no number of steps.
    """
    skipped = state.get("skipped", 0)
    # True is an int to Python, and no count
    if type(skipped) is not int or not 0 <= skipped <= state["step"]:
        raise ModelError("The last checkpoint does not say how many steps were skipped.", "Start a new run.")
    return skipped
