"""Parts of a network and losses that are computed as precisely as their numbers are, whatever the rest is."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


def no_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """Return a context without autocast on a tensor's device; on the meta device there is none anyway."""
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)
