"""What ends a training before its last step, or right behind it, when a signal asks for that."""

import signal
from collections.abc import Callable
from dataclasses import dataclass

import torch

from segdistill.errors import Stopped
from segdistill.runtime import distributed
from segdistill.runtime.signals import stopped_error


@dataclass(frozen=True)
class StopRequest:
    """Whether this process was asked to stop, and what continues the run."""

    received: Callable[[], int | None]
    """Returns the signal that came; None where none has."""
    command: str
    """Command that continues the run."""

    def in_any_process(self, device: torch.device) -> bool:
        """Whether any process was asked to stop: all of them must do so after the same step."""
        return distributed.all_reduce_any(self.received() is not None, device)

    def error(self, when: str) -> Stopped:
        """Return what ends a run that has saved everything; `when` follows "Stopped by SIGTERM"."""
        return stopped_error(self.received(), when, self.command)

    def while_waiting(self) -> Stopped:
        """Return what ends a run in the midst of a wait for images, when a step cannot be awaited."""
        number = self.received() or signal.SIGTERM
        return Stopped(
            f"Stopped by {signal.Signals(number).name} while no image came; what was saved before is whole.",
            f"Continue with: {self.command}",
            number,
        )
