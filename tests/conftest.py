"""Settings of every test."""

import pytest
import torch

torch.set_num_threads(1)  # tiny networks gain nothing from more, and results depend on the number


def pytest_configure(config: pytest.Config) -> None:
    # Tests that start two loader workers also run where there is one core.
    config.addinivalue_line("filterwarnings", "ignore:This DataLoader will create:UserWarning")
