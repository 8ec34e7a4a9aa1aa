"""What MkDocs writes into pages by itself: the help of each command, as the command prints it."""

import io
import os
from contextlib import redirect_stdout, suppress

from exporter.cli import COMMANDS, main

PLACE = "<!-- the help of each command -->"


def on_page_markdown(markdown: str, **_: object) -> str:
    """The page with a section for each command, where it leaves a place for them."""
    if PLACE not in markdown:
        return markdown
    sections = [f"### {one.name}\n\n```text\n{help_of(one.name)}```" for one in COMMANDS]
    return markdown.replace(PLACE, "\n\n".join(sections))


def help_of(command: str) -> str:
    """What `exporter COMMAND --help` prints on a terminal of 90 columns."""
    os.environ["COLUMNS"] = "90"
    out = io.StringIO()
    with redirect_stdout(out), suppress(SystemExit):
        main([command, "--help"])
    return out.getvalue()
