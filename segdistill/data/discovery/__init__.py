"""What lies in a folder, or in an annotation tool's export, and the data.toml that describes it.

From the names of all files (`inventory`) to images and label maps (`roles`), to pairs (`assignment`, `choosing`), or to
shapes that are drawn (`labelme`, `coco`); from what label maps hold (`content`) and tables of classes (`class_tables`)
to the classes (`class_plan`); from lists and folders to splits (`splits`), and to the text (`entries`, `writing`).
"""

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from segdistill.data.discovery.annotations import AnnotatedImage, Annotations, check_sizes
from segdistill.data.discovery.assignment import Assignment, assign
from segdistill.data.discovery.choosing import choose_labels
from segdistill.data.discovery.class_tables import ClassTable, find_class_table
from segdistill.data.discovery.coco import coco_annotations, read_coco
from segdistill.data.discovery.inventory import Inventory, PictureFile, take_inventory
from segdistill.data.discovery.labelme import labelme_annotations, read_labelme
from segdistill.data.discovery.roles import divide
from segdistill.data.missing_partners import CONVERTIBLE
from segdistill.data.name_list import FileFinder
from segdistill.errors import DataError
from segdistill.wording import counted, listed

LABEL_STUDIO = "tag"
"""Word in the names that Label Studio gives the masks of its tasks."""


@dataclass(frozen=True)
class Discovery:
    """Images with their label maps, in files or to be drawn."""

    inventory: Inventory
    images: tuple[str, ...] = ()
    """All images, with or without a label map."""
    pairs: tuple[tuple[PictureFile, PictureFile], ...] = ()
    """Images and their label maps; none where these are drawn."""
    drawn: tuple[AnnotatedImage, ...] = ()
    """Images whose label maps are drawn."""
    drawn_classes: tuple[str, ...] = ()
    """Classes of these, without background."""
    hint: str = ""
    """Name of the class that the files' names have; empty where they have none."""
    table: ClassTable | None = None
    notes: tuple[str, ...] = ()


def discover(root: Path, leave_out: frozenset[Path] = frozenset()) -> Discovery:
    """Find the images in a folder, and their label maps.

    Args:
        root: the folder.
        leave_out: folders in it that are not looked into.

    Raises:
        DataError: with what was found and what is missing, where there are no pairs.
    """
    inventory = take_inventory(root, leave_out)
    images, labels = divide(inventory)
    found = None
    if images and labels:
        found = _label_maps(inventory, images, labels)
    if found is None or len(found.pairs) + len(found.drawn) < len(images) / 2:
        annotated = _annotations(inventory)
        if annotated is not None:
            return annotated
    if found is None:
        raise _nothing(inventory, images, labels)
    return found


def _label_maps(inventory: Inventory, images: Sequence[PictureFile], labels: Sequence[PictureFile]) -> Discovery | None:
    """Return the label maps in files; None where no name is an image's."""
    assignment = assign(images, labels)
    if not assignment.assigned:
        return None
    choice = choose_labels(inventory.root, assignment)
    notes = [*choice.notes, *_leftovers(assignment)]
    return Discovery(
        inventory,
        images=tuple(image.path for image in images),
        pairs=tuple((entry.image, entry.label) for entry in choice.pairs),
        drawn=choice.merged,
        drawn_classes=choice.classes,
        hint=choice.class_name,
        table=find_class_table(inventory),
        notes=tuple(notes),
    )


def _leftovers(assignment: Assignment) -> list[str]:
    notes = []
    if assignment.images:
        names = [image.path for image in assignment.images]
        notes.append(f"Images without a label map, which are left out ({len(names)}): {listed(names)}.")
    if assignment.labels:
        names = [label.path for label in assignment.labels]
        notes.append(f"Label maps without an image, which are left out ({len(names)}): {listed(names)}.")
    return notes


def _annotations(inventory: Inventory) -> Discovery | None:
    """Return the images that annotation files in JSON have shapes of; None where there are no such files.

    Raises:
        DataError: if they cannot be drawn.
    """
    labelme = [one for path in inventory.jsons if (one := read_labelme(path)) is not None]
    pictures = {picture.path: picture.path for picture in inventory.pictures}
    finder = FileFinder((inventory.root,), pictures)
    if labelme:
        found = labelme_annotations(inventory, labelme, finder)
    else:
        coco = [file for path in inventory.jsons if (file := read_coco(path)) is not None]
        if not coco:
            return None
        found = coco_annotations(inventory, coco, finder)
    _refuse_twice(found, inventory.root)
    check_sizes(inventory.root, found.images)
    if not found.classes:
        raise DataError(
            f"The files of {found.tool} in {inventory.root} have no shape of a class.", "Label some images."
        )
    done = {image.image for image in found.images}
    left = [picture.path for picture in inventory.pictures if picture.path not in done]
    if left:
        found.notes.append(f"Images without annotations, which are left out ({len(left)}): {listed(left)}.")
    return Discovery(
        inventory,
        images=(*done, *left),
        drawn=tuple(found.images),
        drawn_classes=tuple(found.classes),
        notes=tuple(found.notes),
    )


def _refuse_twice(found: Annotations, root: Path) -> None:
    counts = Counter(image.image for image in found.images)
    twice = sorted(name for name, count in counts.items() if count > 1)
    if twice:
        raise DataError(
            f"Images with annotations in several files of {found.tool} in {root} ({len(twice)}): {listed(twice)}.",
            "Leave one of the files.",
        )


def _nothing(inventory: Inventory, images: Sequence[PictureFile], labels: Sequence[PictureFile]) -> DataError:
    """Return the error about a folder in which no pairs were found: what is there, and what is missing."""
    found = f"{inventory.root} has {inventory.summary()}."
    if not inventory.pictures:
        unread = sorted(inventory.others.keys() & CONVERTIBLE)
        if unread:
            return DataError(f"{found} None of them is read.", f"Save {' and '.join(unread)} files as PNG or JPEG.")
        if inventory.others[".zip"]:
            return DataError(f"{found} There are no images.", "Unpack the archive, and give the folder.")
        return DataError(f"{found} There are no images.", "Give the folder that has images and label maps in it.")
    counts = f"{counted(len(images), 'image')} and {counted(len(labels), 'label map')} were told apart"
    if not labels:
        return DataError(
            f"{found} {counts}: label maps are missing.",
            "Expected are label maps beside the images, in a folder called masks or labels, or shapes in the JSON of "
            "labelme or COCO. Without any, a teacher that is trained already says what is in them: segdistill distill "
            f"--images {shlex.quote(str(inventory.root))} --teacher TEACHER --student NET",
        )
    if not images:
        return DataError(
            f"{found} {counts}: images are missing.", "Put them beside the label maps, in a folder called images."
        )
    if any(LABEL_STUDIO in label.stem for label in labels[:1]) and labels[0].stem.startswith("task-"):
        return DataError(
            f"{found} {counts}, and no label map has the name of an image: names such as {labels[0].stem} are of Label "
            "Studio's tasks.",
            "Export COCO from Label Studio in their place; or put an image's name into the names of its masks, as in "
            "a-road.png for a.jpg.",
        )
    return DataError(
        f"{found} {counts}, and no label map has the name of an image: {images[0].path} and {labels[0].path}, say.",
        "Rename one side such that each label map has its image's name, with anything before it or behind it.",
    )
