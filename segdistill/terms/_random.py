"""Random numbers that depend on nothing but a sample's seed: not on other samples, processes or earlier steps."""

import torch


def seeded_generator(seed: int) -> torch.Generator:
    """Return a generator on the CPU, whose numbers are the same on every machine, unlike a GPU's."""
    return torch.Generator().manual_seed(seed)
