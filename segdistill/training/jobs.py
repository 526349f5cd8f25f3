"""What is trained, and where: the data between the parts of a training."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

import torch

from segdistill.checkpoints.model_file import ModelInfo
from segdistill.config.schema import RunConfig
from segdistill.data import DataSource
from segdistill.networks import SegNetwork
from segdistill.runtime.precision import Precision
from segdistill.runtime.reporter import Reporter
from segdistill.types import Stage

EVAL_BATCH = 4
"""Images that a validation takes at once, at most; of large ones it takes fewer, see `evaluate.MAX_LOGITS_BYTES`."""


class OutputFolder(Protocol):
    """The folder that a training writes to.

    Only the first process has one on the disk, a `RunFolder`. The others have a `NullRunFolder`, in which nothing is
    found and which keeps nothing, so that all of them run the same code.
    """

    def find(self, name: str) -> Path | None:
        """Return the path of a file, if it is there."""

    def write(self, name: str, write: Callable[[Path], object]) -> None:
        """Let a function write a file, given its path."""

    def append(self, name: str, line: str) -> None:
        """Append a line to a log."""

    def lines(self, name: str) -> list[bytes]:
        """Return the lines of a log with their ends."""

    def sync(self, name: str) -> None:
        """Make a log durable."""

    def truncate_lines(self, name: str, keep: int, sha256: str | None) -> None:
        """Cut a log back to its first `keep` lines."""

    def promote(self) -> None:
        """Let the run take the place of the one before, where there still is one."""


@dataclass(frozen=True)
class Runtime:
    """Device, precision, loader processes and reporter of a command."""

    device: torch.device
    precision: Precision
    workers: int
    """Number of loader processes; 0 reads in the training's own."""
    reporter: Reporter
    eval_batch: int = EVAL_BATCH
    """Images that a validation takes at once, at most."""

    def exact(self) -> Precision:
        """Return float32 on the same device: what is reported is computed in it."""
        return Precision("fp32", self.device, torch.float32)


@dataclass(frozen=True)
class TrainingJob:
    """A network, what it minimizes, and what its model file will say."""

    replaces_run_before: ClassVar[bool] = True
    """Whether the first checkpoint of a run that overwrites another takes that one's place."""
    stage: Stage
    network: SegNetwork
    info: ModelInfo
    """Header of the model file, without scores and digest."""
    config: RunConfig
    data: DataSource

    @property
    def title(self) -> str:
        """Title of the progress bar."""
        return f"{self.stage.name} {self.info.network.network}"


@dataclass(frozen=True)
class PretrainingJob:
    """A pretraining stage, for a term that needs it: never validated, never shipped."""

    replaces_run_before: ClassVar[bool] = False
    """False: the checks of the first step are still to come, and may refuse the run."""
    stage: Stage
    config: RunConfig
    data: DataSource

    @property
    def title(self) -> str:
        """Title of the progress bar."""
        return self.stage.name


Job = TrainingJob | PretrainingJob
