"""The blocks of one page of the documentation, run in order in this process.

`python run_page.py PAGE` runs every block of `python`, and in blocks of `console` every command of
ours. What a block prints is compared with the block `text title="Prints"` after it, or with the
lines under the command; `...` stands for anything. It prints how many things were run.
"""

import doctest
import io
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path

BLOCK = re.compile(r"^```(?P<info>[^\n]*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)
PRINTS = 'text title="Prints"'
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def steps(page: Path) -> Iterator[tuple[str, Callable[[dict[str, object]], None], str | None]]:
    """Each thing to run: where it stands, what it does, and what it should print."""
    text = page.read_text(encoding="utf-8")
    blocks = list(BLOCK.finditer(text))
    for number, block in enumerate(blocks):
        after = blocks[number + 1] if number + 1 < len(blocks) else None
        line = text.count("\n", 0, block.start("text"))
        where = f"{page.name}:{line + 1}"
        if block["info"].split(" ")[0] == "python":
            program = compile("\n" * line + block["text"], str(page), "exec")
            printed = after["text"] if after and after["info"] == PRINTS else None
            yield where, lambda names, program=program: exec(program, names), printed
        elif block["info"] == "console":
            for command in re.split(r"^\$ ", block["text"], flags=re.MULTILINE)[1:]:
                words, _, printed = command.partition("\n")
                if words.startswith("exporter "):
                    yield where, lambda _, words=words: run(words), printed or None


def run(words: str) -> None:
    """Run one command of ours."""
    from exporter.cli import main

    status = main(shlex.split(words)[1:])
    assert status == 0, f"{words}: exit status {status}"


def main(page: Path) -> int:
    """Run the page. Returns how many things were run."""
    names: dict[str, object] = {"__name__": "__main__"}
    count = 0
    for where, act, expected in steps(page):
        out = io.StringIO()
        with redirect_stdout(out):
            act(names)
        if expected is not None:
            fits = doctest.OutputChecker().check_output(expected, out.getvalue(), FLAGS)
            assert fits, f"{where}: expected\n{expected}\ngot\n{out.getvalue()}"
        count += 1
    return count


if __name__ == "__main__":
    sys.stdout.write(str(main(Path(sys.argv[1]))))
