"""Classes without a pixel: when that is worth a warning, and when it shows that labels do not mean what was declared.

This is the one place that says when absent classes stop a run:

- A split for training or validation without one labeled pixel teaches or scores nothing.
- A training split with a single class teaches nothing: every network is right at once.
- A class of one's own data that no training label has: a wrong id, a white mask (255 is void unless said otherwise), a
  list that was copied. `absent` in the data.toml says that it is meant, as for a class that only a teacher teaches.

Any other absent class is a warning: rare classes are absent from small parts of public data sets.
"""

import json
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from segdistill.data.base import DataSource
from segdistill.data.duplicates import HELD_OUT
from segdistill.data.label_ids import IdCounts
from segdistill.data.report import SplitReport
from segdistill.errors import DataError
from segdistill.wording import MAX_LISTED, listed

LOOK_ADVICE = "`segdistill data check` shows what was read with --preview look.png."


def absent_class_warnings(classes: Sequence[str], splits: Mapping[str, SplitReport]) -> Iterator[str]:
    """Yield a sentence for each split that lacks classes, with what follows; an unlabeled split lacks none."""
    taught = _pixels_of_training_splits(len(classes), splits)
    for split, report in splits.items():
        absent = _names_where(classes, report.pixels == 0)
        if not absent or not report.pixels.any():
            continue
        sentence = f"Classes without a pixel in the {split} split ({len(absent)}): {listed(absent)}."
        if split in HELD_OUT:
            sentence += f" An mIoU over the {split} split leaves them out, unless they are predicted."
        else:
            sentence += _untaught_consequence(classes, taught, splits.get("val"))
        yield sentence


def _pixels_of_training_splits(class_count: int, splits: Mapping[str, SplitReport]) -> npt.NDArray[np.int64]:
    """Return the pixels (C,) of each class in all splits that are trained on."""
    pixels = np.zeros(class_count, np.int64)
    for split, report in splits.items():
        if split not in HELD_OUT:
            pixels += report.pixels
    return pixels


def _untaught_consequence(classes: Sequence[str], taught: npt.NDArray[np.int64], val: SplitReport | None) -> str:
    """Return what follows for classes that no training split has, as a sentence behind another one."""
    is_untaught = taught == 0
    if val is not None:
        missed = _names_where(classes, is_untaught & (val.pixels > 0))
        if missed:
            return f" No label teaches {listed(missed)}, which the val split has: expect an IoU of 0 there."
    if is_untaught.any():
        return " No label teaches them: they can be learned from a teacher alone."
    return ""


def impossible_classes(source: DataSource, splits: Mapping[str, SplitReport]) -> DataError | None:
    """Return an error where the pixels of the classes show that labels do not mean what was declared; else None."""
    for split in ("train", "val"):
        if split in splits and split not in source.unlabeled and not splits[split].pixels.any():
            return DataError(
                f"Not one pixel of the {split} split has a class: all are void.",
                _way_out(source, splits[split].ids, source.classes),
            )
    if "train" not in splits or "train" in source.unlabeled:
        return None
    train = splits["train"]
    absent = _names_where(source.classes, train.pixels == 0)
    if len(absent) == len(source.classes) - 1:
        (present,) = set(source.classes) - set(absent)
        return DataError(
            f"All labeled pixels of the train split are {present!r}. Classes without a pixel: {listed(absent)}.",
            _way_out(source, train.ids, absent),
        )
    missing = [name for name in absent if name in source.expected]
    if missing:
        entry = json.dumps(missing, ensure_ascii=False)
        return DataError(
            f"Classes without a pixel in the train split ({len(missing)}): {listed(missing)}.",
            f"{_way_out(source, train.ids, missing)}\n"
            f"If they are meant to be missing, say so above the tables there: absent = {entry}",
        )
    return None


def _way_out(source: DataSource, ids: IdCounts, absent: Sequence[str]) -> str:
    """Return what to do about classes that have no pixels: an ignored id may be one of them."""
    if not ids.ignored:
        return LOOK_ADVICE
    ((ignored_id, pixels),) = ids.ignored.most_common(1)
    found = f"{pixels:,} pixels have the id {ignored_id}, which means ignore in {source.name}: they count nowhere."
    if not source.ignores_by_default:
        return f"{found} Data with other ids is described by a data.toml.\n{LOOK_ADVICE}"
    # The whole table, ready to be copied: with [ids], those ids count that are in it, and no others.
    names = {id_: source.classes[index] for id_, index in sorted(ids.classes.items())[:MAX_LISTED]}
    names[ignored_id] = absent[0]
    lines = [f'{id_} = "{name}"' for id_, name in names.items()]
    return f"{found} If it is a class, say so in the data.toml:\n[ids]\n" + "\n".join(lines)


def _names_where(classes: Sequence[str], mask: npt.NDArray[np.bool_]) -> list[str]:
    """Return the names of the classes where a mask (C,) is true."""
    return [name for name, is_meant in zip(classes, mask.tolist(), strict=True) if is_meant]
