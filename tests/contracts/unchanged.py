"""Print what a change of the code's structure must not change: weights, graphs, and what commands print as JSON.

    python tests/contracts/unchanged.py > before.json
    python tests/contracts/unchanged.py --compare before.json
    python tests/contracts/unchanged.py --only weights printed > before.json

Weights differ between CPUs and versions of torch, so both are run on the same machine, and nothing of it is stored. It
takes about ten minutes on two cores. Values that time, or the place of a folder, decide are left out.
"""

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import onnx
from safetensors.torch import load_file

PRESETS = ("at", "canonical", "cirkd", "cwd", "dsd", "fitnet", "ifvd", "ka", "lad", "skd", "tsl")
SMALL = (
    *("--data", "streets", "--steps", "6", "--precision", "fp32", "--device", "cpu", "--workers", "0"),
    *("--set", "data.size=[48,64]", "--set", "data.crop=[48,64]", "--set", "data.batch_size=2", "--seed", "3"),
)
TEACHER, STUDENT = "pspnet-resnet18", "pspnet-resnet18-half"
TIMED = re.compile(r"seconds|_ms$|^ms$|fps|per_second|^p\d\d$|^first$|latenc|speed|versions|size_from")
"""Keys whose values are another each time, or another with another version."""


def command(*words: str, cwd: Path) -> str:
    """Run segdistill and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "segdistill", *words],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"segdistill {' '.join(words)}\n{done.stderr}")
    return done.stdout


def digest(file: Path) -> str:
    """Return the sha256 of the tensors in a model file, by name."""
    total = hashlib.sha256()
    for name, tensor in sorted(load_file(file).items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.contiguous().numpy().tobytes())
    return total.hexdigest()


def graph(file: Path) -> dict[str, Any]:
    """Return the sha256 of a graph's weights, and its operators in their order."""
    model = onnx.load(file)
    total = hashlib.sha256()
    for tensor in sorted(model.graph.initializer, key=lambda tensor: tensor.name):
        total.update(f"{tensor.name} {tensor.data_type} {list(tensor.dims)}\n".encode())
        total.update(onnx.numpy_helper.to_array(tensor).tobytes())
    operators = [node.op_type for node in model.graph.node]
    listed = hashlib.sha256(" ".join(operators).encode()).hexdigest()
    return {"weights": total.hexdigest(), "operators": listed, "nodes": len(operators)}


def without_times(value: Any, folder: Path) -> Any:
    """Return what a command printed without what time and place decide."""
    if isinstance(value, dict):
        return {key: "..." if TIMED.search(key) else without_times(item, folder) for key, item in value.items()}
    if isinstance(value, list):
        return [without_times(item, folder) for item in value]
    if isinstance(value, str):
        return re.sub(r"\d+(\.\d+)?( GiB| GB| MB|s\b|%| %)", "...", value.replace(str(folder), "DIR"))
    return value


def weights_of_presets(folder: Path) -> dict[str, Any]:
    """Return the digest of each preset's student, and of its teacher's and stages' weights."""
    found: dict[str, Any] = {}
    for preset in PRESETS:
        out = folder / preset
        teacher = ("--teacher", TEACHER)
        command("train-teacher", "--preset", preset, *teacher, *SMALL, "--out", f"{preset}-teacher", cwd=folder)
        command(
            *("distill", "--preset", preset, "--teacher", f"{preset}-teacher", "--student", STUDENT, *SMALL),
            *("--accept-teacher", "--baseline", "steps", "--out", preset),
            cwd=folder,
        )
        files = [folder / f"{preset}-teacher/model.safetensors", *sorted(out.rglob("*.safetensors"))]
        found[preset] = {str(file.relative_to(folder)): digest(file) for file in files}
        print(preset, file=sys.stderr)
    return found


def graphs_of_networks(folder: Path) -> dict[str, Any]:
    """Return the digest of the exported graph of each network with the weights of seed 0."""
    import torch

    from helpers.tiny import model_info
    from segdistill.config.schema import NetworkConfig
    from segdistill.deployment.onnx import export_onnx
    from segdistill.networks import build_network, network_names

    found = {}
    for name in network_names():
        torch.manual_seed(0)
        network = build_network(NetworkConfig(network=name, aux=False), 5)
        export_onnx(network, model_info(name, tuple("abcde")), folder / "graph.onnx")
        found[name] = graph(folder / "graph.onnx")
        print(name, file=sys.stderr)
    return found


def printed(folder: Path) -> dict[str, Any]:
    """Return the JSON that each command prints."""
    model = ("--data", "streets", "--device", "cpu", "--workers", "0")
    lines: dict[str, list[str]] = {
        "networks": ["networks", "resnet18", "--size", "64x96", "--classes", "5", "--json"],
        "presets list": ["presets", "list", "--json"],
        "doctor": ["doctor", "--json"],
        "data check": ["data", "check", "streets", "--json"],
        "train-teacher": ["train-teacher", "--teacher", STUDENT, *SMALL, "--json", "--out", "teacher"],
        "distill": [
            *("distill", "--teacher", "teacher", "--student", STUDENT, *SMALL, "--json"),
            *("--accept-teacher", "--baseline", "steps", "--seeds", "2", "--out", "student"),
        ],
        "evaluate": ["evaluate", "student", *model, "--count-void", "--json"],
        "export": ["export", "student", *model, "--json"],
        "infer": ["infer", "student/model.onnx", "student/picture.png", "--out", "labels", "--json"],
    }
    found: dict[str, Any] = {}
    for name, words in lines.items():
        found[name] = without_times(json.loads(command(*words, cwd=folder)), folder)
        print(name, file=sys.stderr)
    found["print-config"] = {
        f"{name} on {data}": command(
            *("distill", "--preset", name, "--teacher", "pspnet50", "--student", "resnet18", "--data", data),
            "--print-config",
            cwd=folder,
        )
        for name in PRESETS
        for data in ("streets", "camvid:x", "cityscapes:x")
    }
    return found


def differences(before: Any, after: Any, path: str = "") -> list[str]:
    """Return where two results differ."""
    if isinstance(before, dict) and isinstance(after, dict):
        keys = [*before, *(key for key in after if key not in before)]
        return [line for key in keys for line in differences(before.get(key), after.get(key), f"{path} / {key}")]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = enumerate(zip(before, after, strict=True))
        return [line for index, (one, other) in pairs for line in differences(one, other, f"{path} / {index}")]
    return [] if before == after else [f"{path}\n  before {before!r}\n  after  {after!r}"]


def main() -> None:
    """Print all, or compare it with what was printed before."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compare", type=Path, metavar="FILE", help="tell what differs from what was printed before")
    parts = {"weights": weights_of_presets, "graphs": graphs_of_networks, "printed": printed}
    parser.add_argument("--only", nargs="+", choices=parts, default=list(parts), help="leave the other parts out")
    arguments = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parents[1]))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        found = {part: parts[part](folder) for part in arguments.only}
    if arguments.compare is None:
        print(json.dumps(found, indent=1))
        return
    before = json.loads(arguments.compare.read_text(encoding="utf-8"))
    lines = differences({part: before[part] for part in arguments.only}, found)
    print("\n".join(lines) or "nothing differs")
    sys.exit(1 if lines else 0)


if __name__ == "__main__":
    main()
