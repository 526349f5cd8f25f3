"""The kinds of knowledge a preset can list under [terms.NAME]: one file each, found by its name.

Other packages can add to them, by an entry point of the group segdistill.terms.

A term's module has `Options`, the table's own keys, and `build(options, context)`, which returns the `Term`. One whose
options are `LayerOptions` compares feature maps: it receives the networks' outputs up to the map that it compares. One
that has something trained beforehand has a key for that, whose value is a `StageSettings`. One that compares nothing in
images without labels says so by `NEEDS_LABELS = True` in its module; one whose gradient should be another multiple of
cross entropy's than 1 where terms are balanced, by a number GRADIENT_RATIO.
"""

from typing import Any, NamedTuple

from segdistill.config.checking import validated
from segdistill.config.registry import load
from segdistill.config.schema import RunConfig, TermConfig
from segdistill.errors import UsageError
from segdistill.terms._context import TermContext
from segdistill.terms._layers import PROBE_SIDE, LayerOptions, LayerPair, dry_output
from segdistill.terms._masks import labeled_mask_at, valid_mask_at
from segdistill.terms._needs import TermNeeds, needs_of
from segdistill.types import StageSettings, Term

__all__ = [
    "PROBE_SIDE",
    "LayerOptions",
    "TermContext",
    "Weighted",
    "build_terms",
    "cap_stages",
    "check_terms",
    "dry_output",
    "gradient_ratios",
    "labeled_mask_at",
    "needs_pretraining",
    "stage_tables",
    "term_needs",
    "valid_mask_at",
]

GRADIENT_RATIO = 1.0
"""Norm of a balanced term's gradient, in multiples of cross entropy's: with the weights of `canonical` on CamVid, and a
trained teacher, both terms and cross entropy have norms of 7 to 8."""


class Weighted(NamedTuple):
    """A term and its weight in the loss."""

    weight: float
    term: Term
    layers: LayerPair | None = None
    """Feature maps that it receives as the last ones of the two outputs; None of a term that has no use for them."""


def check_terms(terms: dict[str, TermConfig]) -> dict[str, dict[str, Any]]:
    """Check every term's name and table, before anything is built; return the tables with all of their keys.

    Raises:
        UsageError: an unknown term or key, with the nearest names.
    """
    tables = {}
    for name, config in terms.items():
        _, options = _module_and_options(name, config)
        table = config.model_dump(mode="json", exclude_none=True)
        tables[name] = table | options.model_dump(mode="json", exclude_none=True)
    return tables


def cap_stages(config: RunConfig, steps: int | None) -> RunConfig:
    """Return a configuration in which nothing is trained for more than `steps`; the schedules end there.

    That is its own trainings and the stages of its terms, which are known by the type of their settings.

    Raises:
        UsageError: as `check_terms`.
    """
    if steps is None:
        return config
    stages = stage_tables(config)
    capped = {f"terms.{name}.{key}.steps": min(settings.steps, steps) for (name, key), settings in stages.items()}
    return config.capped(steps).changed(**capped)


def stage_tables(config: RunConfig) -> dict[tuple[str, str], StageSettings]:
    """Return the tables of what terms have trained beforehand, by the term's name and the table's.

    Raises:
        UsageError: as `check_terms`.
    """
    tables: dict[tuple[str, str], StageSettings] = {}
    for name, term_config in config.terms.items():
        _, options = _module_and_options(name, term_config)
        tables |= {(name, key): settings for key, settings in options if isinstance(settings, StageSettings)}
    return tables


def gradient_ratios(terms: dict[str, TermConfig]) -> dict[str, float]:
    """Return the `gradient_ratio` that each term has where terms are balanced: its module's GRADIENT_RATIO, else 1."""
    modules = {name: _module_and_options(name, config)[0] for name, config in terms.items()}
    return {name: float(getattr(module, "GRADIENT_RATIO", GRADIENT_RATIO)) for name, module in modules.items()}


def build_terms(terms: dict[str, TermConfig], context: TermContext) -> dict[str, Weighted]:
    """Build the terms that weigh something. A weight of 0 leaves a term out: it costs nothing and changes nothing.

    Raises:
        UsageError: a term that does not know its options, or cannot compare these two networks, by its name.
    """
    built = {}
    for name, config in terms.items():
        module, options = _module_and_options(name, config)
        if config.weight == 0:
            continue  # its table has been checked all the same
        try:
            layers = _compared_layers(options, context)
            term = module.build(options, context)
            if not isinstance(term, Term):
                raise UsageError(f"`build` returns {type(term).__name__}, not a Term.", "Update its package.")
            built[name] = Weighted(config.weight, term, layers)
        except UsageError as error:
            raise UsageError(f"[terms.{name}] {error.what}", error.fix) from None
    return built


def term_needs(terms: dict[str, TermConfig]) -> dict[str, TermNeeds]:
    """Return what each term needs to compare anything, by its name."""
    return {name: needs_of(*_module_and_options(name, config)) for name, config in terms.items()}


def needs_pretraining(term: Term) -> bool:
    """Whether a term has something trained before the student."""
    # By its class: to ask for the stages is to begin the first one.
    return type(term).pretraining_stages is not Term.pretraining_stages


def _module_and_options(name: str, config: TermConfig) -> tuple[Any, Any]:
    """Return a term's module and its table, checked."""
    module = load("terms", config.term or name, "term")
    return module, validated(module.Options, config.options(), f"[terms.{name}]")


def _compared_layers(options: Any, context: TermContext) -> LayerPair | None:
    if isinstance(options, LayerOptions) and options.compares_features:
        return context.layers(options)
    return None
