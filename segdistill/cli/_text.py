"""Numbers and paths as commands print them."""

import shlex
from pathlib import Path


def format_number(value: float | None) -> str:
    """Return a number in two digits; None stands for one that is not finite."""
    return "not finite" if value is None else f"{value:.2g}"


def format_percent(fraction: float | None) -> str:
    """Return a fraction in percent, or a dash for none."""
    return "-" if fraction is None else f"{100 * fraction:.2f}"


def data_option(typed: str | None, resolved: str) -> str:
    """Return the option by which another command finds the data: none where the run's folder tells enough.

    Args:
        typed: what `--data` was given.
        resolved: the data set that the configuration names.
    """
    has_path = ":" in resolved or resolved.endswith(".toml")
    return f" --data {quoted(resolved)}" if typed or has_path else ""


def quoted(text: str | Path) -> str:
    """Return a path as it can be typed into a shell, whatever it begins with and whatever is in it."""
    path = str(text)
    # It would be taken for an option.
    if path.startswith("-"):
        path = f"./{path}"
    return shlex.quote(path)
