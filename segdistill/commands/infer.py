"""Label the images of a file, a folder or a pattern."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segdistill.checkpoints.model_file import ModelInfo
from segdistill.commands._inputs import model_inputs, refuse_files_over
from segdistill.commands._model import open_model, refuse_label_assisted
from segdistill.commands._run_data import recorded_data
from segdistill.commands._run_images import recorded_images
from segdistill.config.schema import Weights
from segdistill.data import load_data
from segdistill.data.source_files import image_files
from segdistill.errors import DataError, UsageError
from segdistill.evaluation.input_images import InputImage, find_inputs
from segdistill.evaluation.label_maps import InferenceSummary, infer
from segdistill.runtime.precision import exact_float32
from segdistill.runtime.reporter import Reporter

MAX_LISTED = 10
"""Images in a message about those that could not be labeled."""


@dataclass(frozen=True)
class InferOptions:
    """Options of labeling images."""

    out: Path
    """Output folder, which mirrors the sub-folders of the images."""
    device: str = "auto"
    """Device as `--device` takes it."""
    precision: str = "fp32"
    """Compute precision as `--precision` takes it; fp32 alone for an exported graph."""
    weights: Weights | None = None
    """Weights of a run: last, ema or best; None stands for those that it ships."""
    overlay: bool = False
    """Also write each image under the classes' colors."""
    overwrite: bool = False
    """Replace label maps that are there."""


@dataclass(frozen=True)
class Inference:
    """Label maps that were written, and images that could not be labeled."""

    out: Path
    summary: InferenceSummary

    def refuse_failures(self) -> None:
        """Raise what the command ends with where images could not be labeled; the others' label maps are written.

        Raises:
            DataError: with the first reasons.
        """
        summary = self.summary
        num_failed = len(summary.failed)
        if not num_failed:
            return
        lines = [f"  {failure.reason}" for failure in summary.failed[:MAX_LISTED]]
        if num_failed > MAX_LISTED:
            lines.append(f"  ... and {num_failed - MAX_LISTED} more")
        listed = "\n".join(lines)
        advice = dict.fromkeys(failure.advice for failure in summary.failed[:MAX_LISTED] if failure.advice)
        raise DataError(
            f"{num_failed} of {num_failed + summary.done} images were not labeled:\n{listed}", "\n".join(advice)
        )

    def to_json(self) -> dict[str, Any]:
        """Return what `infer --json` prints."""
        summary = self.summary
        result: dict[str, Any] = {
            "out": str(self.out),
            "images": summary.done,
            "failed": [
                {"file": str(failure.path), "reason": failure.reason, "advice": failure.advice}
                for failure in summary.failed
            ],
            "images_per_second": summary.images_per_second,
        }
        if summary.tiling is not None:
            result["tiled"] = {"images": summary.tiling.images, "label_agreement": summary.tiling.agreement}
        return result


@exact_float32()
def infer_images(model: Path, source: str | None, options: InferOptions, reporter: Reporter) -> Inference:
    """Write a label map for each image of a file, a folder or a pattern.

    Args:
        model: a run's folder, a model file or an exported graph.
        source: an image, a folder, or a pattern such as "frames/*.png"; None stands for the validation images of a run
            whose folder says where they lie.
        options: how, and where to.
        reporter: shows the progress.

    Raises:
        UsageError: if the model cannot segment, there are no images, or an output is there or would replace an input.
    """
    # The model is opened first: that takes a moment, listing a large folder may take minutes.
    loaded = open_model(model, options.device, options.precision, options.weights)
    refuse_label_assisted(loaded.path, loaded.info)
    inputs = _validation_images(model, loaded.info, reporter) if source is None else find_inputs(source, options.out)

    # Which files are written is known once the images are: two of them may share a name.
    def check_targets(targets: Iterable[Path]) -> None:
        refuse_files_over(targets, model_inputs("MODEL", model))

    with reporter.progress("images", len(inputs)) as advance:
        summary = infer(
            loaded.predict,
            loaded.info,
            inputs,
            options.out,
            overlay=options.overlay,
            overwrite=options.overwrite,
            check_targets=check_targets,
            on_image=lambda count: advance(count, ""),
        )
    return Inference(options.out, summary)


def _validation_images(model: Path, info: ModelInfo, reporter: Reporter) -> list[InputImage]:
    """Return the validation images of the data that a run's folder knows.

    Raises:
        UsageError: if it knows none, or they are rendered and no files.
    """
    recorded = recorded_images(model, info, reporter)
    if recorded is not None:
        data = recorded.data
    else:
        spec = recorded_data(model, reporter)
        if spec is None:
            raise UsageError(
                f"No INPUT given, and {model} does not say where its data lies.",
                f"Give an image, a folder, or a pattern in quotes: segdistill infer {model} IMAGES --out DIR",
            )
        data = load_data(spec)
    inputs = [InputImage(root / name, Path(name)) for root, name in image_files(data.split("val"))]
    if not inputs:
        raise UsageError(
            f"No INPUT given, and the images of {data.name} are no files.",
            f"Give an image, a folder, or a pattern in quotes: segdistill infer {model} IMAGES --out DIR",
        )
    return inputs
