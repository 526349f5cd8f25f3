"""Variables that keep libraries from telling others about this machine: they look at them while they are imported.

`cli.main` sets them for the process and all that it starts. As a library, the package changes nothing for its process:
modules import such a library inside `switched_off()`, which leaves the environment as it was.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

SWITCHES = {
    # onnxruntime (core/platform/posix): its wheels else keep a device id and a database under ~/.cache/Microsoft, and
    # upload what is loaded, with the interpreter's path. onnxruntime.disable_telemetry_events() comes after the start.
    "ORT_DISABLE_TELEMETRY": "1",
    "NO_ALBUMENTATIONS_UPDATE": "1",  # its import would ask for a newer release
    # transformers and timm fetch weights by name through huggingface_hub, which else tells of libraries and versions
    # and looks for a newer release. Where weights are no safetensors, transformers asks a service to convert them.
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    "DISABLE_SAFETENSORS_CONVERSION": "1",
    "DO_NOT_TRACK": "1",  # the same, for whatever respects it (consoledonottrack.com)
}
"""Variables and their values."""


def switch_off() -> None:
    """Switch telemetry off for the rest of the process and all that it starts, whatever the caller's environment."""
    os.environ.update(SWITCHES)


@contextmanager
def switched_off() -> Iterator[None]:
    """Switch telemetry off for what is imported inside."""
    before = {name: os.environ.get(name) for name in SWITCHES}
    switch_off()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
