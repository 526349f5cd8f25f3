"""Settings of every test."""

import signal

import pytest
import torch

torch.set_num_threads(1)  # tiny networks gain nothing from more, and results depend on the number
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start what runs in the background without it


def pytest_configure(config: pytest.Config) -> None:
    # Tests that start two loader workers also run where there is one core.
    config.addinivalue_line("filterwarnings", "ignore:This DataLoader will create:UserWarning")
