"""Results of commands, printed as tables."""

import json
from typing import TYPE_CHECKING, Any

import typer

from segdistill.cli._text import format_number, format_percent
from segdistill.wording import counted

if TYPE_CHECKING:
    from segdistill.cli.console import Terminal
    from segdistill.commands._results import Outcome
    from segdistill.commands.evaluate import Evaluation
    from segdistill.deployment.report import ExportReport
    from segdistill.evaluation.latency import Latency

SUBJECT_NAMES = {"teacher": "teacher, PyTorch", "student": "student, PyTorch", "onnxruntime": "student, onnxruntime"}
"""Rows of the table of latencies, for what was measured."""


def open_terminal(*, quiet: bool = False, verbose: bool = False) -> "Terminal":
    """Return what talks to the user."""
    # Imported late: rich takes a tenth of a second, and help does not need it.
    from segdistill.cli.console import Terminal

    return Terminal(quiet=quiet, verbose=verbose)


def print_json(value: Any) -> None:
    """Print a result for programs."""
    typer.echo(json.dumps(value, indent=2))


# Training


def show_outcome(terminal: "Terminal", outcome: "Outcome", *, as_json: bool = False, next_command: str = "") -> None:
    """Print what was trained, and the command to go on with; of several processes, the first one prints."""
    from segdistill.runtime.distributed import is_main

    if not is_main():
        return
    if as_json:
        print_json(outcome.to_json())
    elif outcome.dry_run:
        terminal.result("Dry run: nothing was written.")
    elif outcome.results:
        _show_scores(terminal, outcome)
        if outcome.weak_teacher:
            terminal.result(outcome.weak_teacher)
        terminal.result(f"Run: {outcome.folder}")
        if next_command:
            terminal.info(f"Next: segdistill {next_command}")
        if outcome.gain is not None:
            terminal.result(outcome.gain["sentence"])


def _show_scores(terminal: "Terminal", outcome: "Outcome") -> None:
    from segdistill.evaluation.metrics import coverage
    from segdistill.reports.scores import AGREES, OPTIMISTIC, SEES_LABELS, WEIGHTS

    results = outcome.results
    by_teacher = any("agreement_miou" in result for result in results.values())
    header = ["", "network", "mIoU %", "best", "pixel acc. %", "parameters M", "GMACs"]
    if by_teacher:
        header[2:5] = ["agreement, mIoU %", "best", "agreement, pixels %"]
    rows = [_score_row(name, result) for name, result in results.items()]
    # A column for what should not happen is there only where it did.
    skipped_steps = [result.get("skipped_steps", 0) for result in results.values()]
    if any(skipped_steps):
        header.append("skipped steps")
        for row, count in zip(rows, skipped_steps, strict=True):
            row.append(str(count))
    num_images = max(result["images"] for result in results.values())
    images = counted(num_images, "held-back image" if by_teacher else "validation image")
    shipped = _shipped_weights(results)
    terminal.table(f"{images}, {WEIGHTS[shipped]}", header, rows)
    if shipped == "best":
        terminal.result(OPTIMISTIC)
    score = "agreement with the teacher, mIoU" if by_teacher else "mIoU"
    for role, summary in outcome.across_seeds().items():
        averaged = coverage(summary["classes_scored"], summary["classes_declared"])
        terminal.result(
            f"{role}: {score} {format_percent(summary['mean'])} %{averaged}, standard deviation "
            f"{format_percent(summary['std'])} over {summary['seeds']} seeds"
        )
    if by_teacher:
        terminal.result(AGREES)
    elif any("note" in result for result in results.values()):
        terminal.result(f"- : {SEES_LABELS}")


def _shipped_weights(results: dict[str, dict[str, Any]]) -> str:
    """Return which weights were scored: those of a teacher that others trained are as it came."""
    trained = [result for name, result in results.items() if name != "teacher"] or list(results.values())
    shipped: str = trained[0].get("weights", "last")  # results of earlier versions do not say
    return shipped


def _score_row(name: str, result: dict[str, Any]) -> list[str]:
    from segdistill.evaluation.metrics import coverage

    declared = result.get("classes_declared")
    averaged = coverage(result.get("classes_scored"), declared)
    # Results of earlier versions do not say over how many classes the best mIoU is.
    best_scored = result.get("best_classes_scored")
    best_averaged = "" if best_scored is None else coverage(best_scored, declared)
    miou, best, pixels = result["miou"], result["best_miou"], result["pixel_accuracy"]
    if "agreement_miou" in result:
        miou, best, pixels = result["agreement_miou"], result.get("best_agreement_miou"), result["agreement_pixels"]
    if miou is None:
        averaged = ""
    if best is None:
        best_averaged = ""
    return [
        name,
        result["network"],
        format_percent(miou) + averaged,
        format_percent(best) + best_averaged,
        format_percent(pixels),
        _in_units(result["parameters"], 1e6),
        _in_units(result["macs"], 1e9),
    ]


def _in_units(count: int | None, unit: float) -> str:
    return "-" if count is None else f"{count / unit:.2f}"


# Evaluation


def show_evaluation(terminal: "Terminal", evaluation: "Evaluation") -> None:
    """Print the scores of a model."""
    from segdistill.reports.scores import ABSENT, SEES_LABELS

    scores, data, options = evaluation.scores, evaluation.data, evaluation.options
    if not evaluation.has_labels:
        terminal.result("No labels, no scores.")
        return
    if evaluation.by_teacher:
        _show_agreement(terminal, evaluation)
        return
    if evaluation.model.info.label_assisted:
        terminal.result(
            f"{SEES_LABELS} It agrees with {format_percent(scores.pixel_accuracy)} % of the labels that it was shown "
            f"({data.name} {options.split}, {counted(scores.images, 'image')})."
        )
        return
    rows = [[name, format_percent(iou)] for name, iou in zip(data.classes, scores.iou, strict=True)]
    rows.append(["mIoU", f"{format_percent(scores.miou)}{scores.coverage}"])
    rows.append(["pixel accuracy", format_percent(scores.pixel_accuracy)])
    if options.count_void:
        miou = format_percent(evaluation.miou_counting_void)
        rows.append(["mIoU counting void", f"{miou}{scores.coverage_counting_void}"])
    if evaluation.tiled is not None:
        tiled_scores = evaluation.tiled.tiled
        change = 100 * (tiled_scores.miou - scores.miou)
        miou = format_percent(tiled_scores.miou)
        rows.append(["mIoU tile by tile", f"{miou}{tiled_scores.coverage} ({change:+z.2f})"])
        rows.append(["pixels of the same class", format_percent(evaluation.tiled.agreement)])
    conditions = f"{evaluation.model.precision} on {evaluation.model.device}"
    terminal.table(f"{data.name} {options.split}, {counted(scores.images, 'image')}, {conditions}", ["", "IoU %"], rows)
    if scores.coverage:
        terminal.info(ABSENT)


def _show_agreement(terminal: "Terminal", evaluation: "Evaluation") -> None:
    """Print how far a model agrees with a teacher."""
    from segdistill.reports.scores import ABSENT

    scores, classes = evaluation.scores, evaluation.data.classes
    rows = [[name, format_percent(iou)] for name, iou in zip(classes, scores.iou, strict=True)]
    rows.append(["agreement, mIoU", f"{format_percent(scores.miou)}{scores.coverage}"])
    rows.append(["agreement, pixels", format_percent(scores.pixel_accuracy)])
    title = (
        f"Agreement with {evaluation.options.against}, {counted(scores.images, 'image')} without labels: no accuracy"
    )
    terminal.table(title, ["", "IoU %"], rows)
    if scores.coverage:
        terminal.info(ABSENT)


# Export


def show_export(terminal: "Terminal", report: "ExportReport") -> None:
    """Print the checks and the latencies of an export."""
    _show_parity(terminal, report)
    _show_latencies(terminal, report)


def _show_parity(terminal: "Terminal", report: "ExportReport") -> None:
    from segdistill.deployment.parity import MAX_DIFFERENCE, MAX_MIOU_CHANGE, MIN_AGREEMENT
    from segdistill.evaluation.metrics import coverage

    # As JSON has it: None stands for what is not finite.
    check = report.parity.to_json()
    averaged = coverage(check["classes_scored"], check["classes_declared"])
    rows = []
    if report.form.has_logits:
        rows += [
            ["largest difference of logits", format_number(check["max_abs_diff"]), "-"],
            ["as a share of its image's largest", format_number(check["max_relative_diff"]), f"{MAX_DIFFERENCE:g}"],
        ]
    rows.append(
        [
            "pixels with the same label",
            f"{100 * check['label_agreement']:.4f} %",
            f">= {100 * MIN_AGREEMENT:g} % in each image",
        ]
    )
    if check["miou_torch"] is not None:  # images without labels have no mIoU
        rows.append(
            [
                f"mIoU in PyTorch, in onnxruntime{averaged}",
                f"{format_percent(check['miou_torch'])}, {format_percent(check['miou_onnx'])}",
                f"{100 * MAX_MIOU_CHANGE:g} apart",
            ]
        )
    title = f"{report.file}: {report.form.describe()}, checked on {counted(check['images'], 'image')}"
    terminal.table(title, ["check", "found", "limit"], rows)


def _show_latencies(terminal: "Terminal", report: "ExportReport") -> None:
    threads = counted(report.latencies["onnxruntime"].threads, "thread")
    height, width = report.size
    images = report.latencies["onnxruntime"].images
    title = (
        f"Milliseconds per {'image' if images == 1 else 'batch'} at {height}x{width} ({report.size_source}), "
        f"batch {images}, fp32, {threads}, measured in turns"
    )
    rows = [_latency_row(SUBJECT_NAMES[name], latency) for name, latency in report.latencies.items()]
    terminal.table(title, ["", "first", "p50", "p90", "p99", "fps", "runs"], rows)


def _latency_row(name: str, latency: "Latency") -> list[str]:
    return [
        name,
        f"{latency.first:.1f}",
        f"{latency.p50:.1f}",
        f"{latency.p90:.1f}",
        # Fewer than 100 calls cannot tell it.
        "-" if latency.p99 is None else f"{latency.p99:.1f}",
        f"{latency.fps:.1f}",
        str(latency.n),
    ]
