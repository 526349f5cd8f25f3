"""Networks of Hugging Face's transformers, hf:FOLDER or hf:ID, the extra `segdistill[hf]`.

The weights are safetensors, or pickles that hold nothing but tensors; code that a checkpoint brings along never runs.
The net is asked only for an id that is not a folder.
"""

import hashlib
import json
import logging
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segdistill.autocast import no_autocast
from segdistill.checkpoint import weights_digest
from segdistill.config import InputConfig, Size, validated
from segdistill.errors import ModelError, UsageError, out_of_memory
from segdistill.foreign._base import Loaded, normalised_by, numbered, tried, watched
from segdistill.networks import SegNetwork
from segdistill.telemetry import switched_off
from segdistill.types import SegOutput

WHERE = "FOLDER or hf:ID"
PASSING = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")
"""Keys of a configuration that say nothing of the network that is loaded."""


class Transformers(SegNetwork):
    """A model of transformers, read by what its kind returns."""

    def __init__(self, model: nn.Module, num_classes: int, read: Callable[[Any, Tensor], SegOutput]) -> None:
        super().__init__(num_classes)
        self.model = model
        self.read = read

    def segment(self, image: Tensor) -> SegOutput:
        """Segment normalised images."""
        return self.read(self.model, image)


def _segformer(model: Any, image: Tensor) -> SegOutput:
    return _by_head(model, model.segformer(image, output_hidden_states=True).hidden_states)


def _upernet(model: Any, image: Tensor) -> SegOutput:
    return _by_head(model, model.backbone(image).feature_maps)


def _by_head(model: Any, maps: tuple[Tensor, ...]) -> SegOutput:
    """Return logits at the head's own stride; the features are the encoder's, then what feeds the classifier."""
    with watched([model.decode_head.classifier], inputs=True) as last:
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


KINDS: dict[str, tuple[str, Callable[[Any, Tensor], SegOutput]]] = {
    "segformer": ("SegformerForSemanticSegmentation", _segformer),
    "upernet": ("UperNetForSemanticSegmentation", _upernet),
    "mask2former": ("Mask2FormerForUniversalSegmentation", _mask2former),
}
"""By `model_type` of a checkpoint's config.json: transformers' class, and how it is read."""


def load(where: str, wanted: InputConfig | None, device: torch.device) -> Loaded:
    """Load a checkpoint, strictly."""
    if find_spec("transformers") is None:
        raise UsageError(
            f"hf:{where} needs transformers, which is not installed.", "Install it: pip install 'segdistill[hf]'"
        )
    if not Path(where).is_dir() and not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", where):
        raise UsageError(f"There is no folder {where!r}.", "hf: takes a folder with config.json, or an id, OWNER/NAME.")
    with switched_off():
        import transformers  # late: it is an extra, and takes seconds

    transformers.logging.set_verbosity_error()  # what its loading has to say is said below, by name
    transformers.logging.disable_progress_bar()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it tells of every new attempt
    config = _asked(transformers.AutoConfig, where)
    if config.model_type not in KINDS:
        raise UsageError(
            f"hf:{where} is a {config.model_type}.",
            f"Known are {', '.join(KINDS)}. Any other network can teach through a function: py:MODULE:FUNCTION.",
        )
    kind, read = KINDS[config.model_type]
    options = {"config": config, "dtype": torch.float32, "weights_only": True, "ignore_mismatched_sizes": True}
    model, told = _asked(getattr(transformers, kind), where, output_loading_info=True, **options)
    _check_complete(where, kind, told)
    model.auxiliary_head = None  # UperNet's, for training
    network = Transformers(model, config.num_labels, read)
    images, size, notes = _preprocessing(where)
    notes += normalised_by(network, wanted, images)
    if told["unexpected_keys"]:
        notes += (f"it does without {_listed(told['unexpected_keys'])} of the checkpoint.",)
    outputs = tried(network, f"hf:{where}").logits.shape[1]
    names = [str(config.id2label.get(index, "")) for index in range(outputs)]
    unnamed = names == [f"LABEL_{index}" for index in range(outputs)]
    classes = numbered(outputs) if unnamed else tuple(names)
    name, sha256 = Path(where).resolve().name, weights_digest(model.state_dict())
    return Loaded(network, name, classes, sha256, size, details={"configuration": _settings(config)}, notes=notes)


def _settings(config: Any) -> str:
    """Return a sha256 of a checkpoint's configuration, without where it lies and who wrote it."""
    table = {key: value for key, value in config.to_dict().items() if key not in PASSING}
    return hashlib.sha256(json.dumps(table, sort_keys=True, default=str).encode()).hexdigest()


def _asked(kind: Any, where: str, **options: Any) -> Any:
    """Return what a class of transformers loads from a folder or an id."""
    local = Path(where).is_dir()
    try:
        with switched_off():
            return kind.from_pretrained(where, local_files_only=local, trust_remote_code=False, **options)
    except Exception as error:  # transformers, its hub's client and the formats below have none in common
        if out_of_memory(error):
            raise
        if "weights_only" in str(error):  # torch's own text advises to run the code
            raise ModelError(
                f"hf:{where} holds more than tensors: reading it would run code. It was not read.",
                "If you trust it, load it with transformers and write it anew: model.save_pretrained(FOLDER).",
            ) from None
        reason = str(error).strip().partition("\n")[0]
        what = f"hf:{where} cannot be loaded ({type(error).__name__}): {reason}"
        if local:
            raise ModelError(what, "Expected is a folder as save_pretrained writes it.") from None
        raise UsageError(
            what, "There is no such folder either. Give the folder of a checkpoint, or an id that can be downloaded."
        ) from None


def _check_complete(where: str, kind: str, told: dict[str, Any]) -> None:
    """Refuse a checkpoint that leaves tensors of the network as they were drawn."""
    wrong = {
        "missing": [*told["missing_keys"]],
        "misshaped": [key if isinstance(key, str) else key[0] for key in told["mismatched_keys"]],
    }
    if any(wrong.values()):
        found = "; ".join(f"{len(names)} tensors {how}, {_listed(names)}" for how, names in wrong.items() if names)
        raise ModelError(
            f"hf:{where} does not hold a whole {kind}: {found}.",
            "Give a checkpoint that was trained for segmentation, its head included.",
        )


def _preprocessing(where: str) -> tuple[InputConfig | None, Size | None, tuple[str, ...]]:
    """Return how a checkpoint's own preprocessing normalises images, and to which size it brings them."""
    import transformers

    if Path(where).is_dir() and not Path(where, "preprocessor_config.json").is_file():
        return None, None, ("it has no preprocessor_config.json.",)
    own: Any = _asked(transformers.AutoImageProcessor, where)
    factor = own.rescale_factor if own.do_rescale else 1.0
    mean, std = (own.image_mean, own.image_std) if own.do_normalize else ([0.0] * 3, [1.0] * 3)
    told = {"mean": [round(value / factor, 6) for value in mean], "std": [round(value / factor, 6) for value in std]}
    images = validated(InputConfig, told, f"the preprocessing of hf:{where}")
    size = dict(own.size) if own.do_resize and own.size else {}
    if size.get("height") and size.get("width"):
        return images, (size["height"], size["width"]), ()
    if size:
        sides = ", ".join(f"{side} {length}" for side, length in size.items() if length)
        return (
            images,
            None,
            (f"its preprocessing brings images to {sides}; here they keep their proportions and size.",),
        )
    return images, None, ()


def _listed(names: list[str]) -> str:
    first = ", ".join(sorted(names)[:5])
    return f"{first}, ..." if len(names) > 5 else first
