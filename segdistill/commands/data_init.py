"""Describe a folder of images, or an annotation tool's export, by a data.toml."""

import os
import shlex
import tomllib
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segdistill.config.checking import validated
from segdistill.data.base import SPLITS
from segdistill.data.datasets._toml.mistakes import find_mistakes
from segdistill.data.datasets._toml.schema import DataFile
from segdistill.data.datasets._toml.shares import draw_shares
from segdistill.data.discovery import Discovery, discover
from segdistill.data.discovery.class_plan import ClassPlan, plan_classes
from segdistill.data.discovery.content import LabelContent, content_of, read_content
from segdistill.data.discovery.drawn_files import check_drawn_folder, draw_file, drawn_folder, target_names
from segdistill.data.discovery.entries import SplitEntry, Table, write_entry
from segdistill.data.discovery.splits import (
    USUAL_SHARE,
    LabeledImage,
    SplitPlan,
    choose_share,
    classes_in,
    plan_splits,
    spare_pairs,
)
from segdistill.data.discovery.writing import DataFileText, WrittenSplit, data_name, joined, relative_to
from segdistill.errors import DataError, UsageError
from segdistill.runtime import distributed
from segdistill.runtime.reporter import Reporter
from segdistill.storage.atomic import write_atomic
from segdistill.types import IGNORE

BACKGROUND = "background"
DEFAULT_OUT = Path("data.toml")


@dataclass(frozen=True)
class DataInitOptions:
    """The folder that is looked at, and the file that describes it."""

    path: Path
    """Folder of the data, or a file with annotations in it."""
    out: Path = DEFAULT_OUT
    """The data.toml."""
    overwrite: bool = False
    """Replace a data.toml, its lists and its drawn label maps that are there."""


@dataclass(frozen=True)
class DataInit:
    """A data.toml that was written."""

    out: Path
    plan: ClassPlan
    images: dict[str, int]
    """Number of pairs of each split."""
    written: tuple[Path, ...]
    """Lists, and the folder of label maps, that were written beside it."""
    notes: tuple[str, ...]

    @property
    def commands(self) -> tuple[str, ...]:
        """Commands to go on with."""
        data = shlex.quote(str(self.out))
        preview = shlex.quote(str(self.out.with_name("look.png")))
        return (
            f"segdistill data check {data} --preview {preview}",
            f"segdistill distill --teacher pspnet50 --student resnet18 --data {data} --baseline steps --seeds 3",
        )

    def to_json(self) -> dict[str, Any]:
        """Return what `data init --json` prints."""
        return {
            "out": str(self.out),
            "classes": list(self.plan.names),
            "images": self.images,
            "written": [str(path) for path in self.written],
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class _Labeled:
    """The pairs that were found, and what their label maps hold."""

    pairs: tuple[LabeledImage, ...]
    plan: ClassPlan


def init_data(options: DataInitOptions, reporter: Reporter) -> DataInit:
    """Look at a folder, and write the data.toml that describes it.

    Args:
        options: which, and where to.
        reporter: shows the progress.

    Raises:
        UsageError: if there is no such folder, or the file is there or cannot be written.
        DataError: with what was found and what is missing, where no data.toml would be accepted. Nothing is written.
    """
    root = _folder(options.path)
    _check_out(options)
    base = options.out.parent
    drawn = options.out.with_name(f"{options.out.stem}-labels")
    discovery = discover(root, frozenset({Path(os.path.abspath(drawn))}))
    with ExitStack() as stack:
        if discovery.drawn:
            check_drawn_folder(drawn, overwrite=options.overwrite)
            stack.enter_context(drawn_folder(drawn))
            labeled = _draw(discovery, base, drawn, reporter)
        else:
            labeled = _read(discovery, base, reporter)
        place = relative_to(base, root)
        images = [joined(place, image) for image in discovery.images]
        plan = plan_splits(discovery.inventory, base, labeled.pairs, images)
        entries, plan = _entries(base, plan)
        _check_lists(options, entries)
        text = _text(options, data_name(root), labeled, entries)
        lists = _write(options, entries, text)
    notes = (*discovery.notes, *labeled.plan.notes, *plan.notes)
    return DataInit(
        options.out,
        labeled.plan,
        {split: written.images for split, written in text.splits.items()},
        (*([drawn] if discovery.drawn else []), *lists),
        notes,
    )


def _folder(path: Path) -> Path:
    """Return the folder to look at: the path itself, or that of a file with annotations.

    Raises:
        UsageError: if there is none.
    """
    if path.is_dir():
        return path
    if path.suffix.lower() == ".json" and path.is_file():
        return path.parent
    if path.suffix.lower() in (".zip", ".tar", ".gz", ".7z", ".rar"):
        raise UsageError(f"{path} is an archive.", "Unpack it, and give the folder.")
    problem = "is not a folder" if path.exists() else "does not exist"
    raise UsageError(f"{path} {problem}.", "Give the folder of the images and their labels.")


def _check_out(options: DataInitOptions) -> None:
    """Refuse a file that cannot be written, before anything is read.

    Raises:
        UsageError: if it is no .toml, its folder is not there, or it is there already.
    """
    out = options.out
    if out.suffix != ".toml":
        raise UsageError(f"--out {out} does not end in .toml.", "For example --out data.toml")
    if not out.parent.is_dir():
        raise UsageError(f"The folder {out.parent} does not exist.", "Make it, or choose another --out.")
    if os.path.lexists(out) and not options.overwrite:
        raise UsageError(f"{out} exists.", "Give --overwrite to replace it, or another --out.")


def _draw(discovery: Discovery, base: Path, folder: Path, reporter: Reporter) -> _Labeled:
    """Draw the label maps of all images."""
    place, drawn_place = relative_to(base, discovery.inventory.root), relative_to(base, folder)
    names = (BACKGROUND, *discovery.drawn_classes)
    ids = {name: number for number, name in enumerate(names)}
    targets = target_names(discovery.drawn)
    found = []
    with reporter.progress("drawing label maps", len(targets)) as advance:
        for image, target in zip(discovery.drawn, targets, strict=True):
            label = draw_file(folder / target, image, ids)
            held = content_of([label]).ids
            found.append(
                LabeledImage(
                    joined(place, image.image),
                    joined(drawn_place, target),
                    image.split,
                    frozenset(id_ for id_ in held if id_ != IGNORE),
                )
            )
            advance(1, "")
    present = {index for pair in found for index in pair.classes}
    if len(present) < 2:
        held_names = " and ".join(names[index] for index in sorted(present)) or "nothing that counts"
        raise DataError(
            f"The label maps that would be drawn hold {held_names} alone.",
            "Label two classes at least, or some images.",
        )
    return _Labeled(tuple(found), ClassPlan(names, None))


def _read(discovery: Discovery, base: Path, reporter: Reporter) -> _Labeled:
    """Read the label maps that are there."""
    root = discovery.inventory.root
    base_place = relative_to(base, root)
    paths = [root / label.path for _, label in discovery.pairs]
    with reporter.progress("reading label maps", len(paths)) as advance:
        content = read_content(paths, lambda: advance(1, ""), distributed.cores())
    plan = plan_classes(content, discovery.table, discovery.hint)
    found = []
    for place, (image, label) in enumerate(discovery.pairs):
        found.append(
            LabeledImage(
                joined(base_place, image.path),
                joined(base_place, label.path),
                image.words.split or label.words.split,
                _classes(plan, content, place),
            )
        )
    return _Labeled(tuple(found), plan)


def _classes(plan: ClassPlan, content: LabelContent, place: int) -> frozenset[int]:
    """Return the classes in one label map."""
    classes = {plan.class_of.get(value, IGNORE) for value in content.values(place)}
    return frozenset(classes - {IGNORE})


def _entries(base: Path, plan: SplitPlan) -> tuple[dict[str, SplitEntry], SplitPlan]:
    """Return how each split is written, with pairs to validate on.

    Raises:
        DataError: if there is a single pair.
    """
    train = plan.pairs.get("train", ())
    entries = {split: _entry(base, split, plan) for split in SPLITS if split in plan.pairs}
    if "val" in entries:
        return entries, plan
    if len(train) < 2:
        raise DataError(
            f"Labeled images: {len(train)}. Two at least are needed, of which one is validated on.",
            "Label more images.",
        )
    share = choose_share(entries["train"].found, {pair.image: pair.classes for pair in train})
    spared = spare_pairs(train) if share is None else ()
    if not spared:
        entries["val"] = SplitEntry({"share": share or USUAL_SHARE}, entries["train"].found)
        return entries, plan
    held = {pair.image for pair in spared}
    rest = tuple(pair for pair in train if pair.image not in held)
    note = "Images to validate on were chosen such that every class is left to train on."
    plan = SplitPlan({**plan.pairs, "train": rest, "val": spared}, {}, (*plan.notes, note))
    return {split: _entry(base, split, plan) for split in SPLITS if split in plan.pairs}, plan


def _entry(base: Path, split: str, plan: SplitPlan) -> SplitEntry:
    list_file = relative_to(base, plan.lists[split]) if split in plan.lists else None
    return write_entry(base, plan.pairs[split], list_file)


def _list_path(options: DataInitOptions, split: str) -> Path:
    return options.out.with_name(f"{options.out.stem}-{split}.txt")


def _check_lists(options: DataInitOptions, entries: dict[str, SplitEntry]) -> None:
    """Refuse to write over a list.

    Raises:
        UsageError: if one is there.
    """
    for split, entry in entries.items():
        path = _list_path(options, split)
        if entry.rows and os.path.lexists(path) and not options.overwrite:
            raise UsageError(f"{path} exists.", "Give --overwrite to replace it, or another --out.")


def _text(options: DataInitOptions, name: str, labeled: _Labeled, entries: dict[str, SplitEntry]) -> DataFileText:
    """Return what the file says, checked as `data check` checks it."""
    found = {split: entry.found for split, entry in entries.items()}
    share = entries["val"].table.get("share") if "val" in entries else None
    if isinstance(share, float):
        found |= draw_shares(found["train"], {"val": share})
    splits = {}
    for split, entry in entries.items():
        table: Table = {"list": _list_path(options, split).name} if entry.rows else entry.table
        left_out = 0 if entry.table.get("share") else len(entry.found.unlabeled)
        splits[split] = WrittenSplit(table, len(found[split].images), left_out)
    classes = {pair.image: pair.classes for pair in labeled.pairs}
    taught = classes_in(found["train"], classes)
    absent = tuple(class_ for index, class_ in enumerate(labeled.plan.names) if index not in taught)
    text = DataFileText(name, labeled.plan, splits, absent)
    data_file = validated(DataFile, tomllib.loads(text.text(options.out.name)), str(options.out))
    mistakes = list(find_mistakes(data_file))
    assert not mistakes, mistakes
    return text


def _write(options: DataInitOptions, entries: dict[str, SplitEntry], text: DataFileText) -> list[Path]:
    """Write the lists and then the file; return the lists."""
    lists: list[Path] = []
    try:
        for split, entry in entries.items():
            if entry.rows:
                path = _list_path(options, split)
                write_atomic(path, "".join(f"{image}\t{label}\n" for image, label in entry.rows))
                lists.append(path)
        write_atomic(options.out, text.text(options.out.name))
    except BaseException:
        for path in lists:
            path.unlink(missing_ok=True)
        raise
    return lists
