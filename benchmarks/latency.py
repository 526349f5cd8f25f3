"""How fast the exported student is: onnxruntime against PyTorch, and against the teacher, measured in turns.

python benchmarks/latency.py [--size 180x240 ...] [--student pspnet-resnet18] [--teacher pspnet-resnet50] [--json FILE]
"""

import argparse
import json
import tempfile
from pathlib import Path

import torch

from segdistill.checkpoint import ModelInfo
from segdistill.config import NetworkConfig
from segdistill.deploy import as_deployed
from segdistill.export import OnnxModel, export_onnx
from segdistill.latency import measure, torch_subject
from segdistill.networks import build_network
from segdistill.record import cpu_name, versions

CLASSES = 11
CPU = torch.device("cpu")


def main() -> None:
    """Measure, print, and write the figures where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", default="pspnet-resnet18")
    parser.add_argument("--teacher", default="pspnet-resnet50")
    parser.add_argument("--size", nargs="+", default=["120x160", "180x240", "360x480"])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    config = NetworkConfig(network=arguments.student, aux=False)
    student = build_network(config, CLASSES)
    teacher = as_deployed(build_network(NetworkConfig(network=arguments.teacher, aux=False), CLASSES), CPU)
    info = ModelInfo(
        network=config,
        classes=tuple(f"class {i}" for i in range(CLASSES)),
        palette=((0, 0, 0),) * CLASSES,
        role="student",
        size=None,
        data="noise",
        preset="none",
        steps=1,
    )
    threads = torch.get_num_threads()
    print(f"{cpu_name()}, {threads} threads, fp32, batch 1; median milliseconds, fps in brackets")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "student.onnx"
        export_onnx(student, info, file)
        exported, deployed = OnnxModel(file, CPU), as_deployed(student, CPU)
        for size in arguments.size:
            height, width = map(int, size.split("x"))
            image = torch.rand(1, 3, height, width) * 255
            there = image.to(memory_format=torch.channels_last)
            subjects = {"teacher": torch_subject(teacher, there), "student": torch_subject(deployed, there)}
            found = measure(subjects | {"onnxruntime": exported.subject(image)}, threads=threads)
            ratio = found["onnxruntime"].p50 / found["student"].p50
            speedup = found["teacher"].p50 / found["onnxruntime"].p50
            print(
                f"{size:>9}  "
                + "  ".join(f"{name} {latency.p50:.1f} ({latency.fps:.1f})" for name, latency in found.items())
                + f"  onnxruntime/PyTorch {ratio:.3f} (limit 1.05)  teacher/onnxruntime {speedup:.1f}"
            )
            medians = {name: round(latency.p50, 2) for name, latency in found.items()}
            ratios = {"onnxruntime_over_torch": round(ratio, 3), "teacher_over_onnxruntime": round(speedup, 2)}
            rows.append({"size": size, **medians, **ratios})
    if arguments.json:
        networks = {"student": arguments.student, "teacher": arguments.teacher}
        machine = {"machine": cpu_name(), "threads": threads, "versions": versions()}
        arguments.json.write_text(json.dumps({**machine, **networks, "median_ms": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
