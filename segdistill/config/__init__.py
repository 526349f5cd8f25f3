"""What a run is made of: presets in TOML, their overrides, and the frozen `RunConfig` that results."""

from segdistill.config.presets import load_preset
from segdistill.config.schema import InputConfig, NetworkConfig, RunConfig

__all__ = ["InputConfig", "NetworkConfig", "RunConfig", "load_preset"]
