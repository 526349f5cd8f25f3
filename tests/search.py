"""Search for a file that breaks a reader, with libFuzzer: python tests/search.py READER [-max_total_time=60 ...]

Needs atheris (pip install atheris) and hands the options to it; helpers/fuzz.py lists the readers. What it finds is
left in the working folder.
"""

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["segdistill", "tomllib"]):
    from helpers.fuzz import READERS


def main() -> None:
    """Search until the time is over, or something breaks."""
    reader, folder = READERS[sys.argv.pop(1)], Path(tempfile.mkdtemp())
    seeds = folder / "seeds"
    seeds.mkdir()
    for number, content in enumerate(reader.seeds()):
        (seeds / str(number)).write_bytes(content)

    def read(content: bytes) -> None:
        reader.try_(content, folder)

    atheris.Setup([*sys.argv, str(seeds)], read)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
