"""The terms of a preset that have something to compare: others are left out, with a word, before anything is built."""

from segdistill.commands._context import RunContext
from segdistill.config.schema import RunConfig
from segdistill.data import AUXILIARY, DataSource
from segdistill.errors import UsageError
from segdistill.networks import SegNetwork
from segdistill.teachers.selective import Following
from segdistill.terms import PROBE_SIDE, dry_output, term_needs
from segdistill.wording import listed


def without_unusable_terms(context: RunContext, teacher: SegNetwork | None) -> RunContext:
    """Return the context without the terms that have nothing to compare: their weights are 0.

    These are terms on feature maps of a teacher that shows none, terms that need labels where there are none, and terms
    on logits where the teacher's classes are to be learned instead of its probabilities.

    Args:
        context: of a distillation.
        teacher: the network that teaches; None of one that is trained first, which is ours and shows its maps.

    Raises:
        UsageError: if nothing is left to learn from.
    """
    config = context.config
    needs = {name: need for name, need in term_needs(config.terms).items() if config.terms[name].weight > 0}
    following = Following.of(config.teacher)
    left_out: dict[str, str] = {}
    shows_maps = teacher is None or (any(need.maps for need in needs.values()) and _shows_maps(teacher))
    has_labels = "train" not in context.data.unlabeled or following.labels_images
    for name, need in needs.items():
        if need.maps and not shows_maps:
            left_out[name] = "compares feature maps, and this teacher shows none but its logits"
        elif need.labels and not has_labels:
            left_out[name] = "needs labels, and there are none"
        elif not need.maps and following.targets == "hard":
            left_out[name] = "compares probabilities, and teacher.targets = hard takes the teacher's classes alone"
    for name, reason in left_out.items():
        context.reporter.info(f"Term {name} is left out: it {reason}.")
    is_labeling = following.labels_images and _has_images_without_labels(context.data)
    # With labels, a student whose terms all have weight 0 is its own baseline: a control that people run.
    is_control = not needs and has_labels
    if needs.keys() == left_out.keys() and not is_labeling and not is_control:
        raise _nothing_left(config, left_out)
    weights = {f"terms.{name}.weight": 0.0 for name in left_out}
    return context.with_config(config.changed(**weights))


def _has_images_without_labels(data: DataSource) -> bool:
    return "train" in data.unlabeled or AUXILIARY in data.splits


def _nothing_left(config: RunConfig, left_out: dict[str, str]) -> UsageError:
    if config.teacher.targets == "hard":
        return UsageError(
            "teacher.targets = hard has the teacher label images without labels, and there are none: nothing is "
            "learned from the teacher.",
            "Add --unlabeled DIR, or leave teacher.targets out.",
        )
    if not left_out:
        return UsageError(
            f"Preset {config.preset} has no term with a weight: nothing is learned from the teacher.",
            "Give a preset with terms, such as canonical, or --set teacher.targets=hard.",
        )
    reasons = "; ".join(f"{name} {reason}" for name, reason in left_out.items())
    return UsageError(
        f"Preset {config.preset} has no term left ({listed(sorted(left_out))}): {reasons}.",
        "Give a preset with terms on logits, such as canonical or skd, or --set teacher.targets=hard.",
    )


def _shows_maps(network: SegNetwork) -> bool:
    """Whether a network returns feature maps beside its logits, found by asking it for those of a small image."""
    mean = network.get_buffer("mean")
    image = mean.new_zeros(1, mean.shape[1], PROBE_SIDE, PROBE_SIDE)
    return bool(dry_output(network, image).features)
