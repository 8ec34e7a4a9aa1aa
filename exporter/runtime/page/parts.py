"""What the sections of the page are made of: tables, folds, code to copy, and what was left out."""

from collections.abc import Iterable, Sequence

from exporter.markup import Child, Markup, element, fragment

# A text from an artifact may be megabytes long, and is shown in several places. Nobody reads more
# of it than this.
MAX_TEXT = 1000


def section(identity: str, title: str, *children: Child, count: str = "") -> Markup:
    """A part of the page with a heading, which the list of sections leads to."""
    heading = element(
        "h2", title, element("span", count, class_="count") if count else None, id=identity
    )
    return element("section", heading, *children, aria_labelledby=identity)


def table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[Child]]) -> Markup:
    """A table that scrolls by itself where it is too wide. Its first column heads the rows."""
    caption = cut(caption)
    head = element("tr", *(element("th", name, scope="col") for name in columns))
    body = [
        element(
            "tr",
            element("th", row[0], scope="row"),
            *(
                element("td", cell, data_label=name)
                for name, cell in zip(columns[1:], row[1:], strict=True)
            ),
        )
        for row in rows
    ]
    return element(
        "div",
        element(
            "table",
            element("caption", caption, class_="unseen"),
            element("thead", head),
            element("tbody", *body),
        ),
        class_="wide",
        tabindex="0",
        role="region",
        aria_label=caption,
    )


def fold(summary: Child, *children: Child, is_open: bool = False, kind: str = "") -> Markup:
    """Something that opens and closes."""
    return element(
        "details", element("summary", summary), *children, open=is_open, class_=kind or None
    )


def code(text: str) -> Markup:
    """Text in the letters of code, cut where it is too long to be read."""
    return element("code", text if isinstance(text, Markup) else cut(text))


def listing(title: str, text: str) -> Markup:
    """Lines to copy. The button appears where there are scripts."""
    lines = [
        element("span", line) if line else Markup("<span></span>") for line in text.split("\n")
    ]
    return element(
        "figure",
        element(
            "figcaption",
            title,
            element("button", "Copy", type="button", class_="copy", hidden=True),
        ),
        element("pre", element("code", fragment(*_with_breaks(lines))), tabindex="0"),
        class_="listing",
    )


def _with_breaks(lines: Sequence[Markup]) -> Iterable[Child]:
    for number, line in enumerate(lines):
        if number:
            yield Markup("\n")
        yield line


def left_out(count: int, what: str) -> Markup | None:
    """A line that says how much is not on the page, if anything is not."""
    if count <= 0:
        return None
    return element("p", f"{count:,} more {what} left out of this page.", class_="left-out")


def definitions(rows: Iterable[tuple[str, Child]], kind: str = "") -> Markup:
    """Names, and what each is."""
    pairs = (element("div", element("dt", name), element("dd", value)) for name, value in rows)
    return element("dl", *pairs, class_=kind or None)


def cut(text: str, length: int = MAX_TEXT) -> str:
    """The beginning of a text that is too long."""
    return text if len(text) <= length else f"{text[: length - 3]}..."
