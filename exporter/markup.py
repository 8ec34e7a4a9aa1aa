"""HTML that cannot be broken by what is written into it: text is escaped unless it is `Markup`.

Names come from artifacts, which anybody may have written. Whoever shows them builds elements with
`element`, and never joins text and tags.
"""

import html
import re
from collections.abc import Iterable

# What must not reach a terminal or a page. Besides control characters these are line separators,
# changes of writing direction, and halves of UTF-16's pairs.
_UNPRINTABLE = re.compile(
    "[\\x00-\\x1f\\x7f-\\x9f\\u2028-\\u202e\\u2066-\\u2069\\ud800-\\udfff]"  # as re reads escapes
)

# Elements that HTML closes by itself.
_EMPTY = frozenset(("meta", "link", "input", "br"))


class Markup(str):
    """Text that is HTML already. `element`, `joined` and `fragment` make it."""

    __slots__ = ()


Child = object  # markup stays as it is, `None` is nothing, everything else is text


def printable(text: str) -> str:
    """`text` with escapes in place of what would change a terminal or break a line."""
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def element(name: str, /, *children: Child, **attributes: object) -> Markup:
    """An element with its children, each escaped unless it is markup.

    >>> element("p", "a < b", class_="note", data_count=2, hidden=True, id=None)
    '<p class="note" data-count="2" hidden>a &lt; b</p>'

    Args:
      name: of the element.
      children: what it holds.
      attributes: by name, with `_` for `-`, and one at the end of a name that Python keeps for
        itself. `None` and `False` are left out, and `True` is a name without a value.
    """
    written = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in _EMPTY:
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{fragment(*children)}</{name}>")


def fragment(*children: Child) -> Markup:
    """The children one after the other, each escaped unless it is markup."""
    return Markup("".join(map(_child, children)))


def joined(children: Iterable[Child], between: Child = "") -> Markup:
    """Likewise, with something between them."""
    return Markup(_child(between).join(map(_child, children)))


def _child(child: Child) -> str:
    if child is None:
        return ""
    return child if isinstance(child, Markup) else html.escape(printable(str(child)))


def _attribute(key: str, value: object) -> str:
    name = key.removesuffix("_").replace("_", "-")
    if value is None or value is False:
        return ""
    return f" {name}" if value is True else f' {name}="{html.escape(printable(str(value)))}"'
