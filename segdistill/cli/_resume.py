"""The command that continues a run by its folder alone."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from segdistill.cli._app import app, examples
from segdistill.cli._completion import complete_data, complete_device, complete_run, complete_teacher
from segdistill.cli._flags import (
    DATA,
    LOSS,
    MODEL,
    RUN,
    Baseline,
    JsonFlag,
    QuietFlag,
    SetFlag,
    VerboseFlag,
    WorkersFlag,
)
from segdistill.cli._parsers import named_path, typed_teacher
from segdistill.cli._show import open_terminal, show_outcome
from segdistill.cli._text import quoted

if TYPE_CHECKING:
    from segdistill.commands.resume import Resumed


@app.command(**examples("segdistill resume runs/camvid-student", "segdistill resume runs/camvid-student --steps 40000"))
def resume(
    run: Annotated[
        Path, typer.Argument(parser=named_path, autocompletion=complete_run, metavar="RUN", help="Folder of a run.")
    ],
    *,
    steps: Annotated[
        int | None,
        typer.Option(
            "--steps",
            metavar="N",
            min=1,
            help="Train a finished run to N steps, under a schedule of N steps from where it stands: a new schedule, "
            "and not the training that N steps from the start are.",
            rich_help_panel=RUN,
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            autocompletion=complete_data,
            metavar="DATA",
            help="Data set, NAME, NAME:PATH or a data.toml, where it lies elsewhere by now.",
            rich_help_panel=DATA,
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            "--teacher",
            parser=typed_teacher,
            autocompletion=complete_teacher,
            metavar="TEACHER",
            help="Teacher, where it lies elsewhere by now, or is code (py:MODULE:FUNCTION), which no file may name.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    baseline: Annotated[
        Baseline | None,
        typer.Option(
            "--baseline", metavar="steps|time", help="Add a baseline to a run without one.", rich_help_panel=LOSS
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option("--seeds", metavar="N", min=1, help="Add seeds, up to N students.", rich_help_panel=RUN),
    ] = None,
    set_: SetFlag = None,
    accept_teacher: Annotated[
        bool,
        typer.Option("--accept-teacher", help="Distill even if the teacher check fails.", rich_help_panel=MODEL),
    ] = False,
    device: Annotated[
        str | None,
        typer.Option(
            "--device",
            autocompletion=complete_device,
            metavar="DEVICE",
            help="Device: auto, cpu, cuda or cuda:N. Default: as it was asked for.",
            rich_help_panel=RUN,
        ),
    ] = None,
    workers: WorkersFlag = None,
    json_: JsonFlag = False,
    quiet: QuietFlag = False,
    verbose: VerboseFlag = False,
) -> None:
    """Continue a run where it stopped. Nothing else need be typed; --steps trains a finished one for longer."""
    from segdistill.commands.resume import ResumeOptions
    from segdistill.commands.resume import resume as resume_run

    terminal = open_terminal(quiet=quiet, verbose=verbose)
    options = ResumeOptions(
        steps=steps,
        data=data,
        teacher=teacher,
        baseline=None if baseline is None else baseline.value,
        seeds=seeds,
        overrides=tuple(set_ or ()),
        accept_teacher=accept_teacher,
        device=device,
        workers=workers,
    )
    resumed = resume_run(run, options, terminal)
    show_outcome(terminal, resumed.outcome, as_json=json_, next_command=_next_command(resumed))


def _next_command(resumed: "Resumed") -> str:
    """Return the command that goes on from a finished run."""
    run = resumed.run
    if run.kind == "student":
        return f"export {quoted(run.path)}"
    preset, student = run.path / "config.toml", run.config.student.network
    return f"distill --preset {quoted(preset)} --teacher {quoted(run.path)} --student {student}"
