"""The pages of docs/reference/: what the code says of itself, as Markdown."""

from _reference.commands import commands_page
from _reference.components import networks_page, presets_page, terms_page
from _reference.configuration import configuration_page, data_file_page

HEAD = "<!-- Written by docs/reference.py from the code: change that, and run it again. -->"


def pages() -> dict[str, str]:
    """Return every page by its file's name."""
    written = {
        "commands.md": commands_page(),
        "configuration.md": configuration_page(),
        "terms.md": terms_page(),
        "networks.md": networks_page(),
        "presets.md": presets_page(),
        "data-file.md": data_file_page(),
    }
    return {name: f"{HEAD}\n\n{text.strip()}\n" for name, text in written.items()}
