"""What was made of a published checkpoint, in words."""

from segdistill.checkpoints.key_maps import Preprocessing
from segdistill.checkpoints.model_file import ModelInfo
from segdistill.commands._import_preprocessing import channels_text, known_preprocessing
from segdistill.commands._import_tensors import LoadedCheckpoint
from segdistill.config.schema import InputConfig, NetworkConfig
from segdistill.networks import count_parameters
from segdistill.runtime.reporter import Rows
from segdistill.storage.weights import BATCH_COUNTER
from segdistill.wording import counted

CHOICES = ("stem", "dilation", "stem_pool", "head_width", "head_slope", "aspp", "skip", "conv_last", "classifier_bias")
"""Choices about a network that a checkpoint, its publication or the user makes."""


def report_rows(loaded: LoadedCheckpoint, info: ModelInfo) -> Rows:
    """Return names and values of a banner.

    Args:
        loaded: the checkpoint as it was read.
        info: the header that is going to be written.
    """
    expected = known_preprocessing(loaded)
    rows = [
        ("layout", loaded.key_map.source),
        ("network", _network_text(loaded, info.network)),
        ("outputs", _outputs_text(info)),
        ("images", _images_text(info, expected)),
        ("logits", f"enlarged with {'corners' if info.network.align_corners else 'areas'} aligned"),
        ("used", counted(loaded.used, "tensor")),
        ("filled in", _filled_text(loaded)),
    ]
    rows += [("converted", text) for text in loaded.converted]
    rows += [("left out", text) for text in loaded.left_out or ("nothing",)]
    rows += [("hint", text) for text in _hints(loaded, info, expected)]
    return rows


def _network_text(loaded: LoadedCheckpoint, config: NetworkConfig) -> str:
    parts = [f"{count_parameters(loaded.network) / 1e6:.3f} M parameters"]
    for choice in CHOICES:
        value = getattr(config, choice)
        if value is not None:
            parts.append(f"{choice} = {value}")
    return ", ".join(parts)


def _outputs_text(info: ModelInfo) -> str:
    text = counted(len(info.classes), "class", "classes")
    if info.void_output is not None:
        text += f" and void, which is output {info.void_output}"
    return text


def _images_text(info: ModelInfo, expected: Preprocessing | None) -> str:
    images = info.network.input
    assert images is not None, "the configuration is resolved"
    mean = channels_text(images.mean, images.order, separator=" ")
    std = channels_text(images.std, images.order, separator=" ")
    text = f"{images.order.upper()}, mean {mean}, std {std}"
    # A divisor of 1 is what almost all networks have.
    if images.divide != 1:
        text += f", then divided by {images.divide:g}"
    size = "their own size" if info.size is None else f"{info.size[0]}x{info.size[1]}"
    return f"{text}; {_source_text(images, expected)}; at {size}"


def _source_text(images: InputConfig, expected: Preprocessing | None) -> str:
    if expected is None or images != expected.images:
        return "as given"
    return f"as {expected.publication}"


def _filled_text(loaded: LoadedCheckpoint) -> str:
    if not loaded.filled:
        return "nothing"
    return f"{loaded.filled} *.{BATCH_COUNTER} with 0: old checkpoints lack them"


def _hints(loaded: LoadedCheckpoint, info: ModelInfo, expected: Preprocessing | None) -> list[str]:
    """Return what differs from the way in which a publication's scores were taken, in words."""
    if expected is None:
        return _hints_without_publication(loaded)
    hints = []
    if expected.void_output is not None and info.void_output is None:
        void = expected.void_output
        hints.append(f"output {void} is void in what {expected.publication}, publish: --void-output {void}")
    if expected.scored_at and info.size is None:
        hints.append(f"published scores are of images at {expected.scored_at}: give it as --size if yours are larger")
    return hints


def _hints_without_publication(loaded: LoadedCheckpoint) -> list[str]:
    # How maps are enlarged changes scores a little, and no tensor tells it.
    alignments = {publication.align_corners for publication in loaded.key_map.known()}
    if loaded.config.align_corners is None and len(alignments) > 1:
        return ["some publications of this network align corners, which no tensor tells: --set align_corners=true"]
    return []
