"""Every preset on CamVid under one teacher, against the plain student with the same seed, batches and steps.

    python benchmarks/camvid.py camvid:PATH --teacher RUN [--student NET] [--pretrained] [--steps N] [--seeds N]
        [--set KEY=VALUE ...] [--only PRESET ...] [--out DIR] [--json FILE]

It runs `segdistill` commands one after the other and prints each. Stopped, it goes on where it was when it is called
again; rows that the file of `--json` has of other presets stay. Without `--steps` each preset has its own number for
CamVid. Beside `canonical` the plain student is trained too: the others are compared with the twin of their own seed.
`lad` has a teacher and a plain twin of its own. Without `--seeds`, three presets have three and the others one.
"""

import argparse
import json
import shlex
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
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
"""Presets that are trained from several seeds by default: beside the first, those that gained most from one."""
OWN_TEACHER = "lad"


@dataclass(frozen=True)
class Comparison:
    """What is alike for all presets."""

    data: str
    teacher: Path
    student: str
    pretrained: bool
    out: Path
    steps: int | None
    seeds: int | None
    settings: tuple[str, ...]

    def seeds_of(self, preset: str) -> int:
        """Return from how many seeds a preset's student is trained."""
        return self.seeds or (SEEDS if preset in SEVERAL else 1)

    def run_of(self, preset: str) -> Path:
        """Return the folder of a preset's runs; a preset of one's own is a file."""
        return self.out / Path(preset).stem

    def commands(self, preset: str) -> Iterator[list[str]]:
        """Yield the commands that train a preset's student."""
        common = ["--data", self.data, "--workers", "1"]
        common += [] if self.steps is None else ["--steps", str(self.steps)]
        common += [word for setting in self.settings for word in ("--set", setting)]
        teacher = self.teacher
        if preset == OWN_TEACHER:
            teacher = self.out / f"{preset}-teacher"
            yield ["train-teacher", "--preset", preset, *common, "--out", str(teacher)]
        more = ["--baseline", "steps"] if preset in (FIRST, OWN_TEACHER) else []
        more += ["--pretrained"] if self.pretrained else []
        if self.seeds_of(preset) > 1:
            more += ["--seeds", str(self.seeds_of(preset))]
        own = ["--preset", preset, "--teacher", str(teacher), "--student", self.student]
        yield ["distill", *own, *common, *more, "--out", str(self.run_of(preset))]


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


def row(preset: str, comparison: Comparison) -> dict[str, Any]:
    """Compare a preset's students with their plain twins."""
    run_folder = comparison.run_of(preset)
    further = range(1, comparison.seeds_of(preset))
    seeds = [run_folder, *(run_folder / f"seed-{seed}" for seed in further)]
    twins = run_folder if preset == OWN_TEACHER else comparison.run_of(FIRST)
    plains = [twins / seed.relative_to(run_folder) / "baseline" for seed in seeds]
    plain, distilled = ([scored(model, comparison.data) for model in models] for models in (plains, seeds))
    verdict = compare(plain, distilled, "at the same steps")
    results = json.loads((run_folder / "scores.json").read_text(encoding="utf-8"))
    return {
        "preset": run_folder.name,
        "steps": read_toml(run_folder / "config.toml")["optim"]["steps"],
        "teacher": results["teacher"]["miou"],
        "plain": [one.miou for one in plain],
        "distilled": [one.miou for one in distilled],
        "pixel_accuracy": [one.pixel_accuracy for one in distilled],
        "seconds": results["distilled"]["training_seconds"] + results["distilled"]["pretraining_seconds"],
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


def save(file: Path, rows: list[dict[str, Any]], environment: Path) -> None:
    """Write the rows and the machine, beside the rows that the file has of other presets."""
    place = json.loads(environment.read_text(encoding="utf-8"))
    about = {key: place[key] for key in ("device", "precision", "threads", "versions")}
    names = {one["preset"] for one in rows}
    earlier = json.loads(file.read_text(encoding="utf-8"))["rows"] if file.exists() else []
    kept = [one for one in earlier if one["preset"] not in names]
    file.write_text(json.dumps(about | {"rows": kept + rows}, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Train what is not trained, compare, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="camvid:PATH")
    parser.add_argument("--teacher", type=Path, required=True, help="a finished run of train-teacher")
    parser.add_argument("--student", default="resnet18")
    parser.add_argument("--pretrained", action="store_true", help="students start from ImageNet weights")
    parser.add_argument("--steps", type=int, help="of every run; else the presets' own for CamVid")
    parser.add_argument("--seeds", type=int, help="of every preset")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings")
    parser.add_argument("--out", type=Path, default=Path("runs/camvid"))
    parser.add_argument("--only", nargs="+", default=[], metavar="PRESET", help="names, or files of presets")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    comparison = Comparison(
        args.data,
        args.teacher,
        args.student,
        args.pretrained,
        args.out,
        args.steps,
        args.seeds,
        tuple(args.settings),
    )
    others = [name for name in args.only or preset_names() if name != FIRST]
    rows = []
    for preset in [FIRST, *others]:
        for command in comparison.commands(preset):
            run(command)
        rows.append(row(preset, comparison))
        print(table(rows), flush=True)
        if args.json:
            save(args.json, rows, comparison.run_of(FIRST) / "environment.json")


if __name__ == "__main__":
    main()
