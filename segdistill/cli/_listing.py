"""The commands that look: networks, doctor, data, presets."""

import json
from pathlib import Path
from typing import Annotated

import typer

from segdistill.cli._app import app, data_app, example, presets_app
from segdistill.cli._flags import OUTPUT, DeviceFlag, JsonFlag, OverwriteFlag, PresetArgument, parse_size, typed_path
from segdistill.cli._show import open_terminal
from segdistill.errors import CheckError, UsageError, nearest


@app.command(**example("segdistill networks --size 360x480 --classes 11"))
def networks(
    part: Annotated[str, typer.Argument(metavar="PART", help="List only names with this in them, or timm:NAME.")] = "",
    size: Annotated[str, typer.Option("--size", metavar="HxW", help="Of the image the MACs are for.")] = "512x1024",
    classes: Annotated[int, typer.Option("--classes", metavar="N", min=1, help="Number of classes.")] = 19,
    latency: Annotated[bool, typer.Option("--latency", help="Also measure each here, which takes minutes.")] = False,
    max_ms: Annotated[
        float | None, typer.Option("--max-ms", metavar="M", min=0, help="Measure, and list what takes at most M.")
    ] = None,
    device: DeviceFlag = "auto",
    json_: JsonFlag = False,
) -> None:
    """List the networks with their costs. As published, without auxiliary head; FLOPs are twice the MACs."""
    from segdistill.networks import list_networks

    shape = parse_size(size) or (512, 1024)
    if timed := latency or max_ms is not None:
        from segdistill.catalogue import networks_in_time

        entries = networks_in_time(shape, classes, part, device, max_ms, open_terminal())
    else:
        entries = list_networks(shape, classes, part)
    if json_:
        return typer.echo(json.dumps(entries, indent=2))
    rows = [
        [
            e["name"],
            str(e["output_stride"]),
            f"{e['parameters'] / 1e6:.3f}",
            f"{e['macs'] / 1e9:.2f}",
            f"{e['flops'] / 1e9:.2f}",
            *([f"{e['latency_ms']:.1f}", f"{1000 / e['latency_ms']:.1f}"] if timed else []),
        ]
        for e in entries
    ]
    more = ["ms", "fps"] if timed else []
    title = f"{classes} classes, at {shape[0]}x{shape[1]}" + (", batch 1, fp32, PyTorch" if timed else "")
    return open_terminal().table(title, ["network", "output stride", "parameters M", "GMACs", "GFLOPs", *more], rows)


@app.command(**example("segdistill doctor"))
def doctor(json_: JsonFlag = False) -> None:
    """Check machine and installation. Exit 4 if something is broken."""
    from segdistill.doctor import examine

    findings = examine()
    if json_:
        typer.echo(
            json.dumps([{"name": f.name, "value": f.value, "ok": f.ok, "cure": f.cure} for f in findings], indent=2)
        )
    else:
        open_terminal().table("", ["", "found", ""], [[f.name, f.value, "ok" if f.ok else "BROKEN"] for f in findings])
    if broken := [finding for finding in findings if not finding.ok]:
        raise CheckError(f"{len(broken)} thing(s) are not all right.", "\n".join(f"{f.name}: {f.cure}" for f in broken))


@data_app.command("check", **example("segdistill data check camvid:CamVid --preview camvid.png"))
def data_check(
    data: Annotated[str, typer.Argument(metavar="D", help="NAME, NAME:PATH or the path of a data.toml.")],
    preview: Annotated[
        Path | None,
        typer.Option(
            "--preview",
            parser=typed_path,
            metavar="FILE.png",
            help="Draw 8 images under their labels.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    overwrite: OverwriteFlag = False,
    json_: JsonFlag = False,
) -> None:
    """Read every image and label. Exit 3 names the files, or the classes, that cannot be used."""
    from segdistill import pictures
    from segdistill.data import load_data, take_census
    from segdistill.inputs import data_inputs, refuse_files_over

    terminal = open_terminal()
    if preview is not None:
        pictures.check_preview(preview, overwrite=overwrite)
    source = load_data(data)
    if preview is not None:
        refuse_files_over([preview], data_inputs(source, data))
    images = {name: len(split.names) for name, split in source.splits.items()}
    with terminal.progress(source.name, sum(images.values())) as advance:
        census = take_census(source, images, lambda count: advance(count, ""))
    for warning in (*source.warnings, *census.warnings):
        terminal.warn(warning)
    if json_:
        typer.echo(json.dumps(census.to_json(source), indent=2))
    elif any(census.sizes.values()):  # where nothing could be read, a table of zeros tells nothing
        columns = {split: [*pixels.tolist(), census.ignored[split]] for split, pixels in census.pixels.items()}
        rows = [
            [name, *(f"{100 * column[i] / max(sum(column), 1):.2f}" for column in columns.values())]
            for i, name in enumerate([*source.classes, "ignored"])
        ]
        rows.append(["pixels", *(f"{sum(column):,}" for column in columns.values())])
        counts = ", ".join(f"{count} {name}" for name, count in images.items())
        terminal.table(f"{source.name}: {counts}; share of pixels in %", ["class", *columns], rows)
        terminal.result(f"Sizes, height x width: {census.sizes_in_words()}")
    if census.errors and census.error is not None:
        raise census.error
    if preview is not None:  # also of what is impossible: it helps to see why
        labelled = [name for name in images if census.pixels[name].any()]
        names = pictures.draw_preview(preview, source, labelled or [*images])
        terminal.say(f"Wrote {preview}: {', '.join(names)}.")
    if census.impossible is not None:
        raise census.impossible


@presets_app.command("list", **example("segdistill presets list"))
def presets_list(json_: JsonFlag = False) -> None:
    """List the presets."""
    from segdistill.config import load_preset, preset_names

    presets = [load_preset(name) for name in preset_names()]
    if json_:
        entries = [{"name": p.preset, "about": p.about, "paper": p.paper, "terms": sorted(p.terms)} for p in presets]
        return typer.echo(json.dumps(entries, indent=2))
    rows = [[p.preset, p.about, p.paper] for p in presets]
    return open_terminal().table("", ["preset", "what it does", "paper"], rows)


@presets_app.command("show", **example("segdistill presets show skd"))
def presets_show(name: PresetArgument) -> None:
    """Print a preset. With the source of every number of the method."""
    typer.echo(_preset_file(name).read_text(encoding="utf-8"), nl=False)


@presets_app.command("copy", **example("segdistill presets copy skd mine.toml"))
def presets_copy(
    name: PresetArgument,
    file: Annotated[Path, typer.Argument(parser=typed_path, metavar="FILE", help="Ends in .toml.")],
    overwrite: OverwriteFlag = False,
) -> None:
    """Copy a preset to a file. It is yours to edit and to give as --preset FILE."""
    from segdistill.store import write_atomic

    if file.suffix != ".toml":
        raise UsageError(f"{file} does not end in .toml.", f"For example: segdistill presets copy {name} mine.toml")
    if file.exists() and not overwrite:
        raise UsageError(f"{file} exists.", "Choose another name, or add --overwrite.")
    write_atomic(file, _preset_file(name).read_bytes())
    open_terminal().say(f"Wrote {file}.")


def _preset_file(name: str) -> Path:
    from segdistill.config import preset_folder, preset_names

    if name not in preset_names():
        raise UsageError(f"Unknown preset {name!r}.", nearest(name, preset_names()))
    return preset_folder() / f"{name}.toml"
