"""What a checkpoint expects of its images: as it was published, unless it is asked for otherwise.

A publication is recognized by its key map and number of outputs. Where none is known, mean and std must be given: those
of another checkpoint are never taken.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from segdistill.checkpoints.key_maps import IMAGENET, Preprocessing, key_maps_of
from segdistill.commands._import_tensors import LoadedCheckpoint
from segdistill.config.checking import validated
from segdistill.config.schema import InputConfig, NetworkConfig
from segdistill.errors import UsageError
from segdistill.networks import resolve

FLAGS = {"mean": "--mean A,B,C", "std": "--std A,B,C", "order": "--bgr or --rgb", "divide": "--divide F"}
"""Flag that gives each key of `InputConfig`."""
ALWAYS_NEEDED = frozenset({"mean", "std"})
"""Keys that must be given where no publication is known; the others, where known publications differ in them."""
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class RequestedPreprocessing:
    """Options of the command line; None leaves a choice to the publication."""

    mean: Triple | None = None
    """Mean of the channels in 0..255, in the order in which the network sees them."""
    std: Triple | None = None
    """Standard deviation of the channels, in the same order."""
    divide: float | None = None
    """Divisor of images after mean and std."""
    order: Literal["rgb", "bgr"] | None = None
    """Order of the channels that the network sees."""

    def keys(self) -> set[str]:
        """Return the keys of `InputConfig` that were given."""
        return {key for key in FLAGS if getattr(self, key) is not None}


def known_preprocessing(loaded: LoadedCheckpoint) -> Preprocessing | None:
    """Return what the checkpoint's publication says of its images; None where it is not known here."""
    return loaded.key_map.preprocessing_of(loaded.network.num_classes)


def with_preprocessing(file: Path, requested: RequestedPreprocessing, loaded: LoadedCheckpoint) -> NetworkConfig:
    """Return the configuration of a checkpoint's network with what it expects of images.

    Raises:
        UsageError: if that is not known, and was not given.
    """
    config = loaded.config
    expected = known_preprocessing(loaded) or _common_preprocessing(file, requested, loaded)
    images = expected.images if config.input is None else config.input.over(expected.images)
    align_corners = expected.align_corners if config.align_corners is None else config.align_corners
    return resolve(
        config.model_copy(update={"input": _with_requested(images, requested), "align_corners": align_corners})
    )


def _with_requested(images: InputConfig, requested: RequestedPreprocessing) -> InputConfig:
    """Return a configuration of images with what was given in the place of what was known."""
    order = requested.order or images.order
    values: dict[str, Any] = images.model_dump() | {"order": order}
    # Configurations have mean and std in red, green, blue whatever the order; people copy them as their code has them.
    for key in ("mean", "std"):
        channels = getattr(requested, key)
        if channels is not None:
            values[key] = _in_order(channels, order)
    if requested.divide is not None:
        values["divide"] = requested.divide
    return validated(InputConfig, values, "--mean, --std or --divide")


def _common_preprocessing(file: Path, requested: RequestedPreprocessing, loaded: LoadedCheckpoint) -> Preprocessing:
    """Return what all published checkpoints of the key map have in common, for one of which the rest was given.

    Where none is known, images are RGB and nothing else divides them, unless given otherwise.

    Raises:
        UsageError: if it was not given, with the flags and what is known of this network.
    """
    publications = loaded.key_map.known()
    given_keys = requested.keys()
    if loaded.config.input is not None:
        given_keys |= loaded.config.input.model_fields_set
    missing_flags = []
    for key, flag in FLAGS.items():
        distinct_values = {getattr(publication.images, key) for publication in publications}
        is_needed = key in ALWAYS_NEEDED or len(distinct_values) > 1
        if is_needed and key not in given_keys:
            missing_flags.append(flag)
    if missing_flags:
        raise UsageError(
            f"{file}: the statistics of its images are not known. No published checkpoint that is known here has "
            f"{loaded.network.num_classes} outputs and the tensor names of {loaded.key_map.source}.",
            f"Give {' '.join(missing_flags)}, of channels in 0..255 in the order in which the network sees them. "
            f"Checkpoints of this architecture expect, as flags of import-weights:\n{_known_flags(loaded.config)}",
        )
    # Without a publication, mean and std were given, and the others have a value that changes nothing.
    if not publications:
        return Preprocessing("none", IMAGENET)
    # Where publications differ in it, no flag is asked for, but a hint tells of the choice.
    align_corners = all(publication.align_corners for publication in publications)
    return Preprocessing("several", publications[0].images, align_corners)


def _known_flags(config: NetworkConfig) -> str:
    """Return a line of flags for each way in which published checkpoints of an architecture expect images."""
    publications = []
    for key_map in key_maps_of(config.network):
        publications += key_map.known()
    publications.append(Preprocessing("ImageNet's statistics, the default of our own", IMAGENET))
    return "\n".join(f"  {publication.publication}: {_flags_of(publication)}" for publication in publications)


def _flags_of(expected: Preprocessing) -> str:
    """Return the flags of `import-weights` that give these expectations."""
    images = expected.images
    mean = channels_text(images.mean, images.order, separator=",")
    std = channels_text(images.std, images.order, separator=",")
    flags = f"--{images.order} --mean {mean} --std {std}"
    if images.divide != 1:
        flags += f" --divide {images.divide:g}"
    if expected.align_corners:
        flags += " --set align_corners=true"
    return flags


def channels_text(values: Triple, order: str, *, separator: str) -> str:
    """Return numbers of red, green and blue in the order in which the network sees the channels."""
    return separator.join(f"{value:.12g}" for value in _in_order(values, order))


def _in_order(values: Triple, order: str) -> Triple:
    """Return numbers of red, green and blue in another order of channels, or the reverse."""
    first, second, third = values
    return (third, second, first) if order == "bgr" else values
