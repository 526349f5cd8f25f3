"""What a run's folder says of its run: settings, environment, data, scores; and what may not change on resume."""

import json
import os
import platform
import re
import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import tomli_w
import torch

from segdistill import distributed, pictures, report
from segdistill.checkpoint import ModelInfo, identity, identity_parts, read_info
from segdistill.comparison import Verdict
from segdistill.conditions import PARTS, conditions, differences
from segdistill.config import RunConfig, read_toml, validated
from segdistill.data import DataSource
from segdistill.errors import ModelError, SegdistillError, UsageError
from segdistill.metrics import Scores
from segdistill.reading import read_file
from segdistill.setting import Setting, init_weights_used, weights_used
from segdistill.signals import at_once, last_words
from segdistill.store import RunFolder, open_run, seal, verify_file, write_atomic, write_json
from segdistill.talk import Logged
from segdistill.terms import check_terms

ENDED = "ended"
"""Beginning of the last line of a run's log."""
ENDED_LINE = re.compile(rb"\S+ \S+  " + ENDED.encode() + rb"\b")
"""That line, behind its date and time: other lines may have the word in them."""
ELSEWHERE = re.compile(r"(?<![\w./~-])/(?:[^\s/'\":,;()]*/)+")
"""Absolute path, up to its last part."""


@dataclass(frozen=True)
class Row:
    """One network in a table of results."""

    name: str
    network: str
    scores: Scores
    best: float | None
    """mIoU of the best checkpoint, beside that of the last step."""
    parameters: int | None
    """None of a graph, which has none of PyTorch's."""
    macs: int | None
    """None where they cannot be counted."""
    training_seconds: float | None = None
    """At work in steps, without validation, checkpoints and stalls; None where it was not trained here."""
    preparation_seconds: float = 0.0
    """Of what a term had trained before."""
    label_assisted: bool = False
    """It has seen the labels: its scores are not accuracy."""
    best_classes: float | None = None
    """Number of classes that `best` is a mean over; None where nothing says so."""
    skipped_steps: int = 0
    """Steps of its training that were left out, because their gradient was not finite."""

    @property
    def seconds(self) -> float:
        """Of all training that the network took."""
        return (self.training_seconds or 0.0) + self.preparation_seconds

    def to_json(self, classes: tuple[str, ...]) -> dict[str, Any]:
        """Return the row in numbers."""
        own: dict[str, Any] = {
            "network": self.network,
            "best_miou": self.best,
            "best_classes_scored": None if self.best_classes is None else int(self.best_classes),
            "parameters": self.parameters,
            "macs": self.macs,
            "training_seconds": self.training_seconds,
            "preparation_seconds": self.preparation_seconds,
        }
        if self.skipped_steps:
            own["skipped_steps"] = self.skipped_steps
        return own | report.scores_table(self.scores, classes, label_assisted=self.label_assisted)


SHOWN = {"network", "images", "miou", "best_miou", "pixel_accuracy", "parameters", "macs"}
"""What a row of results has at least."""


@dataclass(frozen=True)
class Outcome:
    """What a training command leaves behind."""

    folder: Path
    results: dict[str, dict[str, Any]]
    """By role (teacher, plain, distilled; "plain, seed 1" and so on), as in scores.json."""
    gain: dict[str, Any] | None = None
    """Of a run with its baseline: the verdict in numbers, and as a sentence."""
    dry_run: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return what `distill --json` prints."""
        return {"run": str(self.folder), "results": self.results, "spread": self.spread(), "gain": self.gain}

    def spread(self) -> dict[str, dict[str, Any]]:
        """Return mean and standard deviation of the mIoU of each role that was trained from several seeds."""
        roles: dict[str, list[dict[str, Any]]] = {}
        for name, result in self.results.items():
            roles.setdefault(name.partition(",")[0], []).append(result)
        return {role: _spread(results) for role, results in roles.items() if len(results) > 1}


def _spread(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Return mean and standard deviation of the mIoU of several seeds, and the fewest classes that one is over."""
    values = [result["miou"] for result in results]
    scored = [result["classes_scored"] for result in results if "classes_scored" in result]
    return {
        "mean": statistics.fmean(values),
        "std": statistics.stdev(values),
        "seeds": len(values),
        "classes_scored": min(scored, default=None),
        "classes_declared": results[0].get("classes_declared"),
    }


WORDS = {"about", "paper"}
"""Keys of a preset that only say what it is."""


@contextmanager
def run_folder(setting: Setting, path: Path, kind: str) -> Iterator[RunFolder | None]:
    """Open a run's folder in the first process, refuse changed settings on resume, and write what the run is.

    Raises:
        BusyError: in all processes, if another run is at work there.
    """
    if setting.options.dry_run:
        yield None
        return
    with ExitStack() as stack:
        opened: list[RunFolder] = []

        def start() -> None:
            opened.append(stack.enter_context(_opened(setting, path, kind)))

        distributed.from_main(start)
        stack.enter_context(distributed.losses_told(setting.options.again))
        yield opened[0] if opened else None


@contextmanager
def _opened(setting: Setting, path: Path, kind: str) -> Iterator[RunFolder]:
    options = setting.options
    inner = kind in ("baseline", "seed")
    if inner and path.is_symlink():
        raise UsageError(f"{path} is a link: what is written there would lie outside.", "Remove it.")
    resume = options.resume and (not inner or (path / "config.toml").exists())

    def check() -> None:
        if resume:
            _refuse_changes(path, setting, kind)

    with open_run(path, resume=resume, overwrite=options.overwrite, check=check) as folder:
        for warning in () if inner else folder.warnings:
            setting.place.talk.warn(warning)
        if resume:
            (folder / "manifest.json").unlink(missing_ok=True)  # it is not finished until it is sealed again
        else:
            # in the order of BEFORE_IT_BEGINS
            write_json(folder / "data.json", describe_data(setting.data))
            write_json(folder / "environment.json", {"kind": kind, **environment(setting)})
            write_atomic(folder / "config.toml", tomli_w.dumps(folder_config(setting)))
        if resume:
            _go_on(folder, setting)
        with at_once(continued_by=lambda: continued_by(folder, options.again)), _ending_logged(folder):
            yield folder


def _go_on(folder: RunFolder, setting: Setting) -> None:
    """Write into environment.json where a run goes on, if not as it last did; warn of what may change its bits."""
    before, now, options = _table(folder / "environment.json"), environment(setting), setting.options
    added: dict[str, Any] = {"baseline": options.baseline, "seeds": options.seeds}  # which may be added
    others = before.get("resumed_with")
    parts = [before, *(part for part in (others if isinstance(others, list) else []) if isinstance(part, dict))]
    talk = Logged(setting.place.talk, log_of(folder))
    told: dict[str, tuple[str, str]] = {}
    for part in parts:
        told = differences(part, now) | told
    for name, (was, value) in told.items():
        talk.warn(f"Part of this run was computed with {name} {was}, now {value}: it may end in other bits.")
    if differences(parts[-1], now):
        moment = {"time": f"{datetime.now():%Y-%m-%d %H:%M:%S}"}
        added["resumed_with"] = [*parts[1:], moment | {name: now[name] for name in PARTS}]
    write_json(folder / "environment.json", before | added)


def note(folder: RunFolder, **values: Any) -> None:
    """Write down something more about a run's circumstances."""
    write_json(folder / "environment.json", _table(folder / "environment.json") | values)


@contextmanager
def _ending_logged(folder: RunFolder) -> Iterator[None]:
    """Write into a run's log what ends it before its time: a refusal, an error, a signal.

    What leaves no time to write is told when the run goes on.
    """
    append, before = log_of(folder), folder.lines("train.log")

    def write(text: str) -> None:
        if (folder / "manifest.json").exists():  # a signal came behind the end, which is sealed
            return
        with suppress(OSError, SegdistillError):  # a full disk may be what ended it, which is told all the same
            append(text)

    if before and not ENDED_LINE.match(before[-1]):
        write(f"{ENDED} before: nothing says how, as after SIGKILL, without memory or without power")
    try:
        with last_words(lambda text: write(f"{ENDED} {text}")):
            yield
    except SegdistillError as error:
        write(f"{ENDED} (exit {error.exit_code}): {' '.join(error.what.split())}")
        raise
    except BaseException as error:
        write(f"{ENDED}: {type(error).__name__}: {' '.join(str(error).split())}")
        raise


def continued_by(folder: RunFolder, again: str) -> str:
    """Return the command that goes on with a run: one that is to replace another and has saved nothing begins again."""
    return again if folder.can_go_on else f"{again.removesuffix('--resume')}--overwrite"


def folder_config(setting: Setting) -> dict[str, Any]:
    """Return the resolved configuration as a run's folder keeps it: what a run is, wherever and however it runs.

    Data sets and folders are there by name, without paths. How many images a validation takes at once is left out.
    """
    folders = [Path(path).name for path in setting.config.data.unlabeled]
    own = {"data.name": setting.data.name, "data.unlabeled": folders, "validate.batch_size": None}
    return setting.config.changed(**own).to_dict()


def environment(setting: Setting) -> dict[str, Any]:
    """Return versions, hardware and the pretrained weights used; no paths, no names."""
    place = setting.place
    return {
        "versions": versions(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name(place.device) if place.device.type == "cuda" else cpu_name(),
        "precision": place.precision.name,
        "threads": torch.get_num_threads(),
        "processes": distributed.world_size(),
        **conditions(),
        "weights": weights_used(setting.options),
        "init_weights": init_weights_used(setting.options),
        "baseline": setting.options.baseline,
        "seeds": setting.options.seeds,
    }


def versions() -> dict[str, str]:
    """Return the versions of what numbers depend on."""
    names = ("segdistill", "torch", "torchvision", "albumentations", "opencv-python-headless", "onnx", "onnxruntime")
    return {name: metadata.version(name) for name in names}


def cpu_name() -> str:
    """Return what the processor calls itself."""
    return str(torch.cpu.get_capabilities().get("cpu_name") or platform.processor() or platform.machine())


def log_of(folder: RunFolder) -> Callable[[str], None]:
    """Return what appends a line with the time to the run's log, where the run's folder is a dot if it has a path.

    Of other paths of this machine it leaves the last part: a log may be given away.
    """
    place = str(folder.home)
    own = re.compile(rf"(?<![\w./-]){re.escape(place)}(?![\w.-])")
    home = os.path.expanduser("~").rstrip("/")
    # containers have "/" or nothing for a user that they do not know
    at_home = re.compile(rf"(?<![\w./-]){re.escape(home)}(?![\w.-])") if home.startswith("/") else None

    def write(text: str) -> None:
        line = own.sub(".", text) if "/" in place else text  # a name alone is a word like any other, such as "run"
        line = ELSEWHERE.sub(".../", line if at_home is None else at_home.sub("~", line))
        folder.append("train.log", f"{datetime.now():%Y-%m-%d %H:%M:%S}  {line}")

    return write


def describe_data(data: DataSource) -> dict[str, Any]:
    """Return what identifies the data, wherever it lies."""
    counts = {name: len(split.names) for name, split in data.splits.items()}
    return {"name": data.name, "classes": list(data.classes), "images": counts, "sha256": data.fingerprint}


def finished(setting: Setting, path: Path, kind: str) -> Outcome | None:
    """Return the results of a run that has come to its end, if that is what `--resume` was given; write nothing."""
    options = setting.options
    seeds = range(setting.config.seed + 1, setting.config.seed + options.seeds)
    wanted = [path, *(path / f"seed-{seed}" for seed in seeds)]
    wanted += [folder / "baseline" for folder in wanted] if options.baseline else []
    if not options.resume or not all((folder / "manifest.json").exists() for folder in wanted):
        return None
    _refuse_changes(path, setting, kind)
    for folder in wanted[1:]:
        seed = int(folder.name[5:]) if folder.name.startswith("seed-") else None
        if seed is not None:
            _refuse_changes(folder, replace(setting, config=setting.config.changed(seed=seed)), "seed")
    verify_file(path, "model.safetensors")
    rows, gain = _json(path, "scores.json"), _json(path, "gain.json")
    if not rows or not all(_is_shown(row) for row in rows.values()):
        raise ModelError(f"{path / 'scores.json'} is gone or holds no results.", "Restore the file, or train again.")
    if gain is not None:
        gain = _read_verdict(path / "gain.json", gain)
    setting.place.talk.say(f"Already finished: {path}")
    return Outcome(path, rows, gain)


def _is_shown(row: Any) -> bool:
    """Whether a row of scores.json holds what is shown of it."""
    if not isinstance(row, dict) or not row.keys() >= SHOWN or not isinstance(row["network"], str):
        return False
    return all(row[key] is None or type(row[key]) in (int, float) for key in SHOWN - {"network"})


def described(gain: Verdict) -> dict[str, Any]:
    """Return a verdict in numbers and as a sentence."""
    return gain.to_json() | {"sentence": gain.sentence()}


def _read_verdict(path: Path, gain: dict[str, Any]) -> dict[str, Any]:
    """Return a stored verdict as this version says it: earlier ones gave a verdict after one seed."""
    try:
        return described(Verdict.from_json(gain))
    except ValueError:
        raise ModelError(f"{path} holds no verdict.", "Restore the file, or train again.") from None


def _json(path: Path, name: str) -> Any:
    verify_file(path, name)
    return _table(path / name) if (path / name).exists() else None


def finish(folder: RunFolder, setting: Setting, rows: list[Row], gain: Verdict | None = None) -> None:
    """Write the scores, the card and the curves, then the manifest: the run is finished."""
    write_json(folder / "scores.json", results(setting, rows))
    if gain is not None:
        write_json(folder / "gain.json", described(gain))
    else:
        (folder / "gain.json").unlink(missing_ok=True)
    info = read_info(folder / "model.safetensors")
    pictures.draw_curves(folder / "metrics.jsonl", folder / "curves.png")
    own = next((row for row in rows if row.name == "distilled"), rows[-1])
    listed = [(row.name, row.network, None if row.label_assisted else row.scores, row.parameters) for row in rows]
    remarks = [] if gain is None else [gain.sentence()]
    remarks += [f"{row.name}: {report.skipped_steps(row.skipped_steps)}." for row in rows if row.skipped_steps]
    card = report.model_card(info, listed, own.scores, remarks)
    write_atomic(folder / "README.md", card)
    log_of(folder)(f"{ENDED} (exit 0): finished")  # the manifest seals it
    seal(folder.path)


def results(setting: Setting, rows: list[Row]) -> dict[str, dict[str, Any]]:
    """Return the rows in numbers, by name."""
    return {row.name: row.to_json(setting.data.classes) for row in rows}


def refuse_other_teacher(folder: Path, info: ModelInfo, class_map: Mapping[str, str] | None) -> None:
    """Refuse to continue a run under another teacher, or under one that may be another.

    A run of an earlier version has written down its teacher's weights alone.
    """
    path = folder / "teacher.json"
    begun = ("checkpoints/last", "checkpoints/last.prev", "model.safetensors")
    if not path.exists() and any((folder / name).exists() for name in begun):
        raise ModelError(f"{path} is gone: nothing says which teacher the run began with.", "Start a new run.")
    if not path.exists():
        return
    table, now = _table(path), identity_parts(info, class_map)
    before = table.get("parts")
    if not isinstance(before, dict):
        before = {"weights": table.get("sha256")}
    # a class map is a setting, and is compared and told as one
    changed = [part for part in before if before[part] != now.get(part) and part != "class map"]
    if changed:
        lines = "\n".join(f"  {part}: {before[part]} -> {now.get(part)}" for part in changed)
        raise UsageError(
            f"The teacher has changed since this run began:\n{lines}", "Give the same teacher, or start a new run."
        )


def write_teacher(folder: RunFolder, info: ModelInfo, class_map: Mapping[str, str] | None) -> None:
    """Write down which teacher a run has, beside the checks that it has passed already."""
    path = folder / "teacher.json"
    own = {"network": info.network.network, "sha256": info.sha256, "metrics": info.metrics}
    own |= {"identity": identity(info, class_map), "parts": identity_parts(info, class_map)}
    write_json(path, own | {"checks": _checks(folder.path)})


def note_passed(folder: RunFolder, check: str, of: str, *, overruled: bool) -> None:
    """Write down in teacher.json that a check was passed.

    Args:
        folder: the run's.
        check: its name.
        of: identity of what was checked.
        overruled: it had found something, and the user follows the teacher all the same.
    """
    checks = _checks(folder.path) | {check: {"identity": of, "overruled": overruled}}
    write_json(folder / "teacher.json", _table(folder / "teacher.json") | {"checks": checks})


def has_passed(folder: Path, check: str, of: str, *, accepted: bool) -> bool:
    """Whether a run's folder says that a check was passed for this; what was overruled must be accepted again."""
    found = _checks(folder).get(check)
    if not isinstance(found, dict) or found.get("identity") != of:
        return False
    return found.get("overruled") is False or (found.get("overruled") is True and accepted)


def _checks(folder: Path) -> dict[str, Any]:
    path = folder / "teacher.json"
    checks = _table(path).get("checks") if path.exists() else None
    return checks if isinstance(checks, dict) else {}


def _refuse_changes(folder: Path, setting: Setting, kind: str) -> None:
    """Refuse to continue a run of another kind, with other settings or data."""
    before = _settings_of(folder)
    data_before, place_before = _table(folder / "data.json"), _table(folder / "environment.json")
    if place_before.get("kind") != kind:
        raise UsageError(
            f"{folder} holds a run of another kind: {place_before.get('kind')}, not {kind}.",
            "Give the command that began it, or another --out.",
        )
    now, place = _settings(validated(RunConfig, folder_config(setting), str(folder))), environment(setting)
    for key, flag in (("weights", "--pretrained or --backbone-weights"), ("init_weights", "--init-weights")):
        before[flag], now[flag] = place_before.get(key, "none"), place[key]
    if place_before.get("baseline"):  # one may be added
        before["--baseline"], now["--baseline"] = place_before["baseline"], place["baseline"] or "none"
    if isinstance(seeds := place_before.get("seeds"), int) and seeds > place["seeds"]:  # and so may seeds
        before["--seeds"], now["--seeds"] = seeds, place["seeds"]
    changed = [key for key in sorted(before | now) if before.get(key) != now.get(key)]
    if changed:
        lines = "\n".join(f"  {key}: {before.get(key)} -> {now.get(key)}" for key in changed)
        raise UsageError(
            f"--resume continues the same run, but these settings differ:\n{lines}",
            f"Start a new run with another --out, or give the run's own: --preset {folder / 'config.toml'}",
        )
    if data_before != describe_data(setting.data):
        raise UsageError(
            "The data set has changed since this run began.", "Restore it, or start a new run with another --out."
        )


def _table(path: Path) -> dict[str, Any]:
    """Return what a JSON file of a run's folder holds."""
    try:
        table = json.loads(read_file(path))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read: {error}", "Start a new run.") from None
    if not isinstance(table, dict):
        raise ModelError(f"{path} is damaged: it holds no table.", "Start a new run.")
    return table


def _settings_of(folder: Path) -> dict[str, Any]:
    """Return the settings that a run's folder names.

    Raises:
        ModelError: if there are none that this version understands.
    """
    path = folder / "config.toml"
    try:
        return _settings(validated(RunConfig, read_toml(path), str(path)))
    except UsageError as error:
        raise ModelError(f"The run in {folder} cannot be continued: {error.what}", "Start a new one.") from None


def _settings(config: RunConfig) -> dict[str, Any]:
    """Return what a run depends on, without the words about it; a key that its version did not know has the default."""
    terms = {"terms": check_terms(config.terms)}
    return _flat(config.model_dump(mode="json", by_alias=True, exclude=WORDS) | terms)


def _flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
