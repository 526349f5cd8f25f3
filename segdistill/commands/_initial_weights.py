"""The weights that a network starts from: a run, a model file, a published checkpoint, or torchvision's."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from segdistill.checkpoints.class_rows import Fitted, fit_to_classes
from segdistill.checkpoints.model_file import is_model_file, load_model, model_path
from segdistill.checkpoints.published_files import published_file
from segdistill.commands._import_preprocessing import RequestedPreprocessing, with_preprocessing
from segdistill.commands._import_tensors import load_published
from segdistill.config.schema import NetworkConfig
from segdistill.errors import ModelError, UsageError
from segdistill.networks import SegNetwork, meta_network
from segdistill.teachers.external_spec import parse_external

FLAG = "--init-weights"


class InitialWeights(NamedTuple):
    """A network that another one starts from."""

    network: SegNetwork
    config: NetworkConfig
    """What it is, and what it wants of its images."""
    classes: tuple[str | None, ...]
    """Class of each output; None of an output that is no class."""


def initial_file(source: Path) -> Path:
    """Return the file that `--init-weights` names; torchvision's weights are downloaded where they are not there.

    Raises:
        UsageError: if there is none, or a kind of network is named whose weights ours cannot take.
    """
    return _located(source)[0]


def load_initial(source: Path, config: NetworkConfig) -> InitialWeights:
    """Load what a network starts from.

    Args:
        source: as `--init-weights` takes it.
        config: the network that is going to be trained, whose tensors a published checkpoint must have.

    Raises:
        UsageError: as `initial_file`; if nothing says what a published checkpoint wants of its images.
        ModelError: if it cannot be read, or has the tensors of another network.
    """
    file, categories = _located(source)
    if is_model_file(file):
        network, info = load_model(file)
        return InitialWeights(network, info.network, _by_output(info.classes, info.void_output))
    loaded = load_published(file, NetworkConfig(network=config.network))
    try:
        expected = with_preprocessing(file, RequestedPreprocessing(), loaded)
    except UsageError as error:
        advice = f"Import it first, `segdistill import-weights`, and give its folder: {FLAG} DIR"
        raise UsageError(error.what, advice) from None
    names = categories or _published_classes(file, loaded.network.num_classes)
    return InitialWeights(loaded.network, expected, names)


def start_from(network: SegNetwork, source: Path, config: NetworkConfig, classes: tuple[str, ...]) -> Fitted:
    """Give a network the weights that it starts from, in all places that both have; return what was kept.

    Args:
        network: its weights are drawn.
        source: as `--init-weights` takes it.
        config: of the network.
        classes: of the data.

    Raises:
        UsageError, ModelError: as `load_initial`; if it is of another architecture.
    """
    initial = load_initial(source, config)
    channels = network.mean.shape[1]
    wider = meta_network(config, network.num_classes + 1, channels)
    try:
        fitted = fit_to_classes(
            network,
            wider,
            initial.network.state_dict(),
            source_classes=initial.classes,
            classes=classes,
            training_only=network.training_only,
        )
    except ModelError as error:
        raise ModelError(
            f"{FLAG} {source} holds a {initial.config.network} that is not this {config.network}: {error.what}.",
            "The same network with the same options is expected; only its classes may be others.",
        ) from None
    network.load_state_dict(fitted.weights)
    return fitted


def _published_classes(file: Path, outputs: int) -> tuple[str | None, ...]:
    """Return the class of each output of a published checkpoint by its file name; the outputs' numbers without one."""
    published = published_file(file.name)
    if published is not None:
        classes = _by_output(published.classes, published.void_output)
        if len(classes) == outputs:
            return classes
    return tuple(str(output) for output in range(outputs))


def _by_output(classes: Sequence[str], void_output: int | None) -> tuple[str | None, ...]:
    """Return the class of each output; None of the one that stands for void."""
    names: list[str | None] = list(classes)
    if void_output is not None:
        names.insert(void_output, None)
    return tuple(names)


def _located(source: Path) -> tuple[Path, tuple[str, ...] | None]:
    """Return the file of some weights, and the classes that are published with it, if any."""
    external = None if source.exists() else parse_external(str(source))
    if external is None:
        return model_path(source), None
    if external.scheme == "tv":
        from segdistill.teachers.external.tv import weights_file  # torchvision takes a second

        return weights_file(external.location)
    raise UsageError(
        f"{FLAG} {source}: a network of {external.scheme}: has other tensors than the networks that are trained here.",
        f"It can teach: segdistill distill --teacher {source}. {FLAG} takes a run, a model file, a published "
        "checkpoint of a network in `segdistill networks`, or tv:NAME[:FILE].",
    )
