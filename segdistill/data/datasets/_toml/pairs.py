"""From the table of a split in a data.toml to its images and label maps."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from segdistill.data.datasets._toml.schema import PairsEntry
from segdistill.data.file_names import ANY_NAME, NamePattern
from segdistill.data.image_file import LABEL_SUFFIXES, SUFFIXES
from segdistill.data.listing import FoundFile, images_below, readable
from segdistill.data.missing_partners import Side, no_images_error, unpaired_error
from segdistill.data.name_list import FileFinder, ListedNames, read_name_list
from segdistill.data.pairing import NamedFile, Pair, Pairing, match_names
from segdistill.errors import DataError
from segdistill.wording import listed


@dataclass(frozen=True)
class FoundPairs:
    """The files of one split."""

    images: tuple[FoundFile, ...]
    labels: tuple[FoundFile, ...]
    """Label maps of the images, in their order."""
    keys: tuple[str, ...]
    """What names each image wherever the data lies: its path below the folder, without the ending."""
    unlabeled: tuple[FoundFile, ...] = ()
    """Images without a label map, where the data file allows that."""
    notes: tuple[str, ...] = ()
    """Sentences about what was paired, or left out, otherwise than names say."""

    def part(self, places: Sequence[int]) -> "FoundPairs":
        """Return some of the pairs, without what belongs to all of them."""
        return FoundPairs(
            tuple(self.images[place] for place in places),
            tuple(self.labels[place] for place in places),
            tuple(self.keys[place] for place in places),
        )


def find_pairs(root: Path, split: str, entry: PairsEntry) -> FoundPairs:
    """Find and pair the files of a split.

    Args:
        root: folder of the data file.
        split: name of the split, for the notes.
        entry: the split's table.

    Raises:
        DataError: if images or label maps are missing, or have no partners.
    """
    if entry.list_file is not None:
        return _listed_pairs(root, split, entry)
    if isinstance(entry.images, tuple) or isinstance(entry.labels, tuple):
        assert isinstance(entry.images, tuple), "checked with the other mistakes"
        assert isinstance(entry.labels, tuple), "checked with the other mistakes"
        images, labels = _given(root, entry.images), _given(root, entry.labels)
        return FoundPairs(images, labels, tuple(file.name for file in images))
    assert entry.images is not None, "checked with the other mistakes"
    assert entry.labels is not None, "checked with the other mistakes"
    folders = _Folders(root, entry.images, entry.labels, entry)
    return _checked(folders, split, _pairing(folders), list(folders.notes))


@dataclass
class _Folders:
    """The two folders of a split, and the files in them and below them."""

    root: Path
    images: str
    labels: str
    entry: PairsEntry
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.image_pattern = NamePattern(self.entry.image_pattern or ANY_NAME.text)
        self.label_pattern = NamePattern(self.entry.label_pattern or ANY_NAME.text)
        self.image_files = self._found(self.images, self.labels, self.image_pattern, SUFFIXES)
        self.label_files = self._found(self.labels, self.images, self.label_pattern, LABEL_SUFFIXES)
        if Path(self.images) == Path(self.labels):
            self._divide()

    def _divide(self) -> None:
        """Of one folder for both, take what one pattern matches from the other side."""
        if self.entry.label_pattern is not None:
            labels = {label.file.name for label in self.label_files}
            self.image_files = [image for image in self.image_files if image.file.name not in labels]
        elif self.entry.image_pattern is not None:
            images = {image.file.name for image in self.image_files}
            self.label_files = [label for label in self.label_files if label.file.name not in images]

    def _found(self, folder: str, other: str, pattern: NamePattern, suffixes: Iterable[str]) -> list[NamedFile]:
        """Return the files below a folder whose names have a pattern; not those of the other folder, if it lies in it.

        Raises:
            DataError: if the folder, or something in it, cannot be read.
        """
        path, other_path = self.root / folder, self.root / other
        is_inside = other_path != path and path in other_path.parents
        found = []
        for file in sorted(images_below(path, frozenset(suffixes))):
            if is_inside and other_path in file.parents:
                continue
            below = file.relative_to(path).as_posix()
            shared = pattern.shared_part(below)
            if shared is not None:
                # Unlike is_file(), stat() fails on a broken link: the pair would vanish without a word.
                with readable(file):
                    size = file.stat().st_size
                found.append(NamedFile(shared, FoundFile(f"{folder}/{below}", size)))
        return found

    def below(self, folder: str, file: NamedFile) -> str:
        """Return a file's path below a folder."""
        return file.file.name.removeprefix(f"{folder}/")

    def in_folder(self, folder: str, files: Sequence[NamedFile]) -> list[NamedFile]:
        """Return the files that lie in a folder itself."""
        return [file for file in files if "/" not in self.below(folder, file)]


def _pairing(folders: _Folders) -> Pairing:
    """Pair all files below the folders; those in the folders alone where only these are pairs throughout."""
    pairing = match_names(folders.image_files, folders.label_files)
    if pairing.is_whole:
        return pairing
    images = folders.in_folder(folders.images, folders.image_files)
    labels = folders.in_folder(folders.labels, folders.label_files)
    if len(images) + len(labels) == len(folders.image_files) + len(folders.label_files):
        return pairing
    flat = match_names(images, labels)
    is_flat = flat.is_whole or (bool(flat.pairs) and not _has_pair_below(pairing))
    if not is_flat:
        return pairing
    passed_over = [file for file in folders.image_files if file not in images]
    if passed_over:
        names = sorted({os.path.dirname(file.file.name) for file in passed_over})
        folders.notes.append(
            f"Images in sub-folders without label maps in the same sub-folders of {folders.labels} "
            f"({len(passed_over)}), which are not read: {listed(names)}."
        )
    return flat


def _has_pair_below(pairing: Pairing) -> bool:
    """Whether some pair lies in a sub-folder."""
    return any("/" in pair.image.shared for pair in pairing.pairs)


def _checked(folders: _Folders, split: str, pairing: Pairing, notes: list[str]) -> FoundPairs:
    """Return the pairs, unless something is missing that the data file does not allow to be.

    Raises:
        DataError: if there are no images, or one of a pair is missing or could be either of two files.
    """
    entry = folders.entry
    images_path, labels_path = folders.root / folders.images, folders.root / folders.labels
    if not folders.image_files:
        raise no_images_error(images_path)
    if pairing.ambiguous:
        raise DataError(
            f"Files in {images_path} and {labels_path} with more than one ending ({len(pairing.ambiguous)}): "
            f"{listed(pairing.ambiguous)}.",
            "Keep one file per name. Images and label maps belong in folders of their own.",
        )
    missing = () if entry.unlabeled != "refuse" and pairing.pairs else pairing.images
    if missing or pairing.labels:
        raise unpaired_error(
            Side(images_path, [folders.below(folders.images, image) for image in missing]),
            Side(labels_path, [folders.below(folders.labels, label) for label in pairing.labels]),
            pairs=len(pairing.pairs),
        )
    notes += _notes(split, entry, pairing)
    return _found_pairs(pairing, notes)


def _found_pairs(pairing: Pairing, notes: Iterable[str]) -> FoundPairs:
    return FoundPairs(
        images=tuple(pair.image.file for pair in pairing.pairs),
        labels=tuple(pair.label.file for pair in pairing.pairs),
        keys=tuple(pair.image.shared for pair in pairing.pairs),
        unlabeled=tuple(image.file for image in pairing.images),
        notes=tuple(notes),
    )


def _notes(split: str, entry: PairsEntry, pairing: Pairing) -> list[str]:
    notes = []
    if pairing.by_looks:
        examples = [_pair_text(pair) for pair in pairing.by_looks]
        notes.append(
            f"Pairs of the {split} split whose names only look the same, as in letter case or Unicode's form "
            f"({len(examples)}): {listed(examples, 3)}."
        )
    if pairing.images:
        names = [os.path.basename(image.file.name) for image in pairing.images]
        fate = "used without labels" if entry.unlabeled == "use" else "left out"
        notes.append(f"Images of the {split} split without a label map, {fate} ({len(names)}): {listed(names)}.")
    return notes


def _pair_text(pair: Pair) -> str:
    return f"{os.path.basename(pair.image.file.name)} and {os.path.basename(pair.label.file.name)}"


def _given(root: Path, names: Sequence[str]) -> tuple[FoundFile, ...]:
    """Return the files of a list in the data file.

    Raises:
        DataError: if one of the list is not there.
    """
    missing = [str(root / name) for name in names if not (root / name).is_file()]
    if missing:
        raise DataError(
            f"Listed files not found ({len(missing)}): {listed(missing)}.", f"Paths are relative to {root}."
        )
    return tuple(FoundFile(name, (root / name).stat().st_size) for name in names)


def _listed_pairs(root: Path, split: str, entry: PairsEntry) -> FoundPairs:
    """Return the pairs that a list names.

    Raises:
        DataError: if it cannot be read, or names what is not there.
    """
    assert entry.list_file is not None, "the caller looked"
    images = entry.images if isinstance(entry.images, str) else "."
    labels = entry.labels if isinstance(entry.labels, str) else "."
    folders = _Folders(root, images, labels, entry)
    path = root / entry.list_file
    bases = (root, path.parent)
    image_finder = FileFinder(bases, _by_path(folders, images, folders.image_files))
    label_finder = FileFinder(bases, _by_path(folders, labels, folders.label_files))
    rows = read_name_list(path, image_finder, label_finder)
    unique = list(dict.fromkeys(rows))
    notes = []
    if len(unique) < len(rows):
        twice = len(rows) - len(unique)
        notes.append(f"Lines of {entry.list_file} that repeat an earlier one, and count once: {twice}.")
    if all(row.label is not None for row in unique):
        return _pairs_of_rows(root, unique, notes)
    if entry.labels is None:
        raise DataError(
            f"{path} names images alone.",
            f'Add labels = "FOLDER" to [{split}], or write each image\'s label map behind it.',
        )
    wanted = {row.image for row in unique}
    chosen = [image for image in folders.image_files if image.file.name in wanted]
    pairing = match_names(chosen, folders.label_files)
    listed_alone = Pairing(pairing.pairs, pairing.images, (), pairing.ambiguous, pairing.by_looks)
    return _checked(folders, split, listed_alone, notes)


def _by_path(folders: _Folders, folder: str, files: Sequence[NamedFile]) -> dict[str, str]:
    """Return the names of files by their paths below a folder."""
    return {folders.below(folder, file): file.file.name for file in files}


def _pairs_of_rows(root: Path, rows: Sequence[ListedNames], notes: Iterable[str]) -> FoundPairs:
    """Return the pairs of a list of two columns, in its order."""
    images, labels = [], []
    for row in rows:
        assert row.label is not None, "the list has two columns"
        images.append(FoundFile(row.image, (root / row.image).stat().st_size))
        labels.append(FoundFile(row.label, (root / row.label).stat().st_size))
    return FoundPairs(tuple(images), tuple(labels), tuple(row.image for row in rows), notes=tuple(notes))
