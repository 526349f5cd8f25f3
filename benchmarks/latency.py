"""How fast exported students are: onnxruntime against PyTorch, and against a teacher, measured in turns.

python benchmarks/latency.py [--size 180x240 ...] [--student pspnet-resnet18 ...] [--teacher pspnet-resnet50]
    [--seconds 20] [--json FILE]
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from segdistill.checkpoints.model_file import ModelInfo
from segdistill.config.schema import NetworkConfig
from segdistill.deployment.onnx import export_onnx
from segdistill.deployment.session import OnnxModel
from segdistill.evaluation.latency import measure, torch_subject
from segdistill.evaluation.predictor import predictor
from segdistill.networks import build_network, resolve_name
from segdistill.runtime.precision import Precision
from segdistill.runtime.versions import cpu_name, versions

CLASSES = 11
STUDENTS = (
    *("pspnet-resnet18", "pspnet-resnet18-half", "deeplabv3-resnet18", "deeplabv3plus-resnet18", "deeplabv2-resnet18"),
    *("fcn-resnet18", "mobilenetv2", "mobilenetv2-1.3", "mobilenetv2-1.4", "mobilenetv2plus", "largefov-mobilenetv1"),
    *("espnet", "espnet-c", "enet", "stdcseg-stdc1", "stdcseg-stdc2", "ocrnet-hrnetw18", "ddrnet-23-slim", "pidnet-s"),
)
CPU = Precision("fp32", torch.device("cpu"), torch.float32)


def main() -> None:
    """Measure, print, and write the figures where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", nargs="+", default=list(STUDENTS))
    parser.add_argument("--teacher", default="pspnet-resnet50")
    parser.add_argument("--size", nargs="+", default=["180x240", "360x480"])
    parser.add_argument("--seconds", type=float, default=20.0, help="per network and size")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    print(f"{cpu_name()}, {torch.get_num_threads()} threads, fp32, batch 1; median milliseconds")
    rows = []
    for name in arguments.student:
        rows += rows_of(resolve_name(name, "pspnet"), arguments.teacher, arguments.size, arguments.seconds)
        if arguments.json:
            machine = {"machine": cpu_name(), "threads": torch.get_num_threads(), "versions": versions()}
            arguments.json.write_text(
                json.dumps({**machine, "teacher": arguments.teacher, "median_ms": rows}, indent=2) + "\n"
            )


def rows_of(name: str, teacher: str, sizes: list[str], seconds: float) -> list[dict[str, Any]]:
    """Export a student and measure it at every size."""
    torch.manual_seed(0)
    config = NetworkConfig(network=name, aux=False)
    student, rows = build_network(config, CLASSES), []
    predict = {
        "teacher": predictor(build_network(NetworkConfig(network=teacher, aux=False), CLASSES), CPU),
        "student": predictor(student, CPU),
    }
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
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "student.onnx"
        export_onnx(student, info, file)
        exported = OnnxModel(file, CPU.device)
        for size in sizes:
            height, width = map(int, size.split("x"))
            image = torch.rand(1, 3, height, width) * 255
            there = image.to(memory_format=torch.channels_last)
            subjects = {role: torch_subject(own, there) for role, own in predict.items()}
            subjects["onnxruntime"] = exported.subject(image)
            found = measure(subjects, threads=torch.get_num_threads(), max_seconds=seconds)
            medians = {role: round(latency.p50, 2) for role, latency in found.items()}
            ratios = {
                "onnxruntime_over_torch": round(found["onnxruntime"].p50 / found["student"].p50, 3),
                "teacher_over_onnxruntime": round(found["teacher"].p50 / found["onnxruntime"].p50, 2),
            }
            rows.append({"network": name, "size": size, **medians, **ratios})
            figures = "  ".join(f"{key} {value}" for key, value in (medians | ratios).items())
            print(f"{name:24} {size:>9}  {figures}", flush=True)
    return rows


if __name__ == "__main__":
    main()
