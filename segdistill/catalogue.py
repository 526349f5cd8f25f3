"""The networks with what they cost: parameters, MACs and, on request, milliseconds on this machine."""

from typing import Any

import torch

from segdistill.config import NetworkConfig
from segdistill.engine import Precision, resolve_device
from segdistill.latency import Latency, measure, torch_subject
from segdistill.networks import build_network, list_networks
from segdistill.prediction import predictor
from segdistill.talk import Talk

MAX_RUNS, MAX_SECONDS = 30, 3.0
"""Calls and seconds per network: enough to choose by; `export` measures the chosen one with more."""


def networks_in_time(
    size: tuple[int, int], num_classes: int, part: str, device: str, max_ms: float | None, talk: Talk
) -> list[dict[str, Any]]:
    """Return the entries of `list_networks` with `latency_ms`, the median of one image in float32, fastest first.

    Args:
        size: (H, W) of the image.
        num_classes: C.
        part: of the names that are listed.
        device: as `--device` takes it.
        max_ms: slower ones are left out; None keeps all.
        talk: where progress is shown.
    """
    where, entries = resolve_device(device), list_networks(size, num_classes, part)
    measured = []
    with talk.progress(f"networks on {where}, {torch.get_num_threads()} threads", len(entries)) as advance:
        for entry in entries:
            measured.append(entry | {"latency_ms": _latency(entry["name"], size, num_classes, where).p50})
            advance(1, entry["name"])
    measured.sort(key=lambda entry: entry["latency_ms"])
    kept = [entry for entry in measured if max_ms is None or entry["latency_ms"] <= max_ms]
    if not kept:
        fastest = measured[0]
        talk.say(
            f"None takes {max_ms:g} ms or less at {size[0]}x{size[1]}. The fastest, {fastest['name']}, takes "
            f"{fastest['latency_ms']:.1f} ms."
        )
    return kept


def _latency(name: str, size: tuple[int, int], num_classes: int, device: torch.device) -> Latency:
    network = build_network(NetworkConfig(network=name, aux=False), num_classes)
    image = torch.rand(1, 3, *size, device=device).mul(255).contiguous(memory_format=torch.channels_last)
    subject = torch_subject(predictor(network, Precision("fp32", device, torch.float32)), image)
    threads = torch.get_num_threads()
    return measure({name: subject}, threads=threads, max_runs=MAX_RUNS, max_seconds=MAX_SECONDS)[name]
