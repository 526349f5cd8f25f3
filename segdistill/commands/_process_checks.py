"""Refusals of what several processes, or micro-batches, cannot be trained with."""

import torch

from segdistill import __version__
from segdistill.commands._context import Options, RunContext
from segdistill.commands._settings import backbone_weights_used, init_weights_used
from segdistill.config.schema import RunConfig
from segdistill.errors import DataError, UsageError
from segdistill.runtime import distributed
from segdistill.wording import counted

MIN_BATCH_NORM_IMAGES = 2
"""Images that batch norm needs at a time: in the 1x1 bin of a pyramid an image has one value per channel."""


def check_processes(context: RunContext) -> None:
    """Refuse processes that were given different settings, or that see different data.

    Raises:
        UsageError: in all processes, naming those with other settings than the first.
        DataError: in all processes, naming those with other names or sizes of files than the first.
    """
    if distributed.world_size() == 1:
        return
    settings = _settings(context)
    gathered = distributed.all_gather_object((settings, context.data.listing_fingerprint))
    first_settings, first_fingerprint = gathered[0]
    for rank, (rank_settings, fingerprint) in enumerate(gathered):
        changed = [key for key in first_settings if rank_settings.get(key) != first_settings[key]]
        if changed:
            what = f"Process {rank} was given other settings than process 0: {', '.join(changed)}."
            raise distributed.collective_error(
                UsageError(what, "Start all processes with the same command and version.")
            )
        if fingerprint != first_fingerprint:
            what = f"Process {rank} sees other data than process 0: other files, or of other sizes."
            raise distributed.collective_error(DataError(what, "Give all machines the same data set."))


def _settings(context: RunContext) -> dict[str, object]:
    """Return all settings by their names for the user; paths may differ between machines."""
    options: Options = context.options
    table = context.config.changed(**{"data.name": context.data.name, "data.unlabeled": []}).to_dict()
    return {key: table[key] for key in sorted(table)} | {
        "--resume": options.resume,
        "--overwrite": options.overwrite,
        "--dry-run": options.dry_run,
        "--baseline": options.baseline,
        "--seeds": options.seeds,
        "--accept-teacher": options.accept_teacher,
        "--pretrained or --backbone-weights": backbone_weights_used(options),
        "--init-weights": init_weights_used(options),
        "--epochs": options.derivation.epochs,
        "--max-minutes": options.derivation.max_minutes,
        "segdistill": __version__,
    }


def check_batch(config: RunConfig, device: torch.device) -> None:
    """Refuse a batch that does not divide into micro-batches, or that batch norm cannot take.

    Raises:
        UsageError: with what to change.
    """
    world = distributed.world_size()
    parts = world * config.optim.accumulate
    if config.data.batch_size % parts:
        raise UsageError(
            f"A batch of {config.data.batch_size} does not divide into {counted(world, 'process', 'processes')} times "
            f"{counted(config.optim.accumulate, 'micro-batch', 'micro-batches')}.",
            "Choose data.batch_size as a multiple of their product.",
        )
    # batch norm is synchronized across GPUs, and is not across processes on a CPU
    processes_together = 1 if device.type == "cpu" else world
    images = config.data.batch_size // parts * processes_together
    if images < MIN_BATCH_NORM_IMAGES:
        raise UsageError(
            f"Batch norm needs at least {MIN_BATCH_NORM_IMAGES} images at a time; this run would give it 1.",
            "Raise data.batch_size, or lower optim.accumulate or the number of processes.",
        )
