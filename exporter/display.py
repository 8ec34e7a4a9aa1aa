"""How objects show themselves: one screen of text, and a small card in a notebook.

A card has no scripts and no colours of its own, so that it fits a light page and a dark one.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from exporter.markup import Child, Markup, element, fragment, printable
from signatures.signature import Signature

S = TypeVar("S")

# As much as fits one screen.
MAX_LINES = 20
_MAX_WIDTH = 300

# As much of the types of one signature as fits one screen.
MAX_TYPES = 2000

_STYLE = Markup(
    "<style>"
    ".exporter-card{font:13px/1.5 system-ui,sans-serif;color:inherit;max-width:60rem}"
    ".exporter-card code{font:12px/1.5 ui-monospace,monospace;color:inherit;background:none;"
    "overflow-wrap:anywhere}"
    ".exporter-card strong code{font-weight:600}"
    ".exporter-card table{font:inherit;border-collapse:collapse;margin:.4em 0;color:inherit}"
    ".exporter-card :is(th,td){text-align:left;vertical-align:top;padding:.15em 1em .15em 0;"
    "background:none;border:0;border-top:1px solid rgba(128,128,128,.35)}"
    ".exporter-card th{font-weight:600}"
    ".exporter-card .histogram{width:96px;height:28px;fill:currentColor;opacity:.6}"
    "</style>"
)


def quiet(show: Callable[[S], str]) -> Callable[[S], str]:
    """A `__repr__` that never raises: without what it needs, it gives the name of the class."""

    @functools.wraps(show)
    def shown(self: S) -> str:
        try:
            return show(self)
        except Exception:  # noqa: BLE001  # an object half made, or deleted, is shown by debuggers
            return f"<{type(self).__name__}>"

    return shown


def card_of(show: Callable[[S], str]) -> Callable[[S], str | None]:
    """A `_repr_html_` that never raises. With `None`, a notebook shows the text instead."""

    @functools.wraps(show)
    def shown(self: S) -> str | None:
        try:
            return show(self)
        except Exception:  # noqa: BLE001  # a cell's result is shown after it was computed
            return None

    return shown


def lines(first: str, rest: Iterable[str], last: str = "") -> str:
    """`<first`, an indented line for each of the rest as far as fits a screen, and `>`."""
    listed = [f"  {cut(line)}" for line in rest]
    if len(listed) > MAX_LINES:
        hidden = len(listed) - MAX_LINES + 1
        listed = [*listed[: MAX_LINES - 1], f"  and {hidden:,} more"]
    listed += [f"  {cut(last)}"] if last else []
    return "\n".join([f"<{cut(first)}", *listed]) + ">"


def cut(text: str, length: int = _MAX_WIDTH) -> str:
    """A line of text, harmless to a terminal and not too long."""
    shown = printable(text)
    return shown if len(shown) <= length else f"{shown[: length - 3]}..."


def code(text: object) -> Markup:
    """Text in the letters of code."""
    return element("code", cut(str(text)))


def card(
    title: Child,
    columns: Sequence[str] = (),
    rows: Sequence[Sequence[Child]] = (),
    note: Child = "",
) -> str:
    """A small table with a title, for a notebook. Rows beyond a screen are counted."""
    shown = rows if len(rows) <= MAX_LINES else rows[: MAX_LINES - 1]
    hidden = len(rows) - len(shown)
    head = element("tr", *(element("th", name, scope="col") for name in columns))
    body = [element("tr", *(element("td", cell) for cell in row)) for row in shown]
    table = element("table", element("thead", head), element("tbody", *body)) if rows else None
    more = element("div", f"and {hidden:,} more") if hidden else None
    return element(
        "div",
        _STYLE,
        element("div", element("strong", title)),
        table,
        more,
        element("div", note) if note else None,
        class_="exporter-card",
    )


def signature_card(title: Child, found: Signature) -> str:
    """The inputs and outputs of a signature."""
    rows = [
        ("input", code(name), code(spec), "has a default" if name in found.defaults else "")
        for name, spec in found.inputs.items()
    ]
    rows += [("output", code(name), code(spec), "") for name, spec in found.outputs.items()]
    return card(title, ("", "Name", "Type", ""), rows)


def signatures_card(title: Child, found: Sequence[Signature], note: str = "") -> str:
    """What can be called by name, a row for each."""
    rows = [(code(one.name), _specs(one.inputs), _specs(one.outputs)) for one in found]
    return card(title, ("Signature", "Inputs", "Outputs"), rows, note)


def _specs(specs: Mapping[str, object]) -> Markup:
    shown = [f"{name}: {spec}" for name, spec in list(specs.items())[:MAX_LINES]]
    more = len(specs) - len(shown)
    listed = [*shown, f"and {more:,} more"] if more else shown
    return fragment(*(element("div", code(text)) for text in listed))
