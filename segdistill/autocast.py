"""What is computed as precisely as its numbers are, whatever the rest of a network is computed in."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


def no_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """Return a context without autocast on a tensor's device, on which a tensor without numbers has none anyway."""
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)
