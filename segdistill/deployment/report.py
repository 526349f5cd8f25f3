"""What an export found: the check of the graph, the latencies, and the speed that was asked for."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from segdistill.deployment.form import GraphForm
from segdistill.deployment.parity import ParityResult
from segdistill.errors import CheckError
from segdistill.evaluation.latency import Latency


@dataclass(frozen=True)
class SpeedGate:
    """A limit of speed that was asked for, and whether it was kept."""

    limit: str
    """The limit in words, for example "at most 50 ms"."""
    passed: bool


def speed_gate(latency: Latency, *, min_fps: float | None, max_ms: float | None) -> SpeedGate | None:
    """Hold the median latency of an image against `--min-fps` or `--max-ms`; None where neither was asked for."""
    if min_fps is not None:
        return SpeedGate(f"at least {min_fps:g} fps", latency.fps >= min_fps)
    if max_ms is not None:
        return SpeedGate(f"at most {max_ms:g} ms", latency.milliseconds_per_image <= max_ms)
    return None


@dataclass(frozen=True)
class ExportReport:
    """An exported file, and all that was measured of it."""

    file: Path
    """The file under the name it has now, which ends in .rejected where the graph is not equal to its network."""
    sha256: str
    size: tuple[int, int]
    """Height and width of the image in the measurement."""
    size_source: str
    """Origin of that size, in words."""
    parity: ParityResult
    latencies: Mapping[str, Latency]
    """Latencies of "student" and "onnxruntime", and of "teacher" where there is one."""
    gate: SpeedGate | None = None
    """The speed limit; None where none was asked for."""
    form: GraphForm = field(default_factory=GraphForm)
    """What goes into the graph and comes out."""

    @property
    def failures(self) -> list[str]:
        """Failures in sentences; empty where all passed."""
        sentences = self.parity.failures()
        if self.gate is not None and not self.gate.passed:
            measured = self.latencies["onnxruntime"].milliseconds_per_image
            sentences.append(f"the speed gate: {self.gate.limit}, measured {measured:.2f} ms")
        return sentences

    def refuse_failures(self) -> None:
        """Raise what the command ends with where something did not pass.

        Raises:
            CheckError: naming the file, which is kept, and each check.
        """
        if self.failures:
            raise CheckError(f"{self.file} did not pass: {'; '.join(self.failures)}.")

    def to_json(self) -> dict[str, Any]:
        """Return what `export --json` prints."""
        # The teacher comes first, as in the table, and has a key also where there is none.
        latencies: dict[str, Any] = {"teacher": None}
        for name, latency in self.latencies.items():
            latencies[name] = asdict(latency)
        return {
            "file": str(self.file),
            "sha256": self.sha256,
            "opset": self.form.opset,
            "form": self.form.model_dump(mode="json"),
            "size": list(self.size),
            "size_from": self.size_source,
            "check": self.parity.to_json(),
            "latency_ms": latencies,
            "fps": self.latencies["onnxruntime"].fps,
            "gate": None if self.gate is None else asdict(self.gate),
        }
