"""What a process does with the network, as the system sees it: native code asks neither Python's sockets nor its hooks.

Two ways to listen, each where it is possible. `strace` names every call. A namespace without network has no route to
anywhere, and counts each attempt over IPv4 to find one. Where there are both, what strace hears stays in such a
namespace.
"""

import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

import segdistill as package
from helpers.commands import Result, process

CUT_OFF = ("unshare", "--map-root-user", "--net")
REACHED_OUT = re.compile(
    r"\b(?:socket|connect|sendto|sendmsg|sendmmsg)\(.*\bAF_INET6?\b"
    r'|\bopenat\(.*"/etc/resolv\.conf"'  # who looks a name up
    r"|\bconnect\(.*systemd/resolve"  # or has it looked up
)
"""Of a line of strace."""
COUNTED = "cat /proc/net/snmp > {counts} && {command}; code=$?; cat /proc/net/snmp >> {counts}; exit $code"
COUNTERS = ("Ip: OutNoRoutes", "Ip: OutRequests", "Tcp: ActiveOpens", "Udp: OutDatagrams")
WAYS = ("strace", "namespace")


@cache
def can_be_cut_off() -> bool:
    """Whether a process can have a namespace without network here."""
    return shutil.which("unshare") is not None and process(*CUT_OFF, "true").code == 0


@cache
def can_be_traced() -> bool:
    """Whether strace is there, and may trace."""
    return (
        shutil.which("strace") is not None
        and process("strace", "-f", "--seccomp-bpf", "-qq", "-e", "trace=network", "true").code == 0
    )


def require(way: str) -> None:
    """Skip the test where one cannot listen so."""
    if way == "strace" and not can_be_traced():
        pytest.skip("no strace here that may trace")
    if way == "namespace" and not can_be_cut_off():
        pytest.skip("no namespace without network here")


def best_way() -> str:
    """Return how to listen here, or skip the test where nothing can."""
    if not (can_be_traced() or can_be_cut_off()):
        pytest.skip("neither strace nor a namespace without network here")
    return "strace" if can_be_traced() else "namespace"


def at_home(words: Sequence[str | Path], folder: Path) -> list[str]:
    """Return the words that run a program at home in `folder/home`, with nothing of this process's environment.

    Where a CI is named in it, some libraries keep silent.
    """
    home, temporary = folder / "home", folder / "tmp"
    home.mkdir(parents=True, exist_ok=True)
    temporary.mkdir(exist_ok=True)
    own = {"HOME": home, "TMPDIR": temporary, "PYTHONPATH": Path(package.__file__).parents[1], "OMP_NUM_THREADS": 1}
    return ["env", "-i", "PATH=/usr/bin:/bin", *(f"{name}={value}" for name, value in own.items()), *map(str, words)]


def listened_to(words: Sequence[str | Path], folder: Path, way: str) -> tuple[Result, list[str]]:
    """Run a program at home and in a folder; return what it left, and how it reached for the network."""
    plain, heard = at_home(words, folder), folder.parent / f"{folder.name}.heard"
    if way == "strace":
        traced = ["strace", "-f", "--seccomp-bpf", "-qq", "-e", "trace=network,openat", "-o", str(heard), *plain]
        result = process(*(CUT_OFF if can_be_cut_off() else ()), *traced, cwd=folder)
        lines = heard.read_text(errors="replace").splitlines()
        return result, [line for line in lines if REACHED_OUT.search(line)]
    script = COUNTED.format(counts=shlex.quote(str(heard)), command=shlex.join(plain))
    result = process(*CUT_OFF, "sh", "-c", script, cwd=folder)
    return result, attempts(heard.read_text())


def attempts(counts: str) -> list[str]:
    """Return the counters of packets without a route, or sent, that changed between two readings of /proc/net/snmp."""
    lines = [line.split() for line in counts.splitlines()]
    readings: dict[str, list[str]] = {}
    for names, values in zip(lines[::2], lines[1::2], strict=True):
        for name, value in zip(names, values, strict=True):
            readings.setdefault(f"{names[0]} {name}", []).append(value)
    return [f"{name}: {values}" for name, values in readings.items() if name in COUNTERS and len(set(values)) > 1]


def segdistill_words(line: str) -> list[str]:
    """Return a command as a shell would start it."""
    return [sys.executable, "-m", "segdistill", *shlex.split(line)]
