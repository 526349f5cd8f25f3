"""From logits to class ids and scores, in memory that has a bound.

The upsampled logits are the largest tensors of all: 3 GB for one image of 20 megapixels and 40 classes. So they exist
for some classes and some rows at a time, and of each pixel only the best class stays.
"""

from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from segdistill.evaluation.metrics import Scores
from segdistill.runtime.distributed import all_gather_object, all_reduce_sum
from segdistill.types import Batch

MAX_PIXELS_PER_CHUNK = 2048 * 1024
"""Pixels of an image whose logits are upsampled in one piece: a frame of Cityscapes."""
MAX_LOGITS_BYTES = 4 * 19 * MAX_PIXELS_PER_CHUNK
"""Bytes of logits in float32 that are computed or upsampled at once, unless those of one image or one class are more:
160 MB, the 19 classes of a frame of Cityscapes."""


@torch.no_grad()
def evaluate(
    predict: Callable[[Tensor], Tensor],
    batches: Iterable[Batch],
    num_classes: int,
    on_batch: Callable[[int], None] | None = None,
) -> Scores:
    """Score predictions at the labels' own size over a whole data set, by one confusion matrix.

    Args:
        predict: images (B, 3, h, w) in 0..255 to logits (B, C, h', w'), or C + 1 where the last stands for none of the
            classes: a network or an exported graph.
        batches: labels may be of another size than the images; the logits are brought to theirs.
        num_classes: C.
        on_batch: called with the number of images done.
    """
    scores = Scores.empty(num_classes)
    for batch in batches:
        prediction = predict_labels(predict, batch.image, batch.label.shape[-2:])
        scores += Scores.of(prediction, batch.label, num_classes)
        if on_batch is not None:
            on_batch(len(batch.label))
    return scores


def predict_labels(
    predict: Callable[[Tensor], Tensor], image: Tensor, size: Iterable[int], max_pixels: int = MAX_PIXELS_PER_CHUNK
) -> Tensor:
    """Return class ids (B, H, W) at `size`, on the CPU.

    Args:
        predict: the network.
        image: (B, 3, h, w).
        size: (H, W).
        max_pixels: pixels of an image whose logits are upsampled at once; more are upsampled in bands of rows. As many
            classes are upsampled together as have `MAX_LOGITS_BYTES`, which changes no bit.
    """
    height, width = size
    # Image by image: the ids of one depend on no other, and memory not on how many there are.
    return torch.stack([_class_ids(logits, (height, width), max_pixels) for logits in predict(image)])


def pixels_at_once(num_classes: int) -> int:
    """Return the pixels, over all images of a batch, whose logits have `MAX_LOGITS_BYTES`."""
    return MAX_LOGITS_BYTES // (4 * num_classes)


def gather_scores(scores: Scores, device: torch.device) -> Scores:
    """Add the scores of all processes, of which process `rank` of `world` saw every `world`-th image."""
    images = int(all_reduce_sum(torch.tensor(scores.images, device=device)))
    # Stacked, as each of them alone would be sent with its whole batch, of which it is a view.
    per_image = torch.stack(scores.per_image) if scores.per_image else None
    parts = all_gather_object(per_image)
    in_order = tuple(parts[i % len(parts)][i // len(parts)] for i in range(images))
    return Scores(all_reduce_sum(scores.pixels.to(device)).cpu(), images, in_order)


def _class_ids(logits: Tensor, size: tuple[int, int], max_pixels: int) -> Tensor:
    """Return class ids (H, W) at `size`, on the CPU, by the logits (C, h, w) of an image."""
    height, width = size
    if logits.shape[-2:] == size:  # of an external graph that upsamples them itself
        return logits.max(dim=0).indices.cpu()
    if height * width <= max_pixels:
        return _argmax(logits, height * width, partial(_upsampled, size=size)).cpu()
    # In bands even where `_argmax` could take few classes at a time: already one class may be too large.
    rows = max(1, max_pixels // width)
    bands = []
    for top in range(0, height, rows):
        band = partial(_upsampled_band, top=top, count=min(rows, height - top), size=size)
        bands.append(_argmax(logits, rows * width, band).cpu())
    return torch.cat(bands)


def _argmax(logits: Tensor, pixels: int, upsample: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the ids of the largest of the upsampled logits, of which no more exist at once than have room.

    Args:
        logits: (C, h, w).
        pixels: of each class once it is upsampled.
        upsample: from the logits of some classes (c, h, w) in float32 to (c, H, W).
    """
    group = max(1, MAX_LOGITS_BYTES // (4 * pixels))
    best, ids = upsample(logits[:group].float()).max(dim=0)
    for start in range(group, len(logits), group):
        value, index = upsample(logits[start : start + group].float()).max(dim=0)
        # As `max` has it for all classes at once: the first NaN, or the first of equals.
        is_first_nan = value.isnan() & ~best.isnan()
        replaces = (value > best) | is_first_nan
        best, ids = torch.where(replaces, value, best), torch.where(replaces, index + start, ids)
    return ids


def _upsampled(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Return logits (c, h, w) at `size`, (c, H, W), in the same bits however many classes there are.

    Each class is an image of its own: PyTorch has other kernels, which round otherwise, for other numbers of channels.
    """
    maps = logits.contiguous().unsqueeze(1)
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False).squeeze(1)


def _upsampled_band(logits: Tensor, top: int, count: int, size: tuple[int, int]) -> Tensor:
    """Return some rows (c, count, W) of logits (c, h, w) that are upsampled to `size`."""
    height, width = size
    # `interpolate` makes whole images only; this is its formula for align_corners=False.
    # The centers of the band's pixels, with the whole going from -1 to 1.
    y = (torch.arange(top, top + count, device=logits.device) + 0.5) * 2 / height - 1
    x = (torch.arange(width, device=logits.device) + 0.5) * 2 / width - 1
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).unsqueeze(0)  # (1, count, W, 2)
    rows = F.grid_sample(logits.unsqueeze(0), grid, mode="bilinear", padding_mode="border", align_corners=False)
    return rows.squeeze(0)
