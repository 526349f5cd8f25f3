"""The application that the commands are registered with, and how their help looks."""

from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from segdistill import __version__
from segdistill.cli._flags import DATA, LOSS, MODEL, OUTPUT, RUN

ARGUMENTS = "Arguments"
GROUPS = (ARGUMENTS, MODEL, LOSS, DATA, RUN, OUTPUT)
"""Groups of a command's help, in this order for every command."""
MAX_WIDTH = 100
"""Columns of help on a wide terminal: longer lines are hard to read."""


class Command(TyperCommand):
    """A command whose help lists the options by group, in plain text: typer's boxes take three times as long."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the parts of the usage line; some versions of typer put required arguments in braces."""
        return [piece.strip("{}") for piece in super().collect_usage_pieces(ctx)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write a section per group."""
        groups: dict[str, list[tuple[str, str]]] = {title: [] for title in GROUPS}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is None:
                continue
            names, text = record
            if parameter.param_type_name == "argument":
                # Without the type that some versions of typer put behind the name.
                groups[ARGUMENTS].append((parameter.metavar or names, text))
            else:
                group = getattr(parameter, "rich_help_panel", None) or OUTPUT
                groups[group].append((names, text))
        for title, records in groups.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"max_content_width": MAX_WIDTH, "help_option_names": ["--help", "-h"]},
    help="Distill heavy semantic-segmentation networks into students that run in real time, and prove that they do.",
    epilog="Start with: segdistill quickstart",
)
presets_app = typer.Typer(
    no_args_is_help=True, help="List, show and copy the recipes.", epilog="Example: segdistill presets list"
)
data_app = typer.Typer(
    no_args_is_help=True, help="Describe and check data sets.", epilog="Example: segdistill data check streets"
)
app.add_typer(presets_app, name="presets")
app.add_typer(data_app, name="data")


def examples(first: str, second: str) -> dict[str, Any]:
    """Return a command's settings: grouped help that ends in two examples, each on a line of its own to copy."""
    # The \b keeps click from joining the lines.
    return {"cls": Command, "epilog": f"\b\nExamples:\n  {first}\n  {second}"}


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks; works anywhere in the line.")] = False,
) -> None:
    """Handle the flags that stand before a command."""
    if version:
        typer.echo(f"segdistill {__version__}")
        raise typer.Exit
