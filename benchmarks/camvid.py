"""Every preset on CamVid under one teacher, against the plain student with the same seed, batches and steps.

    python benchmarks/camvid.py camvid:PATH --teacher RUN [--steps N] [--out DIR] [--only NAME ...] [--json FILE]

It runs `segdistill` commands one after the other and prints each. Stopped, it goes on where it was when it is called
again. Without `--steps` each preset has its own number for CamVid. Beside `canonical` the plain student is trained too,
from three seeds: they show how far seeds alone lie apart, and the others are compared with the twin of their own seed.
`lad` has a teacher and a plain twin of its own.
"""

import argparse
import json
import shlex
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from segdistill.commands.evaluate import EvaluateOptions, evaluate_model
from segdistill.config.presets import preset_names
from segdistill.config.toml import read_toml
from segdistill.evaluation.metrics import Scores, coverage
from segdistill.evaluation.significance import compare
from segdistill.runtime.reporter import NullReporter

FIRST = "canonical"
"""The preset whose plain twins are those of the others."""
SEVERAL, SEEDS = (FIRST, "skd", "dsd"), 3
"""Presets that are trained from several seeds: beside the first, those that gained most from one."""
OWN_TEACHER = "lad"


def commands(data: str, teacher: Path, out: Path, steps: int | None, preset: str) -> Iterator[list[str]]:
    """Yield the commands that train a preset's student."""
    common = ["--data", data, *([] if steps is None else ["--steps", str(steps)]), "--workers", "1"]
    more: list[str] = []
    if preset == OWN_TEACHER:
        teacher, more = out / f"{preset}-teacher", ["--baseline", "steps"]
        yield ["train-teacher", "--preset", preset, *common, "--out", str(teacher)]
    if preset == FIRST:
        more = ["--baseline", "steps"]
    if preset in SEVERAL:
        more += ["--seeds", str(SEEDS)]
    own = ["--preset", preset, "--teacher", str(teacher), "--student", "resnet18"]
    yield ["distill", *own, *common, *more, "--out", str(out / preset)]


def run(command: list[str]) -> None:
    """Run a command, or what of it is not done yet."""
    folder = Path(command[-1])
    if (folder / "config.toml").exists():
        command = [*command, "--resume"]
    print("segdistill", shlex.join(command), flush=True)
    subprocess.run([sys.executable, "-m", "segdistill", *command], check=True)


def scored(model: Path, data: str) -> Scores:
    """Return a model's scores on the validation split."""
    return evaluate_model(str(model), EvaluateOptions(data=data, workers=1), NullReporter()).scores


def row(preset: str, out: Path, data: str) -> dict[str, Any]:
    """Compare a preset's students with their plain twins."""
    seeds = [out / preset, *(out / preset / f"seed-{seed}" for seed in range(1, SEEDS) if preset in SEVERAL)]
    twins = out / (preset if preset == OWN_TEACHER else FIRST)
    plains = [twins / seed.relative_to(out / preset) / "baseline" for seed in seeds]
    plain, distilled = ([scored(model, data) for model in models] for models in (plains, seeds))
    verdict = compare(plain, distilled, "at the same steps")
    results = json.loads((out / preset / "scores.json").read_text(encoding="utf-8"))
    return {
        "preset": preset,
        "steps": read_toml(out / preset / "config.toml")["optim"]["steps"],
        "teacher": results["teacher"]["miou"],
        "plain": [one.miou for one in plain],
        "distilled": [one.miou for one in distilled],
        "pixel_accuracy": [one.pixel_accuracy for one in distilled],
        "seconds": results["distilled"]["training_seconds"] + results["distilled"]["preparation_seconds"],
        "gain": verdict.to_json(),
    }


def percent(values: list[float]) -> str:
    """Return a figure, with how far several seeds lie apart."""
    mean = f"{100 * statistics.fmean(values):.2f}"
    return mean if len(values) == 1 else f"{mean} ± {100 * statistics.stdev(values):.2f}"


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a table of Markdown, in percent."""
    lines = ["| preset | teacher | plain | distilled | gain | 95 % interval |", "|---|---:|---:|---:|---:|---:|"]
    for one in rows:
        gain, low, high = (100 * one["gain"][key] for key in ("gain", "low", "high"))
        teacher = "sees the labels" if one["teacher"] is None else percent([one["teacher"]])
        figures = [teacher, percent(one["plain"]), percent(one["distilled"]), f"{gain:+.2f}"]
        over = coverage(one["gain"]["classes_scored"], one["gain"]["classes_declared"])
        lines.append(f"| `{one['preset']}`{over} | {' | '.join(figures)} | {low:+.2f} to {high:+.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Train what is not trained, compare, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="camvid:PATH")
    parser.add_argument("--teacher", type=Path, required=True, help="a finished run of train-teacher")
    parser.add_argument("--steps", type=int, help="of every run; else the presets' own for CamVid")
    parser.add_argument("--out", type=Path, default=Path("runs/camvid"))
    parser.add_argument("--only", nargs="+", choices=preset_names(), default=[], metavar="NAME")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    others = [name for name in preset_names() if name != FIRST and (not args.only or name in args.only)]
    rows = []
    for preset in [FIRST, *others]:
        for command in commands(args.data, args.teacher, args.out, args.steps, preset):
            run(command)
        rows.append(row(preset, args.out, args.data))
        print(table(rows), flush=True)
        if args.json:
            place = json.loads((args.out / FIRST / "environment.json").read_text(encoding="utf-8"))
            about = {key: place[key] for key in ("device", "precision", "threads", "versions")}
            args.json.write_text(json.dumps(about | {"rows": rows}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
