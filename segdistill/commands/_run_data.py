"""The data set that a run's folder knows: that which it was trained on, where local.json says that it lies."""

from pathlib import Path

from segdistill.commands._local_record import absolute_data, data_is_gone, read_local
from segdistill.data.unlabeled import NAME
from segdistill.runtime.reporter import Reporter
from segdistill.storage.run_files import LOCAL


def recorded_data(model: Path, reporter: Reporter) -> str | None:
    """Return a run's data set as `--data` takes it; None where its folder does not know it.

    Args:
        model: as it was named on the command line.
        reporter: is told where it lies.

    Raises:
        UsageError: if it is gone from there, and none of its name lies in $SEGDISTILL_DATA.
    """
    record = read_local(model) if model.is_dir() else None
    if record is None or not record.data or record.data == NAME:
        return None
    if record.data_is_there():
        reporter.info(f"Data: {record.data}, as {model / LOCAL} has it.")
        return record.data
    name = "" if record.data.endswith(".toml") else record.data.partition(":")[0]
    if name and absolute_data(name) != name:  # it lies in $SEGDISTILL_DATA
        return name
    raise data_is_gone(model, record.data)
