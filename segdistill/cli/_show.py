"""What commands print: tables of results, and words that can be copied into the next line."""

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from segdistill.console import Terminal
    from segdistill.record import Outcome


def open_terminal(*, quiet: bool = False, verbose: bool = False) -> "Terminal":
    """Return what talks to the user."""
    from segdistill.console import Terminal

    return Terminal(quiet=quiet, verbose=verbose)


def show_outcome(terminal: "Terminal", outcome: "Outcome", *, as_json: bool = False, after: str = "") -> None:
    """Print the table of what was trained, and the command to go on with; of several processes, one speaks."""
    from segdistill.distributed import is_main
    from segdistill.metrics import coverage
    from segdistill.report import SEES_LABELS

    if not is_main():
        return None
    if as_json:
        return typer.echo(json.dumps(outcome.to_json(), indent=2))
    if outcome.dry_run:
        return terminal.result("Dry run: nothing was written.")
    costs = {"parameters": 1e6, "macs": 1e9}
    header = ["", "network", "mIoU %", "best", "pixel acc. %", "parameters M", "GMACs"]
    rows = [
        [
            name,
            result["network"],
            percent(result["miou"]) + coverage(result.get("classes_scored"), result.get("classes_declared")),
            percent(result["best_miou"]) + _best_coverage(result),
            percent(result["pixel_accuracy"]),
            *("-" if result[key] is None else f"{result[key] / unit:.2f}" for key, unit in costs.items()),
        ]
        for name, result in outcome.results.items()
    ]
    skipped = [result.get("skipped_steps", 0) for result in outcome.results.values()]
    if any(skipped):
        header.append("skipped steps")
        rows = [[*row, str(count)] for row, count in zip(rows, skipped, strict=True)]
    if rows:
        images = next(iter(outcome.results.values()))["images"]
        terminal.table(f"{images} validation images, weights of the last step", header, rows)
        for role, entry in outcome.spread().items():
            over = coverage(entry["classes_scored"], entry["classes_declared"])
            mean, std = 100 * entry["mean"], 100 * entry["std"]
            terminal.result(f"{role}: mIoU {mean:.2f} %{over}, spread {std:.2f} over {entry['seeds']} seeds")
        if any("note" in result for result in outcome.results.values()):
            terminal.result(f"- : {SEES_LABELS}")
        terminal.result(f"Run: {outcome.folder}")
        if after:
            terminal.say(f"Next: segdistill {after}")
        if outcome.gain is not None:
            terminal.result(outcome.gain["sentence"])
    return None


def show_export(terminal: "Terminal", result: dict[str, Any]) -> None:
    """Print the checks and the latencies of an export."""
    from segdistill.metrics import coverage
    from segdistill.parity import MAX_DIFFERENCE, MAX_MIOU_CHANGE, MIN_AGREEMENT

    check = result["check"]
    least = f"{100 * MIN_AGREEMENT:g} % in each image"
    terminal.table(
        f"{result['file']}: opset {result['opset']}, checked on {check['images']} images",
        ["check", "found", "limit"],
        [
            ["largest difference of logits", figure(check["max_abs_diff"]), "-"],
            ["as a share of its image's largest", figure(check["max_relative_diff"]), f"{MAX_DIFFERENCE:g}"],
            ["pixels with the same label", f"{100 * check['label_agreement']:.4f} %", f">= {least}"],
            [
                f"mIoU in PyTorch, in onnxruntime{coverage(check['classes_scored'], check['classes_declared'])}",
                f"{percent(check['miou_torch'])}, {percent(check['miou_onnx'])}",
                f"{100 * MAX_MIOU_CHANGE:g} apart",
            ],
        ],
    )
    latencies = {name: entry for name, entry in result["latency_ms"].items() if entry is not None}
    names = {"teacher": "teacher, PyTorch", "student": "student, PyTorch", "onnxruntime": "student, onnxruntime"}
    rows = [
        [
            names[name],
            *("-" if entry[key] is None else f"{entry[key]:.1f}" for key in ("first", "p50", "p90", "p99")),
            f"{1000 / entry['p50']:.1f}",
            str(entry["n"]),
        ]
        for name, entry in latencies.items()
    ]
    threads = next(iter(latencies.values()))["threads"]
    size = "x".join(map(str, result["size"]))
    conditions = f"batch 1, fp32, {threads} thread{'s' * (threads > 1)}, measured in turns"
    title = f"Milliseconds per image at {size} ({result['size_from']}), {conditions}"
    terminal.table(title, ["", "first", "p50", "p90", "p99", "fps", "runs"], rows)


def _best_coverage(result: dict[str, Any]) -> str:
    from segdistill.metrics import coverage

    scored = result.get("best_classes_scored")
    return "" if scored is None else coverage(scored, result.get("classes_declared"))


def figure(value: float | None) -> str:
    """Return a number in two digits; None stands for one that is not finite."""
    return "not finite" if value is None else f"{value:.2g}"


def percent(value: float | None) -> str:
    """Return a fraction in percent, or a dash for none."""
    return "-" if value is None else f"{100 * value:.2f}"


def data_words(typed: str | None, resolved: str) -> str:
    """Return the words by which another command finds the data: none where the run's folder tells enough."""
    needed = typed or ":" in resolved or resolved.endswith(".toml")
    return f" --data {quoted(resolved)}" if needed else ""


def quoted(text: str | Path) -> str:
    """Return a path as it is typed, whatever it begins with and whatever is in it."""
    path = str(text)
    return shlex.quote(f"./{path}" if path.startswith("-") else path)
