"""Networks of Hugging Face's transformers, hf:FOLDER or hf:ID, the extra `segdistill[hf]`.

The weights are safetensors, or pickles that hold nothing but tensors; code that a checkpoint brings along never runs.
The net is asked only for an id that is not a folder.
"""

import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from segdistill.checkpoints.tensors import weights_digest
from segdistill.config.checking import validated
from segdistill.config.schema import InputConfig, Size
from segdistill.errors import ModelError, UsageError, out_of_memory
from segdistill.networks import SegNetwork
from segdistill.runtime.autocast import no_autocast
from segdistill.runtime.telemetry import switched_off
from segdistill.teachers.external._base import (
    LoadedTeacher,
    capture_input,
    dry_forward,
    numbered_classes,
    set_normalization,
)
from segdistill.types import SegOutput
from segdistill.wording import counted, listed

LOCATION = "FOLDER or hf:ID"
UNRELATED_KEYS = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")
"""Keys of a configuration that say nothing of the network that is loaded."""
MAX_TENSORS = 5
"""Tensors that a message names."""

Reader = Callable[[Any, Tensor], SegOutput]
"""Returns a `SegOutput` of a model of transformers and normalized images."""


class Preprocessing(NamedTuple):
    """A checkpoint's own preprocessing of images."""

    images: InputConfig | None
    """Their normalization; None where it does not say so."""
    size: Size | None
    """Size that all are brought to; None where they keep their proportions, or it does not say so."""
    notes: tuple[str, ...]
    """Notes for the user."""


class Transformers(SegNetwork):
    """A model of transformers, read by what its kind returns."""

    def __init__(self, model: nn.Module, num_classes: int, read: Reader) -> None:
        super().__init__(num_classes)
        self.model = model
        self.read = read

    def segment(self, image: Tensor) -> SegOutput:
        """Segment normalized images."""
        return self.read(self.model, image)


def _segformer(model: Any, image: Tensor) -> SegOutput:
    return _by_head(model, model.segformer(image, output_hidden_states=True).hidden_states)


def _upernet(model: Any, image: Tensor) -> SegOutput:
    return _by_head(model, model.backbone(image).feature_maps)


def _by_head(model: Any, maps: tuple[Tensor, ...]) -> SegOutput:
    """Return logits at the head's own stride; the features are the encoder's, then what feeds the classifier."""
    with capture_input(model.decode_head.classifier) as last:
        logits = model.decode_head(maps)
    return SegOutput(logits, (*maps, *last), None)


def _mask2former(model: Any, image: Tensor) -> SegOutput:
    """Return the logarithm of each pixel's score of a class: its masks' probabilities, weighted by their classes'.

    As `post_process_semantic_segmentation` of transformers sums them; the chance that a mask shows nothing is dropped.
    The features are the encoder's, then the map from which the masks are read.
    """
    output = model(image, output_hidden_states=True)
    with no_autocast(image):  # bfloat16 would tell few scores apart
        classes = output.class_queries_logits.float().softmax(2)[:, :, :-1]  # (B, Q, C)
        masks = output.masks_queries_logits.float().sigmoid()  # (B, Q, h, w)
        scores = torch.einsum("bqc,bqhw->bchw", classes, masks)
    smallest = torch.finfo(scores.dtype).tiny  # a score of 0 has no logarithm
    maps = (*output.encoder_hidden_states, output.pixel_decoder_last_hidden_state)
    return SegOutput(scores.clamp(min=smallest).log(), maps, None)


KINDS: dict[str, tuple[str, Reader]] = {
    "segformer": ("SegformerForSemanticSegmentation", _segformer),
    "upernet": ("UperNetForSemanticSegmentation", _upernet),
    "mask2former": ("Mask2FormerForUniversalSegmentation", _mask2former),
}
"""transformers' class, and how it is read, by the `model_type` of a checkpoint's config.json."""


def load(location: str, wanted: InputConfig | None, device: torch.device) -> LoadedTeacher:
    """Load a checkpoint, strictly."""
    _check_location(location)
    with _quiet_transformers() as transformers:
        return _loaded(transformers, location, wanted)


def _loaded(transformers: Any, location: str, wanted: InputConfig | None) -> LoadedTeacher:
    """Load a checkpoint with transformers."""
    config = from_pretrained(transformers.AutoConfig, location)
    model, reader, notes = _load_model(transformers, config, location)
    network = Transformers(model, config.num_labels, reader)
    preprocessing = _preprocessing(transformers, location)
    notes = (*preprocessing.notes, *set_normalization(network, wanted, preprocessing.images), *notes)
    outputs = dry_forward(network, f"hf:{location}").logits.shape[1]
    return LoadedTeacher(
        network,
        name=Path(location).resolve().name,
        classes=_class_names(config, outputs),
        sha256=weights_digest(model.state_dict()),
        size=preprocessing.size,
        details={"configuration": _configuration_digest(config)},
        notes=notes,
    )


def from_pretrained(kind: Any, location: str, **options: Any) -> Any:
    """Return what a class of transformers loads from a folder or an id."""
    is_local = Path(location).is_dir()
    try:
        with switched_off():
            return kind.from_pretrained(location, local_files_only=is_local, trust_remote_code=False, **options)
    except Exception as error:  # transformers, its hub's client and the formats below have none in common
        if out_of_memory(error):
            raise
        if "weights_only" in str(error):  # torch's own text advises to run the code
            raise ModelError(
                f"hf:{location} holds more than tensors: reading it would run code. It was not read.",
                "If you trust it, load it with transformers and write it anew: model.save_pretrained(FOLDER).",
            ) from None
        reason = str(error).strip().partition("\n")[0]
        problem = f"hf:{location} cannot be loaded ({type(error).__name__}): {reason}"
        if is_local:
            raise ModelError(problem, "Expected: a folder as save_pretrained writes it.") from None
        raise UsageError(
            problem,
            "There is no such folder either. Give the folder of a checkpoint, or an id that can be downloaded.",
        ) from None


def _check_location(location: str) -> None:
    """Refuse what is neither a folder nor may be an id, and a machine without transformers."""
    if find_spec("transformers") is None:
        raise UsageError(
            f"hf:{location} needs transformers, which is not installed.", "Install it: pip install 'segdistill[hf]'"
        )
    is_id = re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", location)
    if not is_id and not Path(location).is_dir():
        raise UsageError(
            f"There is no folder {location!r}.", "hf: takes a folder with config.json, or an id, OWNER/NAME."
        )


@contextmanager
def _quiet_transformers() -> Iterator[Any]:
    """Import transformers, and keep it from talking inside: what its loading has to say is said here, by name."""
    with switched_off():
        import transformers  # late: it is an extra, and takes seconds

    log = transformers.logging
    hub = logging.getLogger("huggingface_hub")
    verbosity, shows_progress, hub_level = log.get_verbosity(), log.is_progress_bar_enabled(), hub.level
    log.set_verbosity_error()
    log.disable_progress_bar()
    hub.setLevel(logging.ERROR)  # it tells of every new attempt
    try:
        yield transformers
    finally:
        log.set_verbosity(verbosity)
        hub.setLevel(hub_level)
        if shows_progress:
            log.enable_progress_bar()


def _load_model(transformers: Any, config: Any, location: str) -> tuple[nn.Module, Reader, tuple[str, ...]]:
    """Load the network of a checkpoint, without its auxiliary head; return how it is read, and notes.

    Raises:
        UsageError: if it is of another kind.
        ModelError: if the checkpoint does not hold all of it.
    """
    if config.model_type not in KINDS:
        raise UsageError(
            f"hf:{location} is a {config.model_type}.",
            f"Known are {', '.join(KINDS)}. Any other network can teach through a function: py:MODULE:FUNCTION.",
        )
    kind, reader = KINDS[config.model_type]
    model, loading_info = from_pretrained(
        getattr(transformers, kind),
        location,
        output_loading_info=True,
        config=config,
        dtype=torch.float32,
        weights_only=True,
        ignore_mismatched_sizes=True,  # they are refused below, by name
    )
    _check_complete(location, kind, loading_info)
    model.auxiliary_head = None  # UperNet's, for training
    unexpected = loading_info["unexpected_keys"]
    notes = (f"it does without {listed(sorted(unexpected), MAX_TENSORS)} of the checkpoint.",) if unexpected else ()
    return model, reader, notes


def _check_complete(location: str, kind: str, loading_info: dict[str, Any]) -> None:
    """Refuse a checkpoint that leaves tensors of the network as they were drawn."""
    mismatched = loading_info["mismatched_keys"]
    problems = {
        "missing": list(loading_info["missing_keys"]),
        # some versions of transformers list the two shapes beside the name
        "misshaped": [key if isinstance(key, str) else key[0] for key in mismatched],
    }
    found = []
    for how, names in problems.items():
        if names:
            found.append(f"{counted(len(names), 'tensor')} {how}, {listed(sorted(names), MAX_TENSORS)}")
    if found:
        raise ModelError(
            f"hf:{location} does not hold a whole {kind}: {'; '.join(found)}.",
            "Give a checkpoint that was trained for segmentation, its head included.",
        )


def _class_names(config: Any, outputs: int) -> tuple[str, ...]:
    """Return the names of the classes; numbers where transformers has put LABEL_0 and so on for want of any."""
    names = tuple(str(config.id2label.get(index, "")) for index in range(outputs))
    unnamed = tuple(f"LABEL_{index}" for index in range(outputs))
    return numbered_classes(outputs) if names == unnamed else names


def _configuration_digest(config: Any) -> str:
    """Return a sha256 of a checkpoint's configuration, without where it lies and who wrote it."""
    table = {key: value for key, value in config.to_dict().items() if key not in UNRELATED_KEYS}
    return hashlib.sha256(json.dumps(table, sort_keys=True, default=str).encode()).hexdigest()


def _preprocessing(transformers: Any, location: str) -> Preprocessing:
    """Return what a checkpoint's own preprocessing does with images."""
    is_folder = Path(location).is_dir()
    if is_folder and not Path(location, "preprocessor_config.json").is_file():
        return Preprocessing(None, None, ("it has no preprocessor_config.json.",))
    processor: Any = from_pretrained(transformers.AutoImageProcessor, location)
    images = _normalization(processor, location)
    size = dict(processor.size) if processor.do_resize and processor.size else {}
    if size.get("height") and size.get("width"):
        return Preprocessing(images, (size["height"], size["width"]), ())
    if not size:
        return Preprocessing(images, None, ())
    sides = ", ".join(f"{side} {length}" for side, length in size.items() if length)
    note = f"its preprocessing brings images to {sides}; here they keep their proportions and size."
    return Preprocessing(images, None, (note,))


def _normalization(processor: Any, location: str) -> InputConfig:
    """Return how a processor normalizes images, for images in 0..255: it brings them to 0..1 first, mostly."""
    factor = processor.rescale_factor if processor.do_rescale else 1.0
    mean, std = [0.0] * 3, [1.0] * 3
    if processor.do_normalize:
        mean, std = processor.image_mean, processor.image_std
    table = {
        # 0.406 / (1 / 255) is 103.53000000000002
        "mean": [round(value / factor, 6) for value in mean],
        "std": [round(value / factor, 6) for value in std],
    }
    return validated(InputConfig, table, f"the preprocessing of hf:{location}")
