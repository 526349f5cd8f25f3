"""The application that the commands are registered with, and how their help looks."""

from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from segdistill import __version__


class Command(TyperCommand):
    """A command whose help lists the options by group, in plain text: typer's boxes take three times as long."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write a section per group."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if record := parameter.get_help_record(ctx):
                kind = "Options" if parameter.opts[0].startswith("-") else "Arguments"
                groups.setdefault(getattr(parameter, "rich_help_panel", None) or kind, []).append(record)
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)


app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"max_content_width": 100, "help_option_names": ["--help", "-h"]},
    help="Distil heavy semantic-segmentation networks into students that run in real time, and prove that they do.",
    epilog="Start with: segdistill quickstart",
)
presets_app = typer.Typer(
    no_args_is_help=True, help="List, show and copy the recipes.", epilog="Example: segdistill presets list"
)
data_app = typer.Typer(no_args_is_help=True, help="Check data sets.", epilog="Example: segdistill data check streets")
app.add_typer(presets_app, name="presets")
app.add_typer(data_app, name="data")


def example(line: str) -> dict[str, Any]:
    """Return a command's settings: grouped help that ends in an example, on a line of its own to copy."""
    return {"cls": Command, "epilog": f"\b\nExample:\n  {line}"}


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks; works anywhere in the line.")] = False,
) -> None:
    """Handle the flags that stand before a command."""
    if version:
        typer.echo(f"segdistill {__version__}")
        raise typer.Exit
