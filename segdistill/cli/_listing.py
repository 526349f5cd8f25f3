"""The commands that look around: networks and doctor."""

from typing import Annotated, Any

import typer

from segdistill.cli._app import app, examples
from segdistill.cli._completion import complete_network
from segdistill.cli._flags import DATA, RUN, DeviceFlag, JsonFlag
from segdistill.cli._parsers import parse_size
from segdistill.cli._show import open_terminal, print_json
from segdistill.errors import CheckError
from segdistill.wording import counted


@app.command(
    **examples(
        "segdistill networks --size 360x480 --classes 11", "segdistill networks resnet18 --max-ms 50 --device cpu"
    )
)
def networks(
    part: Annotated[
        str,
        typer.Argument(
            autocompletion=complete_network,
            metavar="PART",
            help="List only names that contain PART; timm:NAME takes a backbone of timm.",
        ),
    ] = "",
    *,
    size: Annotated[
        str,
        typer.Option("--size", metavar="HxW", help="Image size of MACs and latency.", rich_help_panel=DATA),
    ] = "512x1024",
    classes: Annotated[
        int, typer.Option("--classes", metavar="N", min=1, help="Number of classes.", rich_help_panel=DATA)
    ] = 19,
    latency: Annotated[
        bool,
        typer.Option(
            "--latency", help="Also measure the latency of each network, which takes minutes.", rich_help_panel=RUN
        ),
    ] = False,
    max_ms: Annotated[
        float | None,
        typer.Option(
            "--max-ms",
            metavar="M",
            min=0,
            help="Measure, and list only networks that take at most M milliseconds.",
            rich_help_panel=RUN,
        ),
    ] = None,
    device: DeviceFlag = "auto",
    json_: JsonFlag = False,
) -> None:
    """List the networks with their costs. As published, without auxiliary head; FLOPs are twice the MACs."""
    from segdistill.commands.networks import NetworksOptions, network_costs

    terminal = open_terminal()
    options = NetworksOptions(
        name_part=part, size=parse_size(size), num_classes=classes, latency=latency, max_ms=max_ms, device=device
    )
    entries = network_costs(options, terminal)
    if json_:
        return print_json(entries)
    header = ["network", "output stride", "parameters M", "GMACs", "GFLOPs"]
    title = f"{counted(classes, 'class', 'classes')}, at {options.size[0]}x{options.size[1]}"
    if options.is_timed:
        header += ["ms", "fps"]
        title += ", batch 1, fp32, PyTorch"
    return terminal.table(title, header, [_cost_row(entry) for entry in entries])


def _cost_row(entry: dict[str, Any]) -> list[str]:
    row = [
        entry["name"],
        str(entry["output_stride"]),
        f"{entry['parameters'] / 1e6:.3f}",
        f"{entry['macs'] / 1e9:.2f}",
        f"{entry['flops'] / 1e9:.2f}",
    ]
    if "latency_ms" in entry:
        row += [f"{entry['latency_ms']:.1f}", f"{1000 / entry['latency_ms']:.1f}"]
    return row


@app.command(**examples("segdistill doctor", "segdistill doctor --json"))
def doctor(json_: JsonFlag = False) -> None:
    """Check the installation and this machine. Exits with code 4 if something is broken."""
    from segdistill.commands.doctor import examine

    findings = examine()
    if json_:
        print_json([finding.to_json() for finding in findings])
    else:
        rows = [[finding.name, finding.value, "ok" if finding.ok else "BROKEN"] for finding in findings]
        open_terminal().table("", ["", "found", ""], rows)
    broken = [finding for finding in findings if not finding.ok]
    if broken:
        cures = [f"{finding.name}: {finding.cure}" for finding in broken]
        raise CheckError(f"{counted(len(broken), 'check')} of doctor failed.", "\n".join(cures))
