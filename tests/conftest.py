"""Settings of every test."""

import torch

torch.set_num_threads(1)  # tiny networks gain nothing from more, and results depend on the number
