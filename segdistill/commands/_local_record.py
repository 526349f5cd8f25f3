"""local.json of a run: where its data and teacher lie on this machine, and the command line that began it.

All else in a run's folder names no path, so that it can be given away; this file stays behind. With config.toml it is
all that a command needs to do the same again. It may come from anybody: whatever is read of it names files and
settings, never code.
"""

import json
import os
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, Self

from segdistill.commands._context import Options, RunContext
from segdistill.commands._json_file import read_table
from segdistill.config.registry import BUILT_IN, data_example
from segdistill.config.schema import RunConfig
from segdistill.data.layout import DATA_VARIABLE
from segdistill.data.unlabeled import NAME
from segdistill.errors import ModelError, UsageError
from segdistill.storage.atomic import write_atomic
from segdistill.storage.run_files import LOCAL
from segdistill.storage.run_folder import RunFolder
from segdistill.teachers.external_spec import names_code, parse_external


@dataclass(frozen=True)
class LocalRecord:
    """What a run's folder says of this machine; every path begins at the root of the file system."""

    command: tuple[str, ...] = ()
    """Words of the command line that began the run, without the program's name; none of a run of the Python API."""
    folder: str = ""
    """Working folder of that command."""
    data: str = ""
    """Data set as `--data` takes it; "images" of a run that has none but its images without labels."""
    images: tuple[str, ...] = ()
    """Folders of `--images`."""
    unlabeled: tuple[str, ...] = ()
    """Folders of `--unlabeled`."""
    teacher: str = ""
    """Teacher as `--teacher` takes it; empty of a teacher's own run."""
    pretrained: bool = False
    backbone_weights: str = ""
    init_weights: str = ""
    """As `--init-weights` takes it; empty where nothing was given."""
    baseline: Literal["", "steps", "time"] = ""
    seeds: int = 1
    accept_teacher: bool = False
    device: str = "auto"
    workers: int | None = None
    validation_batch: int | None = None
    """Images that a validation takes at once: config.toml leaves it out, as it changes no number."""

    @classmethod
    def of(cls, context: RunContext) -> Self:
        """Return what a run's folder keeps of its command."""
        config, options = context.config, context.options
        return cls(
            command=tuple(word for word in options.command if word not in ("--resume", "--overwrite")),
            folder=os.getcwd(),
            data=absolute_data(config.data.name),
            images=_absolute_paths(config.data.images),
            unlabeled=_absolute_paths(config.data.unlabeled),
            teacher=_absolute_teacher(options.teacher),
            pretrained=options.pretrained,
            backbone_weights=_absolute_file(options.backbone_weights),
            init_weights=_absolute_file(options.init_weights),
            baseline=options.baseline or "",
            seeds=options.seeds,
            accept_teacher=options.accept_teacher,
            device=options.device,
            workers=options.workers,
            validation_batch=config.validate_.batch_size,
        )

    def options(self, run: Path | None) -> Options:
        """Return the options of the command that began the run, to be resumed in `run`, or begun again without one."""
        return Options(
            out=run,
            resume=run is not None,
            device=self.device,
            workers=self.workers,
            pretrained=self.pretrained,
            backbone_weights=Path(self.backbone_weights) if self.backbone_weights else None,
            init_weights=Path(self.init_weights) if self.init_weights else None,
            baseline=self.baseline or None,
            seeds=self.seeds,
            accept_teacher=self.accept_teacher,
            teacher=self.teacher,
            command=self.command,
        )

    def in_config(self, config: RunConfig) -> RunConfig:
        """Return the configuration of the run's folder with the paths that it leaves out."""
        values: dict[str, Any] = {"data.images": list(self.images), "data.unlabeled": list(self.unlabeled)}
        if self.data:
            values["data.name"] = self.data
        if self.validation_batch is not None:
            values["validate.batch_size"] = self.validation_batch
        return config.changed(**values)

    def data_is_there(self) -> bool:
        """Whether the data set lies where it did; the built-in one, and that of another package, always does."""
        path = self.data if self.data.endswith(".toml") else self.data.partition(":")[2]
        return bool(self.data) and self.data != NAME and (not path or Path(path).exists())


def write_local(folder: RunFolder, context: RunContext, *, begins: bool) -> None:
    """Write local.json of a run that begins, or that goes on with its data elsewhere, say, or on another device."""
    recorded, present = None if begins else read_local(folder.path), LocalRecord.of(context)
    if recorded is not None:  # the command that began it is what it was
        present = replace(present, command=recorded.command, folder=recorded.folder)
    if present != recorded:
        # in ASCII: a path that is no UTF-8 is kept, too
        write_atomic(folder / LOCAL, json.dumps(asdict(present), indent=2) + "\n")


def read_local(run: Path) -> LocalRecord | None:
    """Return what a run's folder says of this machine; None where it has no such file, being older or given away.

    Raises:
        ModelError: if the file is damaged.
    """
    path = run / LOCAL
    if not path.is_file():
        return None
    table, values = read_table(path), {}
    for field in fields(LocalRecord):
        if field.name not in table:  # of an earlier version
            continue
        value = _as_stored(table[field.name])
        known = (int, type(None)) if field.default is None else (type(field.default),)
        if type(value) not in known or (field.name == "baseline" and value not in ("", "steps", "time")):
            raise ModelError(f"{path} is damaged: {field.name} is {value!r}.", "Delete it, and name what it named.")
        values[field.name] = value
    return LocalRecord(**values)


def read_local_beside(preset: str) -> LocalRecord | None:
    """Return what the folder says of this machine whose config.toml is the preset; None of any other preset.

    Raises:
        ModelError: if the file is damaged.
    """
    path = Path(preset)
    return read_local(path.parent) if path.name == "config.toml" and path.is_file() else None


def data_is_gone(run: Path, data: str, command: str = "") -> UsageError:
    """Return the error about a data set that does not lie where a run's folder has it.

    Args:
        run: the folder.
        data: the data set as `--data` takes it.
        command: that takes a --data in its place; empty of the one that was typed.
    """
    flag = f"--data {data_example(data.partition(':')[0])}"
    return UsageError(
        f"The data set of {run} is gone from where {run / LOCAL} has it: {data}",
        f"Say where it lies now: {f'{command} {flag}' if command else flag}",
    )


def _as_stored(value: Any) -> Any:
    """Return a value of a JSON file as a record has it: lists of texts are tuples there."""
    is_texts = isinstance(value, list) and all(isinstance(text, str) for text in value)
    return tuple(value) if is_texts else value


def refuse_recorded_code(teacher: str, run: Path) -> None:
    """Refuse to run a teacher's code because a file names it.

    Raises:
        UsageError: with the flag that names it on the command line.
    """
    if names_code(teacher):
        raise UsageError(
            f"The teacher of {run} is code, {teacher}: it runs only where a command line names it.",
            f"Add --teacher {teacher}",
        )


def absolute_data(spec: str) -> str:
    """Return a data set's name as `--data` takes it, so that it names the same from any folder and environment."""
    if spec.endswith(".toml"):
        return os.path.abspath(os.path.expanduser(spec))
    name, colon, path = spec.partition(":")
    if colon:
        return f"{name}:{os.path.abspath(os.path.expanduser(path))}"
    folder = os.environ.get(DATA_VARIABLE, "")
    if name in (NAME, BUILT_IN) or not folder:
        return spec
    found = Path(os.path.expanduser(folder), name)
    return f"{name}:{os.path.abspath(found)}" if found.is_dir() else spec


def _absolute_paths(paths: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(os.path.abspath(os.path.expanduser(path)) for path in paths)


def _absolute_file(path: Path | None) -> str:
    """Return a file, or SCHEME:WHERE, from the root of the file system; nothing for None."""
    if path is None:
        return ""
    external = None if path.exists() else parse_external(str(path))
    return os.path.abspath(path) if external is None else external.absolute()


def _absolute_teacher(spec: str) -> str:
    """Return a teacher as `--teacher` takes it, with a path in it from the root of the file system."""
    external = parse_external(spec) if spec else None
    if external is not None:
        return external.absolute()
    return os.path.abspath(spec) if spec and Path(spec).exists() else spec
