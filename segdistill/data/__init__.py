"""Data sets by name, and batches of them.

Each module here without a leading underscore is a data set that a preset can name, and has one function,
`load(path: str) -> DataSource`, where `path` is what follows the colon of NAME:PATH, or empty.
"""

from importlib import import_module

from segdistill.config import find_data
from segdistill.data._base import AUXILIARY, SPLITS, DataSource, Joined, Sample, Split
from segdistill.data._batches import evaluation_batches, shared_memory_shortage, training_batches
from segdistill.data._check import Census, check_files, take_census
from segdistill.data._folder import images_below
from segdistill.data._image import SUFFIXES, read_image, read_label, to_size
from segdistill.data._mixture import Part, files_of, mixture

__all__ = [
    "AUXILIARY",
    "SPLITS",
    "SUFFIXES",
    "Census",
    "DataSource",
    "Joined",
    "Part",
    "Sample",
    "Split",
    "check_files",
    "evaluation_batches",
    "files_of",
    "images_below",
    "load_data",
    "mixture",
    "read_image",
    "read_label",
    "shared_memory_shortage",
    "take_census",
    "to_size",
    "training_batches",
]


def load_data(spec: str) -> DataSource:
    """Find the data set that `spec` names.

    Args:
        spec: NAME:PATH; or NAME, which lies in $SEGDISTILL_DATA/NAME or is built in; or the path of a data.toml.

    Raises:
        UsageError: if the name is unknown, there is no such file or folder, or the data.toml has mistakes.
        DataError: if the folder does not hold that data set.
    """
    path = spec if spec.endswith(".toml") else spec.partition(":")[2]
    source: DataSource = import_module(find_data(spec)).load(path)
    return source
