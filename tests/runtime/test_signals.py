"""Signals: a loop is asked to stop, all else ends at once, and nothing is swallowed."""

import os
import signal
import sys
import threading
from pathlib import Path

import pytest

from helpers.commands import process
from segdistill.runtime.signals import STOP_SIGNALS, exit_on_signal, stop_signals


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.promise("R1")
def test_first_signal_is_noted_and_the_second_ends_the_process(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "_exit", sys.exit)
    before = signal.getsignal(signal.SIGINT)
    with stop_signals() as caught:
        assert caught() is None
        send(signal.SIGTERM)
        assert caught() == signal.SIGTERM
        assert capfd.readouterr().err == ""
        with pytest.raises(SystemExit) as end:
            send(signal.SIGINT)
        assert end.value.code == 130
        assert "Stopped at once. `segdistill resume` goes on from the last checkpoint." in capfd.readouterr().err
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.promise("R1")
def test_torchrun_interrupt_counts_its_first_signal_only() -> None:
    before = signal.getsignal(signal.SIGINT)
    with stop_signals(alone=False) as caught:
        for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM):
            send(number)
        assert caught() == signal.SIGINT
    assert signal.getsignal(signal.SIGINT) is before


def test_training_in_another_thread_leaves_signals_alone() -> None:
    seen: list[object] = []

    def inside() -> None:
        with stop_signals() as caught, exit_on_signal():
            seen.append((caught(), signal.getsignal(signal.SIGTERM)))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert seen == [(None, before)]


WAITS = """
import os, signal, sys, time
from segdistill.runtime.signals import exit_on_signal, stop_signals
with exit_on_signal(continued_by="segdistill again"):
    with stop_signals():
        pass
    if os.fork() == 0:
        os.kill(os.getpid(), int(sys.argv[1]))  # a loader process: it says nothing
    os.wait()
    try:
        os.kill(os.getpid(), int(sys.argv[1]))
        time.sleep(60)
    except BaseException:
        time.sleep(60)
"""


@pytest.mark.promise("R1")
@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_signal_ends_a_process_with_nothing_to_save(number: signal.Signals) -> None:
    done = process(sys.executable, "-c", WAITS, str(int(number)))
    assert (done.code, done.err) == (128 + number, f"\nStopped by {number.name}. Continue with: segdistill again\n")


@pytest.mark.promise("R1")
def test_batch_system_and_terminal_signals_stop_a_loop() -> None:
    assert {signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU} < set(STOP_SIGNALS)
    for number in STOP_SIGNALS:
        with stop_signals() as caught:
            send(number)
            assert caught() == number


@pytest.mark.promise("R1")
def test_nohup_ignores_the_end_of_a_terminal(tmp_path: Path) -> None:
    program = "import os, signal, sys\nfrom segdistill.runtime.signals import exit_on_signal, stop_signals\n"
    program += "with exit_on_signal():\n    with stop_signals() as caught:\n"
    program += "        os.kill(os.getpid(), signal.SIGHUP)\n        print(caught())\n"
    program += "    os.kill(os.getpid(), signal.SIGHUP)\nprint('here')\n"
    done = process("nohup", sys.executable, "-c", program, cwd=tmp_path)
    assert (done.code, done.out) == (0, "None\nhere\n")


def test_a_signal_ends_a_process_whose_terminal_is_gone() -> None:
    closed = WAITS.replace("with exit_on_signal", "os.close(2)\nwith log_exit_message(print), exit_on_signal", 1)
    closed = closed.replace("exit_on_signal, stop", "exit_on_signal, log_exit_message, stop")
    done = process(sys.executable, "-u", "-c", closed, str(int(signal.SIGHUP)))
    assert (done.code, done.out) == (129, "(exit 129): Stopped by SIGHUP.\n"), "the log has it all the same"


def test_closed_descriptors_are_not_reused_for_files(tmp_path: Path) -> None:
    program = "import os, sys\nfrom segdistill import cli\nfrom segdistill.commands import doctor\n"
    program += "doctor.examine = lambda: open('free', 'w').write(str(os.open('.', os.O_RDONLY))) and []\n"
    program += "sys.argv = ['segdistill', 'doctor']\n"
    done = process("sh", "-c", 'exec "$0" -c "$1" 2>&-', sys.executable, program + "cli.main()\n", cwd=tmp_path)
    assert done.code == 0
    assert int((tmp_path / "free").read_text()) > 2


@pytest.mark.promise("R1")
@pytest.mark.parametrize(
    ("part", "words", "after"),
    [
        ("doctor.examine", "doctor", ""),
        ("quickstart.train_teacher", "quickstart --out q", " Continue with: segdistill quickstart --out q --resume"),
    ],
)
def test_any_command_ends_with_143_on_sigterm(part: str, words: str, after: str, tmp_path: Path) -> None:
    program = "import os, signal, sys\nfrom segdistill import cli\nfrom segdistill.commands import doctor, quickstart\n"
    program += f"sys.argv[1:] = {words.split()}\n"
    program += f"{part} = lambda *given: os.kill(os.getpid(), signal.SIGTERM)\ncli.main()\n"
    done = process(sys.executable, "-c", program, cwd=tmp_path)
    assert (done.code, done.err) == (143, f"\nStopped by SIGTERM.{after}\n")
