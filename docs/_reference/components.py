"""The pages of what a preset can name: terms, networks, and the presets themselves."""

import inspect
import json
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from pydantic.fields import FieldInfo

from _reference.keys import keys_table
from _reference.markdown import listed, paragraph, prose, table
from segdistill.config.presets import load_preset, preset_names
from segdistill.config.registry import components
from segdistill.config.schema import RunConfig
from segdistill.networks import _registry
from segdistill.terms import GRADIENT_RATIO, _autoencoder, _layers

SHOWN_OF_PRESETS = (
    *("teacher.network", "student.network", "teacher.steps", "data.size", "data.crop", "data.batch_size"),
    *("data.scale", "data.color", "optim.lr", "optim.weight_decay", "optim.warmup", "optim.steps", "aux_weight"),
    *("checkpoint.every", "validate.every"),
)
"""What the page on presets shows of each, beside its terms."""


def terms_page() -> str:
    """Return every term with its source and its options."""
    parts = [
        "# Terms\n\nWhat can be listed under `[terms.NAME]` of a preset. Each has `weight`, the factor of its value in "
        "the loss: 0 leaves it out; and `gradient_ratio`, to which the weight is scaled at the start. NAME is the "
        "term's, alone or followed by a hyphen and a word of yours where one term is "
        'listed twice: `[terms.channel-features]`, with `term = "channel"` in it.',
        "## Terms on feature maps\n\n" + paragraph(inspect.getdoc(_layers.LayerOptions) or ""),
        keys_table(_layers.LayerOptions, dict(_layers.LayerOptions.model_fields)),
        "## The auto-encoder of `adaptation` and `affinity`\n\n" + prose(_autoencoder.__doc__ or ""),
        keys_table(_autoencoder.AutoEncoderSettings, dict(_autoencoder.AutoEncoderSettings.model_fields)),
    ]
    for name in components("terms"):
        module = import_module(f"segdistill.terms.{name.replace('-', '_')}")
        fields = dict(module.Options.model_fields)
        common = [key for key, field in _layers.LayerOptions.model_fields.items() if is_as(fields.get(key), field)]
        own = {key: field for key, field in fields.items() if key not in common}
        ratio = getattr(module, "GRADIENT_RATIO", GRADIENT_RATIO)
        balanced = f"Its `gradient_ratio` where terms are [balanced](../presets.md#weights-on-other-data): {ratio:g}."
        parts += [f"## {name}", prose(module.__doc__ or ""), keys_table(module.Options, own), balanced]
        if common:
            parts.append(
                f"{' and '.join(f'`{key}`' for key in common)} as all [terms on feature maps](#terms-on-feature-maps)."
            )
    return "\n\n".join(part for part in parts if part)


def is_as(field: FieldInfo | None, other: FieldInfo) -> bool:
    """Whether a term has a key with another one's default."""
    return field is not None and field.default == other.default


def networks_page() -> str:
    """Return every architecture with its variants, strides, options and source."""
    parts = [
        "# Networks\n\n`segdistill networks` prints them with parameters, multiply-adds and, with `--latency`, the "
        "time that they take on your machine. [Networks](../networks.md) says how to choose.",
        f"Every network has the keys {listed(sorted(_registry.COMMON_OPTIONS - {'network'}))}; [the others]"
        "(configuration.md#student) are those that a table below names.",
    ]
    for name in components("networks"):
        module = import_module(f"segdistill.networks.{name.replace('-', '_')}")
        names = [f"{name}-{variant}" if variant else name for variant in module.BACKBONES]
        rows = [
            ["names", listed(names)],
            [
                "output stride",
                ", ".join(map(str, module.STRIDES)) + (", the first as published" * (len(module.STRIDES) > 1)),
            ],
            ["other keys", listed(module.OPTIONS) or "none"],
        ]
        parts += [f"## {name}", prose(module.__doc__ or ""), table(("", ""), rows)]
    return "\n\n".join(parts)


def presets_page() -> str:
    """Return every preset: its source, its networks and schedule, its terms, and what is other for a data set."""
    parts = [
        "# Presets\n\nWhat each holds, resolved, for its own data set and for those that it has other numbers for. "
        "`segdistill presets show NAME` prints a preset with the source of every number, `--print-config` what a "
        "command would use. [Presets](../presets.md) says how to change one.",
    ]
    for name in preset_names():
        own = load_preset(name)
        variants = {own.data.name: flat_table(own)}
        for data in components("data.datasets"):
            other = flat_table(load_preset(name, data=data))
            if without_name(other) != without_name(variants[own.data.name]):
                variants[data] = other
        terms = dict.fromkeys(key for values in variants.values() for key in values if key.startswith("terms."))
        rows = [
            [f"`{key}`", *(json.dumps(values[key]) if key in values else "" for values in variants.values())]
            for key in (*SHOWN_OF_PRESETS, *terms)
            if any(key in values for values in variants.values())
        ]
        heads = ["key", *(f"`{data}`" for data in variants)]
        parts += [f"## {name}", f"{own.about}. {own.paper}.", table(heads, rows)]
    return "\n\n".join(parts)


def flat_table(config: RunConfig) -> dict[str, Any]:
    """Return a configuration's values by dotted key."""

    def leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
        if not isinstance(value, dict):
            yield path, value
            return
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}" if path else key)

    return dict(leaves(config.to_dict(), ""))


def without_name(values: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration's values but for the name of the data set."""
    return {key: value for key, value in values.items() if key != "data.name"}
