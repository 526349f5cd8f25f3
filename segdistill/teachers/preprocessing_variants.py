"""Other ways to prepare the same images, which checkpoints are known for: a teacher may have been trained in one."""

from collections.abc import Iterator

from segdistill.config.schema import InputConfig


def preprocessing_variants(images: InputConfig) -> Iterator[tuple[str, InputConfig]]:
    """Yield other ways to prepare images than this one, each with words that follow "images"."""
    other_order = "bgr" if images.order == "rgb" else "rgb"
    yield "whose red and blue are exchanged", images.model_copy(update={"order": other_order})
    yield from _normalizations(images)
    for words, variant in _normalizations(images.model_copy(update={"order": other_order})):
        yield f"{words}, red and blue exchanged", variant


def _normalizations(images: InputConfig) -> Iterator[tuple[str, InputConfig]]:
    """Yield other normalizations of images in the same order of colors."""
    order = images.order
    zero, one, half = (0.0,) * 3, (1.0,) * 3, (127.5,) * 3
    # ImageNet's statistics are the defaults of `InputConfig`.
    variants = {
        "normalized as ImageNet's": InputConfig(order=order),
        "normalized to -1..1": InputConfig(mean=half, std=half, order=order),
        "in 0..1, not normalized": InputConfig(mean=zero, std=one, divide=255, order=order),
        "in 0..255, not normalized": InputConfig(mean=zero, std=one, order=order),
        "less ImageNet's mean": InputConfig(std=one, order=order),
    }
    for words, variant in variants.items():
        if variant != images:  # with both colors exchanged, all of them are other ways
            yield words, variant
