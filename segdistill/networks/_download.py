"""Published weights: those that are on the machine already, else from the net, once for each machine."""

from http.client import HTTPException
from pathlib import Path

import torch

from segdistill.errors import UsageError
from segdistill.networks._packaged_weights import packaged_file


def download_weights(url: str, description: str, *, flag: str) -> Path:
    """Return the file of published weights, from torch.hub's cache, an installed package or the net.

    Args:
        url: of a file whose name ends in its digest, as torchvision's do.
        description: what the weights are, for messages.
        flag: how such a file is given instead, for messages.

    Raises:
        UsageError: if it cannot be downloaded.
    """
    file = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
    if file.is_file():
        return file
    packaged = packaged_file(file.name)
    if packaged is not None:
        return packaged
    digest = file.stem.rpartition("-")[2]  # against a download that was cut off
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(file), digest, progress=False)
    # What urllib, http.client and the comparison of digests raise: they have no base of their own in common.
    except (OSError, HTTPException, RuntimeError) as error:
        raise UsageError(
            f"{description} cannot be downloaded from {url}: {error}",
            f"Fetch that file on another machine and give it with {flag}, or put it at {file}.",
        ) from None
    return file
