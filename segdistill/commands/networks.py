"""The networks with what they cost: parameters, MACs and, on request, milliseconds on this machine."""

from dataclasses import dataclass
from typing import Any

import torch

from segdistill.config.schema import NetworkConfig
from segdistill.evaluation.latency import Latency, measure, torch_subject
from segdistill.evaluation.predictor import predictor
from segdistill.networks import build_network, list_networks
from segdistill.runtime.precision import Precision, exact_float32, resolve_device
from segdistill.runtime.reporter import Reporter
from segdistill.wording import counted

MAX_RUNS, MAX_SECONDS = 30, 3.0
"""Calls and seconds per network: enough to choose by; `export` measures the chosen one with more."""


@dataclass(frozen=True)
class NetworksOptions:
    """Options of the list of networks: their costs are counted at a size and a number of classes."""

    name_part: str = ""
    """Text that must be in the names; empty lists all, timm:NAME a network with that backbone."""
    size: tuple[int, int] = (512, 1024)
    """Height and width of the image."""
    num_classes: int = 19
    latency: bool = False
    """Also measure each network here."""
    max_ms: float | None = None
    """Milliseconds of the slowest network that is listed, which are measured; None lists all."""
    device: str = "auto"
    """Device of the measurement, as `--device` takes it."""

    @property
    def is_timed(self) -> bool:
        """Whether the networks are measured."""
        return self.latency or self.max_ms is not None


@exact_float32()
def network_costs(options: NetworksOptions, reporter: Reporter) -> list[dict[str, Any]]:
    """Return what `networks --json` prints: an entry per network, with `latency_ms` and fastest first where measured.

    Raises:
        UsageError: if no network has such a name.
    """
    entries = list_networks(options.size, options.num_classes, options.name_part)
    if not options.is_timed:
        return entries
    entries = _with_latency(entries, options, reporter)
    if options.max_ms is None:
        return entries
    return _not_slower(entries, options.max_ms, options.size, reporter=reporter)


def _with_latency(entries: list[dict[str, Any]], options: NetworksOptions, reporter: Reporter) -> list[dict[str, Any]]:
    """Return the entries with `latency_ms`, the median of one image in float32, fastest first."""
    device = resolve_device(options.device)
    threads = counted(torch.get_num_threads(), "thread")
    measured = []
    with reporter.progress(f"networks on {device}, {threads}", len(entries)) as advance:
        for entry in entries:
            latency = _latency(entry["name"], options, device)
            measured.append(entry | {"latency_ms": latency.p50})
            advance(1, entry["name"])
    return sorted(measured, key=_latency_of)


def _not_slower(
    entries: list[dict[str, Any]], max_ms: float, size: tuple[int, int], *, reporter: Reporter
) -> list[dict[str, Any]]:
    """Return the entries that are fast enough, and tell of the fastest where none is."""
    kept = [entry for entry in entries if _latency_of(entry) <= max_ms]
    if not kept:
        fastest = entries[0]
        reporter.info(
            f"No network takes {max_ms:g} ms or less at {size[0]}x{size[1]}. The fastest, {fastest['name']}, takes "
            f"{fastest['latency_ms']:.1f} ms."
        )
    return kept


def _latency_of(entry: dict[str, Any]) -> float:
    latency: float = entry["latency_ms"]
    return latency


def _latency(name: str, options: NetworksOptions, device: torch.device) -> Latency:
    """Measure one network with weights drawn at random, on which its speed does not depend."""
    # As it is shipped: the auxiliary head is there in training only.
    network = build_network(NetworkConfig(network=name, aux=False), options.num_classes)
    image = torch.rand(1, 3, *options.size, device=device).mul(255)
    image = image.contiguous(memory_format=torch.channels_last)
    subject = torch_subject(predictor(network, Precision("fp32", device, torch.float32)), image)
    threads = torch.get_num_threads()
    return measure({name: subject}, threads=threads, max_runs=MAX_RUNS, max_seconds=MAX_SECONDS)[name]
