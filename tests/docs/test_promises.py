"""What docs/guarantees.md promises is what promises.toml says, and each promise has a test or a reason for none."""

from typing import Literal

import pytest

from promises import Reports, promises, proofs, rows, section, table, written


def test_every_promise_has_a_test_or_a_reason() -> None:
    known, proved = promises(), {number for proof in proofs() for number in proof.promises}
    assert proved <= known.keys()
    assert {number for number, row in known.items() if "reason" not in row} <= proved
    for row in known.values():
        assert row.keys() <= {"promise", "reason"}
        assert not any("|" in text or "\n" in text for text in row.values())


def test_the_table_holds_these_promises_and_tests() -> None:
    lines = section()
    assert [row[:3] for row in rows(lines)] == [row[:3] for row in rows(table(written(lines)))]


def test_outcomes_of_all_cases_of_a_test_are_counted() -> None:
    reports = Reports()
    cases: list[tuple[Literal["setup", "call"], Literal["passed", "failed", "skipped"]]] = [
        *(("setup", "passed"), ("call", "passed"), ("call", "failed"), ("setup", "skipped"), ("call", "passed"))
    ]
    for case, (when, outcome) in enumerate(cases):
        why = ("test_a.py", 1, "Skipped: no GPU") if outcome == "skipped" else None
        reports.pytest_runtest_logreport(
            pytest.TestReport(f"tests/test_a.py::test_one[{case}]", ("", 0, ""), {}, outcome, why, when)
        )
    assert reports.result("test_a.py::test_one") == "1 failed, 2 passed, 1 skipped (no GPU)"
    assert reports.result("test_a.py::test_other") == "not run"
