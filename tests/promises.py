"""Run the tests that prove our promises, and write what they reported into the table of docs/guarantees.md.

    python tests/promises.py [--quick | --rows | --only TEST ...]

promises.toml says what is promised, @pytest.mark.promise("C3") which tests prove it. The slow ones among them, marked
`reliability`, kill, fill and starve in 100 rounds, unless SEGDISTILL_TEST_ROUNDS says otherwise. --quick leaves their
results as they stand, --only FILE::TEST those of all others. --rows leaves all of them, and brings only promises and
tests up to date.
"""

import argparse
import ast
import os
import sys
import tomllib
from collections import Counter
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import pytest
import torch

from segdistill.runtime.versions import cpu_name

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs/guarantees.md"
BEGIN, END = "<!-- promises: written by tests/promises.py -->", "<!-- end of promises -->"
HEADER = ("| | what is promised | how it is tested | last result |", "|---|---|---|---|")
NOT_RUN = "not run"


@dataclass(frozen=True)
class Proof:
    """A test, and the promises that it proves."""

    test: str
    promises: tuple[str, ...]
    slow: bool


@dataclass
class Reports:
    """What pytest reports of each test: a plugin of it."""

    outcomes: dict[str, Counter[str]] = field(default_factory=dict)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.passed:
            return
        test, outcome = report.nodeid.partition("[")[0].rpartition("/")[2], str(report.outcome)
        if report.skipped and isinstance(report.longrepr, tuple | list):
            outcome = f"skipped ({str(report.longrepr[2]).removeprefix('Skipped: ')})"
        self.outcomes.setdefault(test, Counter())[outcome] += 1

    def result(self, test: str) -> str:
        """Return a test's outcome, of several ones with their numbers."""
        outcomes = self.outcomes.get(test, Counter({NOT_RUN: 1}))
        if len(outcomes) == 1:
            return next(iter(outcomes))
        return ", ".join(f"{number} {outcome}" for outcome, number in sorted(outcomes.items()))


def promises() -> dict[str, dict[str, str]]:
    """Return the rows of promises.toml."""
    table: dict[str, dict[str, str]] = tomllib.loads((TESTS / "promises.toml").read_text(encoding="utf-8"))
    return table


def proofs() -> list[Proof]:
    """Return the marked tests, read off the files."""
    found = []
    for path in sorted(TESTS.rglob("test_*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if not isinstance(node, ast.FunctionDef):
                continue
            marks = {ast.unparse(mark.func): mark for mark in node.decorator_list if isinstance(mark, ast.Call)}
            if (own := marks.get("pytest.mark.promise")) is not None:
                named = tuple(str(ast.literal_eval(word)) for word in own.args)
                slow = any(ast.unparse(mark) == "pytest.mark.reliability" for mark in node.decorator_list)
                found.append(Proof(f"{path.name}::{node.name}", named, slow))
    return found


def path_of(test: str) -> str:
    """Return FILE::TEST with the folder of the file, whose name no other test file has."""
    file, _, name = test.partition("::")
    (path,) = TESTS.rglob(file)
    return f"{path}::{name}"


def section() -> list[str]:
    """Return the page's lines between the two comments."""
    return PAGE.read_text(encoding="utf-8").partition(f"{BEGIN}\n")[2].partition(END)[0].splitlines()


def table(results: dict[str, str]) -> list[str]:
    """Return the table's lines: a promise with one line for each of its tests, and one where there is a reason."""
    lines, proved = list(HEADER), proofs()
    for number, row in promises().items():
        tests = [proof.test for proof in proved if number in proof.promises]
        cells = [(f"`{test}`", results.get(test, NOT_RUN)) for test in tests]
        cells += [(row["reason"], "")] if "reason" in row else []
        for index, (how, result) in enumerate(cells):
            first = (number, row["promise"]) if index == 0 else ("", "")
            lines.append("| " + " | ".join((*first, how, result)) + " |")
    return lines


def rows(lines: list[str]) -> list[list[str]]:
    """Return the cells of a table's rows."""
    return [line.strip("|").split(" | ") for line in lines if line.startswith("|")][len(HEADER) :]


def written(lines: list[str]) -> dict[str, str]:
    """Return the results that a table holds."""
    return {how.strip(" `"): result.strip() for _, _, how, result in rows(lines)}


def write(runs: list[str], results: dict[str, str]) -> None:
    """Write when and where the tests ran, and the table, between the two comments."""
    head, _, rest = PAGE.read_text(encoding="utf-8").partition(f"{BEGIN}\n")
    lines = [f"{runs[0]}  ", runs[1], "", *table(results)]
    PAGE.write_text(f"{head}{BEGIN}\n" + "\n".join(lines) + "\n" + END + rest.partition(END)[2], encoding="utf-8")


def main() -> int:
    """Run the tests and write the table; return pytest's exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="run the quick tests only")
    parser.add_argument("--rows", action="store_true", help="run nothing, bring promises and tests up to date")
    parser.add_argument("--only", nargs="+", default=[], metavar="TEST", help="run these, as the table names them")
    arguments = parser.parse_args()
    before, reports, code = section(), Reports(), 0
    runs, results = before[:2], written(before)
    if not arguments.rows:
        rounds = os.environ.setdefault("SEGDISTILL_TEST_ROUNDS", "100")
        marked = "promise and not reliability" if arguments.quick else "promise"
        chosen = [path_of(test) for test in arguments.only] or [str(TESTS)]
        code = pytest.main(["-m", marked, *chosen], [reports])
        place = f"{date.today()}, {cpu_name()}, torch {torch.__version__}"
        if not arguments.only:
            runs = [f"Quick tests: {place}.", runs[1] if arguments.quick else f"Slow tests, {rounds} rounds: {place}."]
        ran = arguments.only or [proof.test for proof in proofs() if not (arguments.quick and proof.slow)]
        results |= {test: reports.result(test) for test in ran}
    write([run.strip() for run in runs], results)
    return code


if __name__ == "__main__":
    sys.exit(main())
