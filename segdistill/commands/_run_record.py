"""The record of a run in its folder: written at its start, compared on resume, completed at its end."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from typing import Any

import tomli_w

from segdistill.checkpoints.model_file import read_info
from segdistill.commands._context import RunContext
from segdistill.commands._data_commit import data_commit
from segdistill.commands._json_file import read_table
from segdistill.commands._lengthening import lengthenings, optim_of, record_lengthening, sentence
from segdistill.commands._local_record import write_local
from segdistill.commands._results import NetworkResult, Outcome, gain_to_json
from segdistill.commands._resume import refuse_changes
from segdistill.commands._run_log import ENDED, log_writer, logged_ending
from segdistill.commands._settings import describe_data, environment, folder_config, recorded_config
from segdistill.commands._teacher_record import read_teacher
from segdistill.config.schema import RunConfig
from segdistill.errors import UsageError
from segdistill.evaluation.significance import GainEstimate
from segdistill.reports.curves import draw_curves
from segdistill.reports.model_card import CardRow, Origins, model_card
from segdistill.reports.scores import skipped_steps
from segdistill.runtime import distributed
from segdistill.runtime.conditions import PARTS, differences
from segdistill.runtime.lost_peers import explain_lost_peers
from segdistill.runtime.reporter import LoggingReporter
from segdistill.runtime.signals import exit_on_signal
from segdistill.storage.atomic import write_atomic, write_json
from segdistill.storage.manifest import write_manifest
from segdistill.storage.run_folder import NullRunFolder, RunFolder, open_run

PARTS_OF_A_RUN = ("baseline", "seed")
"""Kinds of runs in the folder of another."""


@contextmanager
def open_run_folder(context: RunContext, kind: str) -> Iterator[RunFolder]:
    """Open a run's folder in the first process, refuse changed settings on resume, and write what the run is.

    Yields:
        The folder; one that writes nothing in other processes and in a dry run.

    Raises:
        BusyError: in all processes, if another run is at work there.
    """
    if context.options.dry_run:
        yield NullRunFolder()
        return
    with ExitStack() as stack:
        opened: list[RunFolder] = []

        def start() -> None:
            opened.append(stack.enter_context(_open_in_first_process(context, kind)))

        distributed.run_on_main(start)
        stack.enter_context(explain_lost_peers(context.resume_command))
        yield opened[0] if opened else NullRunFolder()


@contextmanager
def _open_in_first_process(context: RunContext, kind: str) -> Iterator[RunFolder]:
    path, options, is_part = context.out, context.options, kind in PARTS_OF_A_RUN
    if is_part and path.is_symlink():
        raise UsageError(f"{path} is a link: what is written there would lie outside.", "Remove it.")
    # a resumed run may have parts that have not begun
    resume = options.resume and (not is_part or (path / "config.toml").exists())

    def check() -> None:
        if resume:
            refuse_changes(path, context, kind)

    with open_run(path, resume=resume, overwrite=options.overwrite, check=check) as folder:
        if not is_part:  # its parts lie on the same file system
            for warning in folder.warnings:
                context.reporter.warning(warning)
        if resume:
            (folder / "manifest.json").unlink(missing_ok=True)  # it is not finished until the next one is written
            _record_resumption(folder, context)
        else:
            _record_start(folder, context, kind)

        def continued() -> str:
            return resume_or_restart(folder, context)

        with exit_on_signal(continued_by=continued), logged_ending(folder):
            yield folder


def _record_start(folder: RunFolder, context: RunContext, kind: str) -> None:
    """Write what the run is, in the order of `run_files.WRITTEN_FIRST`: without the last file it has not begun."""
    write_json(folder / "data.json", describe_data(context.verified_data))
    write_json(folder / "environment.json", {"kind": kind, **environment(context), **_commit(context)})
    write_local(folder, context, begins=True)
    write_atomic(folder / "config.toml", tomli_w.dumps(folder_config(context)))


def _commit(context: RunContext) -> dict[str, str]:
    commit = data_commit(context)
    return {} if commit is None else {"data_commit": commit}


def _record_resumption(folder: RunFolder, context: RunContext) -> None:
    """Write into environment.json where a run goes on, if not as it last did; warn of what may change its bits."""
    recorded, present = read_table(folder / "environment.json"), environment(context)
    resumptions = recorded.get("resumed_with")
    if not isinstance(resumptions, list):
        resumptions = []
    parts = [recorded, *(part for part in resumptions if isinstance(part, dict))]
    reporter = LoggingReporter(context.reporter, log_writer(folder))
    changes: dict[str, tuple[str, str]] = {}
    for part in parts:
        changes = differences(part, present) | changes
    for name, (before, now) in changes.items():
        reporter.warning(
            f"Part of this run was computed with {name} {before}, now {now}: "
            "results may not be bit-identical to the first part."
        )
    # a baseline and seeds may be added
    updates: dict[str, Any] = {"baseline": context.options.baseline, "seeds": context.options.seeds}
    write_local(folder, context, begins=False)
    if differences(parts[-1], present):
        moment = {"time": f"{datetime.now():%Y-%m-%d %H:%M:%S}"}
        updates["resumed_with"] = [*parts[1:], moment | {name: present[name] for name in PARTS}]
    write_json(folder / "environment.json", recorded | updates)
    _record_new_schedule(folder, context, str(recorded.get("kind")))


def _record_new_schedule(folder: RunFolder, context: RunContext, kind: str) -> None:
    """Write the longer schedule of a run that is lengthened; environment.json first, which says that it is one."""
    before = optim_of(recorded_config(folder.path), kind).steps
    after = optim_of(context.config, kind).steps
    if after > before:
        record_lengthening(folder.path, before, after)
        write_atomic(folder / "config.toml", tomli_w.dumps(folder_config(context)))


def record(folder: RunFolder, **values: Any) -> None:
    """Write further values into environment.json."""
    if folder.writes:
        write_json(folder / "environment.json", read_table(folder / "environment.json") | values)


def resume_or_restart(folder: RunFolder, context: RunContext) -> str:
    """Return the command that goes on with a run: one that is to replace another and has saved nothing begins again."""
    return context.resume_command if folder.is_resumable else context.restart_command


def finish(
    folder: RunFolder, context: RunContext, results: Sequence[NetworkResult], gain: GainEstimate | None = None
) -> Outcome:
    """Write scores, model card and curves, then the manifest: the run is finished.

    Returns:
        What the command returns; also of a dry run and in processes that write nothing.
    """
    entries = {result.name: result.to_json(context.data.classes) for result in results}
    gain_entry = None if gain is None else gain_to_json(gain)
    outcome = Outcome(context.out, entries, gain_entry, context.options.dry_run)
    if not folder.writes:
        return outcome
    write_json(folder / "scores.json", entries)
    if gain_entry is None:
        (folder / "gain.json").unlink(missing_ok=True)
    else:
        write_json(folder / "gain.json", gain_entry)
    draw_curves(folder / "metrics.jsonl", folder / "curves.png")
    write_atomic(folder / "README.md", _model_card(folder, context.config, results, gain, warning=outcome.weak_teacher))
    log_writer(folder)(f"{ENDED} (exit 0): finished")  # before the manifest, which has the log's digest
    write_manifest(folder.path)
    return outcome


def _model_card(
    folder: RunFolder,
    config: RunConfig,
    results: Sequence[NetworkResult],
    gain: GainEstimate | None,
    *,
    warning: str | None,
) -> str:
    # a run's model is its distilled student; a teacher's run and a baseline's have one network
    model = next((result for result in results if result.name == "distilled"), results[-1])
    rows = []
    for result in results:
        scores = None if result.label_assisted or not result.scores.images else result.scores
        rows.append(CardRow(result.name, result.network, scores, result.parameters))
    remarks = [] if gain is None else [gain.sentence()]
    skipping = [result for result in results if result.skipped_steps]
    remarks += [f"{result.name}: {skipped_steps(result.skipped_steps)}." for result in skipping]
    optim = optim_of(config, "teacher" if model.name == "teacher" else "student")
    remarks += [sentence(lengthening, optim) for lengthening in lengthenings(folder.path)]
    info = read_info(folder / "model.safetensors")
    return model_card(info, rows, model.scores, warning=warning, remarks=remarks, origins=_origins(folder))


def _origins(folder: RunFolder) -> Origins:
    recorded = read_table(folder / "environment.json")
    teacher = read_teacher(folder.path)
    return Origins(
        backbone=str(recorded.get("weights", "")),
        student=str(recorded.get("init_weights", "")),
        teacher=str(teacher.get("network", "")),
        teacher_sha256=str(teacher.get("sha256", "")),
    )
