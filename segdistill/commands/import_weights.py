"""Turn a published checkpoint into a model that the other commands take like a run's.

Every tensor is used, or named with the reason why it is not. What the tensors' names and shapes tell, they decide. What
they do not (output stride, dilation, what the network expects of images) is as published, unless it is asked for
otherwise. What publications do now one way, now another, or is not known at all, must be given: nothing is guessed.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

from segdistill.checkpoints.model_file import ModelInfo, save_model
from segdistill.checkpoints.published_files import published_file
from segdistill.commands._import_preprocessing import RequestedPreprocessing, with_preprocessing
from segdistill.commands._import_report import report_rows
from segdistill.commands._import_tensors import LoadedCheckpoint, load_published
from segdistill.commands._inputs import Input, data_inputs, refuse_run_over
from segdistill.config.schema import NetworkConfig
from segdistill.data import DataSource, load_data
from segdistill.data.datasets.voc import colors
from segdistill.errors import ModelError, UsageError
from segdistill.runtime.reporter import Reporter
from segdistill.runtime.versions import versions
from segdistill.storage.folder_checks import check_folder
from segdistill.storage.manifest import write_manifest
from segdistill.storage.run_folder import open_run
from segdistill.types import MAX_CLASSES
from segdistill.wording import counted


@dataclass(frozen=True)
class ImportOptions:
    """Options of an import; None leaves a choice to the checkpoint and its publication."""

    file: Path
    network: NetworkConfig
    """Network with its full name; what is set in it is not for the tensors to decide."""
    out: Path
    """Output folder."""
    data: str | None = None
    """Data set as `--data` takes it, which names the classes and their colors."""
    classes: int | None = None
    """Number of classes without void."""
    void_output: int | None = None
    """Index of the output that is no class but void; None leaves it to the file's name, if that tells."""
    preprocessing: RequestedPreprocessing = field(default_factory=RequestedPreprocessing)
    """Images as the network expects them."""
    size: tuple[int, int] | None = None
    """Height and width that images are brought to; None leaves them at their own."""
    drop_label_channel: bool = False
    """Leave out the first convolution's fourth channel, always 0 for a student of LAD (Qiu et al. 2024)."""
    overwrite: bool = False
    """Replace what is in the output folder."""


def network_of_published(file: Path) -> str:
    """Return the network that a published file's name tells.

    Raises:
        UsageError: if no publication is known that calls its files so.
    """
    published = published_file(file.name)
    if published is None:
        raise UsageError(
            f"No network given for {file}, and its name is none of the published ones that tell it.",
            "Add --network NET; `segdistill networks` lists all.",
        )
    return published.network


def import_weights(options: ImportOptions, reporter: Reporter) -> ModelInfo:
    """Write a folder with a model file; nothing is written before all is checked.

    Args:
        options: what is imported.
        reporter: tells what was made of the checkpoint.

    Returns:
        The header of the model file.

    Raises:
        UsageError: if the folder is not empty, or what is asked for is not what the checkpoint holds.
        ModelError: if the file cannot be read, or does not hold that network.
    """
    _check_output(options)
    data = None if options.data is None else load_data(options.data)
    _refuse_overlap(options, data)
    loaded = load_published(options.file, options.network, drop_label_channel=options.drop_label_channel)
    options = _with_published_void(options, loaded)
    classes = _class_names(options, loaded, data)
    network = with_preprocessing(options.file, options.preprocessing, loaded)
    info = ModelInfo(
        network=network,
        classes=classes,
        palette=_palette(options, classes, data),
        role="teacher",
        void_output=options.void_output,
        size=options.size,
        data="" if data is None else data.name,
        preset="import-weights",
        steps=0,
        versions=versions(),
    )
    reporter.banner(f"{network.network} from {options.file.name}", report_rows(loaded, info))
    with open_run(options.out, resume=False, overwrite=options.overwrite) as folder:
        info = save_model(folder / "model.safetensors", loaded.network, info)
        write_manifest(folder.path)
        folder.promote()
    return info


def _check_output(options: ImportOptions) -> None:
    """Refuse a folder that is used, or that no command of ours has written."""
    out = options.out
    # A folder that was locked once, and then left empty, has this file.
    is_used = out.is_dir() and any(entry.name != ".lock" for entry in out.iterdir())
    if is_used and not options.overwrite:
        raise UsageError(f"{out} is not empty.", "Add --overwrite to replace what is there, or choose another --out.")
    check_folder(out, resume=False, overwrite=options.overwrite)


def _refuse_overlap(options: ImportOptions, data: DataSource | None) -> None:
    """Refuse a folder that overlaps with what is read."""
    inputs = [Input("FILE", options.file)]
    if data is not None:
        inputs += data_inputs(data, str(options.data))
    refuse_run_over(options.out, inputs)


def _class_names(options: ImportOptions, loaded: LoadedCheckpoint, data: DataSource | None) -> tuple[str, ...]:
    """Return the names of the classes, which for want of data are the numbers of their outputs.

    Raises:
        UsageError: if the data, or `--classes`, has another number of classes.
        ModelError: if there are more than a label map can tell.
    """
    outputs, void = loaded.network.num_classes, options.void_output
    num_classes = outputs if void is None else outputs - 1
    if num_classes > MAX_CLASSES:
        raise ModelError(f"{options.file} has {counted(outputs, 'output')}; label maps tell {MAX_CLASSES} classes.")
    if void is not None and void >= outputs:
        raise UsageError(
            f"--void-output {void} is no output of {options.file}, which has the outputs 0 to {outputs - 1}.",
            f"If the last output stands for void: --void-output {outputs - 1}",
        )
    if data is not None:
        _check_count(options, outputs, data.name, expected=len(data.classes))
    if options.classes is not None:
        _check_count(options, outputs, "--classes", expected=options.classes)
    if data is not None:
        return data.classes
    published = published_file(options.file.name)
    if published is not None and published.void_output == void and len(published.classes) == num_classes:
        return published.classes
    return tuple(str(output) for output in range(outputs) if output != void)


def _check_count(options: ImportOptions, outputs: int, source: str, *, expected: int) -> None:
    """Refuse a checkpoint of another number of classes than `source` has, void left out."""
    void = options.void_output
    num_classes = outputs if void is None else outputs - 1
    if num_classes == expected:
        return
    outputs_text = f"{outputs} outputs"
    if void is not None:
        outputs_text += f", {num_classes} classes and void"
    advice = "Classes are counted without void. Leave --classes out, or give the data of the checkpoint."
    if void is None and outputs == expected + 1:
        advice = f"If one output stands for void, say which: --void-output {expected} for the last one."
    raise UsageError(
        f"{options.file} has {outputs_text}; {source} has {counted(expected, 'class', 'classes')}.", advice
    )


def _with_published_void(options: ImportOptions, loaded: LoadedCheckpoint) -> ImportOptions:
    """Return the options with the void output that the file's name tells, where none was given.

    A file may have a published name and other weights in it: then it has another number of outputs.
    """
    published = published_file(options.file.name)
    if options.void_output is not None or published is None or published.void_output is None:
        return options
    if loaded.network.num_classes != len(published.classes) + 1:
        return options
    return replace(options, void_output=published.void_output)


def _palette(
    options: ImportOptions, classes: tuple[str, ...], data: DataSource | None
) -> tuple[tuple[int, int, int], ...]:
    if data is not None:
        return data.palette
    published = published_file(options.file.name)
    if published is not None and published.classes == classes:
        return published.palette
    # The first color of Pascal VOC is black, which stands for ignored pixels here.
    return colors(range(1, len(classes) + 1))
