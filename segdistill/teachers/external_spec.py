"""How external teachers are named: SCHEME:LOCATION on the command line, SCHEME:NAME in configurations.

A scheme is a file in `segdistill/teachers/external` without a leading underscore.
"""

import os
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from segdistill.config.registry import components, find

CODE = "py"
"""Scheme of teachers that are code of the user's: it runs because a command line names it, and for no file's sake."""
SCHEMES = "teachers.external"
"""Folder of the schemes, as the registry names it."""


class ExternalSpec(NamedTuple):
    """An external teacher's name on the command line."""

    scheme: str
    location: str
    """Text behind the colon: a path, a name of the scheme's library, or both."""

    @property
    def path(self) -> Path | None:
        """File or folder that the teacher lies in; None where the location names none that exists."""
        for candidate in self._candidates():
            if candidate and Path(candidate).exists():
                return Path(candidate)
        return None

    def absolute(self) -> str:
        """Return SCHEME:LOCATION with the path in it, where it names one that exists, from the root of the file system.

        What it names is then the same in any folder.
        """
        for candidate in self._candidates():
            if candidate and Path(candidate).exists():
                path = os.path.abspath(candidate)
                if self.location.startswith(candidate):  # FILE:OUTPUT
                    return f"{self.scheme}:{path}{self.location[len(candidate) :]}"
                return f"{self.scheme}:{self.location.removesuffix(candidate)}{path}"
        return f"{self.scheme}:{self.location}"

    def _candidates(self) -> tuple[str, ...]:
        """Return what may be a path in the location."""
        if self.scheme == "onnx":  # FILE or FILE:OUTPUT
            return self.location, self.location.rpartition(":")[0]
        if self.scheme == "tv":  # NAME or NAME:FILE
            return (self.location.partition(":")[2],)
        if self.scheme == "hf":  # FOLDER or ID
            return (self.location,)
        return ()


def parse_external(text: str) -> ExternalSpec | None:
    """Return what names an external teacher; None of a run, a model file and a network's name.

    Raises:
        UsageError: if there is no such scheme, with those that there are.
    """
    scheme, colon, location = text.partition(":")
    if scheme in components(SCHEMES) and colon:
        return ExternalSpec(scheme, location)
    if text.endswith(".onnx"):
        return ExternalSpec("onnx", text)
    # timm:NAME and pspnet-timm:NAME are networks; with a slash, or where it is there, a text is a path with a colon
    if not colon or scheme.endswith("timm") or "/" in scheme or Path(text).exists():
        return None
    spellings = ", ".join(f"{name}:{scheme_module(name).LOCATION}" for name in components(SCHEMES))
    find(SCHEMES, scheme, "kind of teacher", f"An external teacher is given as {spellings}.")
    return None


def names_code(text: str) -> bool:
    """Whether a teacher, as `--teacher` takes it, is code of the user's."""
    return text.startswith(f"{CODE}:")


def is_external(network: str) -> bool:
    """Whether a network's name, as configurations and `ModelInfo` have it, is that of an external teacher."""
    scheme, colon, _ = network.partition(":")
    return bool(colon) and scheme in components(SCHEMES)


def scheme_module(scheme: str) -> Any:
    """Return the module of a scheme."""
    return import_module(find(SCHEMES, scheme, "kind of teacher"))
