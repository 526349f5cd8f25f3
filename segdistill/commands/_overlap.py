"""Refusal of a run whose folder is, or would replace, something that the command reads."""

from collections.abc import Iterable
from pathlib import Path

from segdistill.commands._context import RunContext
from segdistill.commands._initial_weights import initial_file
from segdistill.commands._inputs import Input, data_inputs, model_inputs, refuse_run_over


def refuse_overlap(context: RunContext, out: Path, teacher_inputs: Iterable[Input]) -> None:
    """Refuse a new run in a folder that would replace or delete an input, or be written among its files.

    Args:
        context: of the run.
        out: the run's folder.
        teacher_inputs: files that are read of the teacher.

    Raises:
        UsageError: naming both.
    """
    options, data = context.options, context.config.data
    if options.resume:  # nothing is replaced, and what may not change is compared
        return
    inputs = [*teacher_inputs, *(Input(flag, path) for flag, path in options.files)]
    if options.backbone_weights is not None:
        inputs.append(Input("--backbone-weights", options.backbone_weights))
    if options.init_weights is not None:
        named, file = options.init_weights, initial_file(options.init_weights)
        inputs += model_inputs("--init-weights", named) if named.exists() else [Input("--init-weights", file)]
    inputs += [Input("--images", Path(folder), images=True) for folder in data.images]
    inputs += [Input("--unlabeled", Path(folder), images=True) for folder in data.unlabeled]
    refuse_run_over(out, [*inputs, *data_inputs(context.data, data.name)])
