"""Data sets by name, and batches of them.

Each module in `datasets` without a leading underscore is a data set that a preset can name, and has one function,
`load(path: str) -> DataSource`, where `path` is what follows the colon of NAME:PATH, or empty. Other packages can add
to them, by an entry point of the group segdistill.datasets.

From the files to the networks: `load_data` finds the files, `with_auxiliary_split` chooses what a training sees of
them, `verify_data` reads them all once, and `training_batches` and `evaluation_batches` read them again and again.
"""

from segdistill.config.registry import load_data_module
from segdistill.data.auxiliary import with_auxiliary_split
from segdistill.data.base import AUXILIARY, SPLITS, DataSource, Sample, Split
from segdistill.data.batches import evaluation_batches, training_batches
from segdistill.data.image import read_image, to_size
from segdistill.data.image_file import SUFFIXES
from segdistill.data.label_map import read_label
from segdistill.data.listing import images_below
from segdistill.data.packing import shared_memory_shortage
from segdistill.data.report import DatasetReport, SplitReport
from segdistill.data.scan import check_files, scan_dataset
from segdistill.data.source_files import files_of
from segdistill.data.splits import ConcatSplit, SubsetSplit
from segdistill.data.verified import VerifiedData, verify_data
from segdistill.errors import UsageError

__all__ = [
    "AUXILIARY",
    "SPLITS",
    "SUFFIXES",
    "ConcatSplit",
    "DataSource",
    "DatasetReport",
    "Sample",
    "Split",
    "SplitReport",
    "SubsetSplit",
    "VerifiedData",
    "check_files",
    "evaluation_batches",
    "files_of",
    "images_below",
    "load_data",
    "read_image",
    "read_label",
    "scan_dataset",
    "shared_memory_shortage",
    "to_size",
    "training_batches",
    "verify_data",
    "with_auxiliary_split",
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
    source = load_data_module(spec).load(path)
    if not isinstance(source, DataSource):
        raise UsageError(
            f"`load` of data set {spec.partition(':')[0]!r} returns {type(source).__name__}, not a DataSource.",
            "Update the package that it comes from.",
        )
    return source
