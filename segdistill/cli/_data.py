"""The commands on data sets: data init, data check."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from segdistill.cli._app import data_app, examples
from segdistill.cli._completion import complete_data
from segdistill.cli._flags import OUTPUT, JsonFlag, OverwriteFlag, QuietFlag
from segdistill.cli._parsers import typed_path
from segdistill.cli._show import open_terminal, print_json
from segdistill.wording import listed

if TYPE_CHECKING:
    from segdistill.cli.console import Terminal
    from segdistill.commands.data_check import DataCheck


@data_app.command(
    "check",
    **examples(
        "segdistill data check camvid:CamVid --preview camvid.png", "segdistill data check mine/data.toml --json"
    ),
)
def data_check(
    data: Annotated[
        str,
        typer.Argument(
            autocompletion=complete_data, metavar="DATA", help="Data set: NAME, NAME:PATH or the path of a data.toml."
        ),
    ],
    *,
    preview: Annotated[
        Path | None,
        typer.Option(
            "--preview",
            parser=typed_path,
            metavar="FILE.png",
            help="Draw 8 images with their labels.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    overwrite: OverwriteFlag = False,
    json_: JsonFlag = False,
) -> None:
    """Read every image and label. Exits with code 3 and names the files, or classes, that cannot be used."""
    from segdistill.commands.data_check import DataCheckOptions, check_data, write_preview

    terminal = open_terminal()
    check = check_data(DataCheckOptions(data=data, preview=preview, overwrite=overwrite), terminal)
    if json_:
        print_json(check.to_json())
    elif check.has_counts:  # where nothing could be read, a table of zeros tells nothing
        _show_data(terminal, check)
    if check.unreadable is not None:
        raise check.unreadable
    # Also of what is impossible: it helps to see why.
    if preview is not None:
        names = write_preview(check, preview)
        terminal.info(f"Wrote {preview}: {', '.join(names)}.")
    if check.impossible is not None:
        raise check.impossible


@data_app.command(
    "init",
    **examples(
        "segdistill data init photos --out data.toml", "segdistill data init export-of-cvat --out road/data.toml"
    ),
)
def data_init(
    path: Annotated[
        Path,
        typer.Argument(
            parser=typed_path, metavar="PATH", help="Folder of images and their labels, or an annotation tool's export."
        ),
    ],
    *,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            parser=typed_path,
            metavar="FILE.toml",
            help="File to write; lists and drawn label maps are written beside it.",
            rich_help_panel=OUTPUT,
        ),
    ] = Path("data.toml"),
    overwrite: OverwriteFlag = False,
    json_: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Look at a folder and write the data.toml that describes it. Says what is missing where there is no such."""
    from segdistill.commands.data_init import DataInitOptions, init_data

    terminal = open_terminal(quiet=quiet)
    made = init_data(DataInitOptions(path, out, overwrite=overwrite), terminal)
    for note in made.notes:
        terminal.warning(note)
    if json_:
        print_json(made.to_json())
        return
    counts = ", ".join(f"{count} {split}" for split, count in made.images.items())
    terminal.result(f"Pairs: {counts}")
    terminal.result(f"Classes ({len(made.plan.names)}): {listed(made.plan.names)}")
    if not made.plan.are_named:
        terminal.warning(f"Nothing says what the classes are called. Give them names in {made.out}.")
    terminal.result(f"Wrote {', '.join(map(str, (made.out, *made.written)))}")
    terminal.info("Go on with:\n" + "\n".join(f"  {command}" for command in made.commands))


def _show_data(terminal: "Terminal", check: "DataCheck") -> None:
    """Print the share of the pixels that each class has, split by split, and the sizes of the images."""
    splits = check.pixels
    rows = []
    for index, name in enumerate(check.row_names):
        row = [name]
        for pixels in splits.values():
            # A split without any pixel has no shares.
            share = pixels[index] / max(sum(pixels), 1)
            row.append(f"{100 * share:.2f}")
        rows.append(row)
    rows.append(["pixels", *(f"{sum(pixels):,}" for pixels in splits.values())])
    counts = ", ".join(f"{count} {split}" for split, count in check.num_images.items())
    terminal.table(f"{check.source.name}: {counts}; share of pixels in %", ["class", *splits], rows)
    terminal.result(f"Sizes, height x width: {check.report.sizes_text()}")
