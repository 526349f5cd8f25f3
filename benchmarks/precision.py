"""What it costs to keep wrong bf16 kernels out of a training: a step in bf16 as it is done, beside others, in turns.

Three steps of the same student on noise, forward, backward and optimizer, alternate in one process: in bf16 with its
convolutions checked, as every training does it; in bf16 without the check; in float32. Networks whose unchecked step
would use kernels that may write outside their memory have no such figure.

    python benchmarks/precision.py [--only NAME ...] [--size 240x320] [--batch 2] [--rounds 7] [--json FILE]
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import torch

from segdistill.config.schema import NetworkConfig
from segdistill.losses import cross_entropy
from segdistill.networks import build_network
from segdistill.runtime.convolutions import replaced_kinds
from segdistill.runtime.precision import has_bf16, resolve_precision
from segdistill.runtime.versions import cpu_name, versions

CLASSES = 11
DEFAULT = (
    *("pspnet-resnet18", "deeplabv3-resnet18", "deeplabv3plus-resnet18", "mobilenetv2", "mobilenetv2plus", "espnet"),
    *("largefov-mobilenetv1", "pidnet-s", "ddrnet-23-slim", "stdcseg-stdc1"),
)


def a_step(name: str, size: tuple[int, int], batch: int) -> Callable[[AbstractContextManager[object]], None]:
    """Return a training step of a network, to be run in a context that decides how it computes."""
    torch.manual_seed(0)
    network = build_network(NetworkConfig(network=name), CLASSES).to(memory_format=torch.channels_last).train()
    image = (torch.rand(batch, 3, *size) * 255).contiguous(memory_format=torch.channels_last)
    label = torch.randint(CLASSES, (batch, *size))
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-5, momentum=0.9)

    def step(context: AbstractContextManager[object]) -> None:
        with context:
            loss = cross_entropy(network(image).logits, label)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def timed(step: Callable[[], None]) -> float:
    """Return the seconds of one call."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def measured(name: str, size: tuple[int, int], batch: int, rounds: int) -> dict[str, float | int | None]:
    """Return medians in milliseconds and ratios of steps in the same round."""
    step = a_step(name, size, batch)
    bf16, fp32 = (resolve_precision(precision, torch.device("cpu")) for precision in ("bf16", "fp32"))
    with replaced_kinds() as kinds:
        step(bf16.training())
    ways: dict[str, Callable[[], AbstractContextManager[object]]] = {"checked": bf16.training, "float32": fp32.training}
    if not any(kind.is_unsafe for kind in kinds):
        ways["unchecked"] = bf16.autocast
    for way in ways.values():
        step(way())
    times: dict[str, list[float]] = {how: [] for how in ways}
    for _ in range(rounds):
        for how, way in ways.items():
            times[how].append(timed(lambda way=way: step(way())))  # type: ignore[misc]

    def ratio(other: str) -> float | None:
        if other not in times:
            return None
        return round(statistics.median(a / b for a, b in zip(times["checked"], times[other], strict=True)), 3)

    return {
        "kinds_in_float32": len(kinds),
        "checked_ms": round(1000 * statistics.median(times["checked"]), 1),
        "to_float32": ratio("float32"),
        "to_unchecked": ratio("unchecked"),
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=DEFAULT, metavar="NAME")
    parser.add_argument("--size", default="240x320")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    height, width = map(int, arguments.size.split("x"))
    fast = has_bf16(torch.device("cpu"))
    print(f"{cpu_name()}, {torch.get_num_threads()} threads, {'fast' if fast else 'no fast'} bf16")
    rows = {}
    for name in arguments.only:
        rows[name] = row = measured(name, (height, width), arguments.batch, arguments.rounds)
        print(f"{name:<24} {row}", flush=True)
    if arguments.json:
        about = {"device": cpu_name(), "threads": torch.get_num_threads(), "versions": versions()}
        table = about | {"size": arguments.size, "batch": arguments.batch, "rows": rows}
        arguments.json.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
