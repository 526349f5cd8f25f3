"""The curves of a training: the terms of the loss, and the validation's mIoU."""

import io
import json
from pathlib import Path
from typing import Any

from segdistill.errors import ModelError
from segdistill.storage.atomic import write_atomic

FIGURE_INCHES = (9, 3.4)
NOT_TERMS = {"stage", "step", "lr", "gradient_norm", "critic", "skipped_steps"}
"""Keys of an entry of metrics.jsonl that are no part of the loss."""
Entry = dict[str, Any]


def draw_curves(metrics: Path, path: Path) -> None:
    """Draw the terms of the loss and the validation's mIoU over the steps.

    Args:
        metrics: a run's metrics.jsonl.
        path: of the PNG, replaced atomically.

    Raises:
        ModelError: if the metrics cannot be read.
    """
    # Imported late: it takes a moment, and looks for a folder to keep its fonts in.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    training, validation = _read_metrics(metrics)
    figure = Figure(figsize=FIGURE_INCHES, layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_losses(left, training)
    _draw_validation(right, validation)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    write_atomic(path, buffer.getvalue())


def _read_metrics(metrics: Path) -> tuple[list[Entry], list[Entry]]:
    """Return the entries of the last stage's steps, and those of all validations."""
    try:
        entries = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
        training, validation = [], []
        for entry in entries:
            # Stages before the last one pretrain a part of a term, whose losses have another scale.
            if "loss" in entry and entry["stage"] == entries[-1]["stage"]:
                training.append(entry)
            if "miou" in entry or "agreement_miou" in entry:
                validation.append(entry)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise ModelError(f"{metrics} is missing or damaged.", "Restore it, or start a new run.") from None
    return training, validation


def _draw_losses(axes: Any, training: list[Entry]) -> None:
    axes.set(xlabel="step", ylabel="weighted loss")
    if not training:
        return
    steps = [entry["step"] for entry in training]
    for name in training[0]:
        if name not in NOT_TERMS:
            values = [entry[name] for entry in training]
            axes.plot(steps, values, label=name, linewidth=2 if name == "loss" else 1)
    axes.legend(fontsize=7)


def _draw_validation(axes: Any, validation: list[Entry]) -> None:
    steps = [entry["step"] for entry in validation]
    key, words = "miou", "validation mIoU (%)"
    if any("agreement_miou" in entry for entry in validation):
        key, words = "agreement_miou", "agreement with the teacher, mIoU (%)"
    axes.plot(steps, [100 * entry[key] for entry in validation], marker="o")
    axes.set(xlabel="step", ylabel=words, ylim=(0, None))
