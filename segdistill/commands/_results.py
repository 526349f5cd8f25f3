"""Results of a training command: an entry for each network that was scored, and what the command returns."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from segdistill.config.schema import Weights
from segdistill.evaluation.metrics import Scores
from segdistill.evaluation.significance import GainEstimate
from segdistill.reports.scores import scores_table
from segdistill.reports.weak_teacher import weak_teacher

Role = Literal["teacher", "baseline", "distilled"]
OLD_BASELINE = "plain"
"""Name of the role `baseline` in files of version 0.1."""
REQUIRED_KEYS = {"network", "images", "miou", "best_miou", "pixel_accuracy", "parameters", "macs"}
"""Keys of an entry of scores.json that are shown."""


@dataclass(frozen=True)
class NetworkResult:
    """One network of a run, with its scores on the validation images and its costs."""

    role: Role
    network: str
    scores: Scores
    parameters: int | None
    """None of an ONNX graph, which has no parameters of PyTorch's."""
    macs: int | None
    """Multiply-adds for one crop; None where they cannot be counted."""
    seed: int | None = None
    """Seed of a student beyond the first one; None of the first, and of the teacher."""
    best_miou: float | None = None
    """mIoU of the best checkpoint, beside that of the last step."""
    best_classes_scored: float | None = None
    """Number of classes that `best_miou` is a mean over; None where nothing says so."""
    training_seconds: float | None = None
    """Seconds at work in steps, without validation, checkpoints and stalls; None where it was not trained here."""
    pretraining_seconds: float = 0.0
    """Seconds of the pretraining stages of its terms."""
    weights: Weights = "last"
    """Weights of its training that were scored, and shipped."""
    label_assisted: bool = False
    """Whether the network sees the labels: then its scores are no accuracy."""
    by_teacher: bool = False
    """Whether a teacher's answers stood for labels: then its scores are agreement, and no accuracy."""
    missing_classes: tuple[str, ...] = ()
    """Classes of the data that a teacher of other classes lacks, so that its IoU of them is 0."""
    skipped_steps: int = 0
    """Steps of its training that were left out, because their gradient was not finite."""

    @property
    def name(self) -> str:
        """Role and seed, as tables and scores.json have them: "distilled", "distilled, seed 1"."""
        return self.role if self.seed is None else f"{self.role}, seed {self.seed}"

    @property
    def seconds(self) -> float:
        """Seconds of all training that the network took."""
        return (self.training_seconds or 0.0) + self.pretraining_seconds

    def to_json(self, classes: tuple[str, ...]) -> dict[str, Any]:
        """Return the entry of scores.json."""
        entry: dict[str, Any] = {
            "network": self.network,
            "weights": self.weights,
            "best_miou": None if self.by_teacher else self.best_miou,
            "best_classes_scored": None if self.best_classes_scored is None else int(self.best_classes_scored),
            "parameters": self.parameters,
            "macs": self.macs,
            "training_seconds": self.training_seconds,
            "pretraining_seconds": self.pretraining_seconds,
        }
        if self.missing_classes:
            entry["missing_classes"] = list(self.missing_classes)
        if self.skipped_steps:
            entry["skipped_steps"] = self.skipped_steps
        if self.by_teacher:
            entry["best_agreement_miou"] = self.best_miou
        return entry | scores_table(
            self.scores, classes, label_assisted=self.label_assisted, by_teacher=self.by_teacher
        )


@dataclass(frozen=True)
class Outcome:
    """The result of a training command."""

    folder: Path
    results: dict[str, dict[str, Any]]
    """Entries by name, as in scores.json: "teacher", "baseline", "distilled", "baseline, seed 1" and so on."""
    gain: dict[str, Any] | None = None
    """The gain over the baseline in numbers and as a sentence; None of a run without one."""
    dry_run: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return what `distill --json` prints."""
        return {
            "run": str(self.folder),
            "results": self.results,
            "spread": self.across_seeds(),
            "gain": self.gain,
            "weak_teacher": self.weak_teacher,
        }

    @property
    def weak_teacher(self) -> str | None:
        """Sentence on a teacher that scores below the networks it was to help; None where it does not."""
        return weak_teacher(self.results)

    def across_seeds(self) -> dict[str, dict[str, Any]]:
        """Return mean and standard deviation of the mIoU, or of the agreement, of each role with several seeds."""
        by_role: dict[str, list[dict[str, Any]]] = {}
        for name, entry in self.results.items():
            role = name.partition(",")[0]
            by_role.setdefault(role, []).append(entry)
        return {role: _mean_and_std(entries) for role, entries in by_role.items() if len(entries) > 1}


def _mean_and_std(entries: list[dict[str, Any]]) -> dict[str, Any]:
    # of students without labels it is agreement
    key = "agreement_miou" if "agreement_miou" in entries[0] else "miou"
    mious = [entry[key] for entry in entries]
    classes_scored = [entry["classes_scored"] for entry in entries if "classes_scored" in entry]
    return {
        "of": key,
        "mean": statistics.fmean(mious),
        "std": statistics.stdev(mious),
        "seeds": len(mious),
        "classes_scored": min(classes_scored, default=None),
        "classes_declared": entries[0].get("classes_declared"),
    }


def with_present_roles(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a scores.json by the names that roles have now."""
    present = {}
    for name, entry in entries.items():
        role, comma, seed = name.partition(",")
        present[("baseline" if role == OLD_BASELINE else role) + comma + seed] = entry
    return present


def is_entry(value: Any) -> bool:
    """Whether a value of scores.json has all that is shown of a network."""
    if not isinstance(value, dict) or not value.keys() >= REQUIRED_KEYS:
        return False
    # a file may be damaged so that it is JSON still; a number in the place of a name would fail only when it is shown
    numbers = (value[key] for key in REQUIRED_KEYS - {"network"})
    return isinstance(value["network"], str) and all(
        number is None or type(number) in (int, float) for number in numbers
    )


def gain_to_json(gain: GainEstimate) -> dict[str, Any]:
    """Return a gain in numbers and as a sentence, as gain.json has it."""
    return gain.to_json() | {"sentence": gain.sentence()}
