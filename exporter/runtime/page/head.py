"""The head of a page that asks for nothing elsewhere and runs no code but its own."""

import base64
import hashlib

from exporter.markup import Markup, element


def head(title: str, style: str, script: str, *, calls: bool = False) -> Markup:
    """The head, with a policy by which no other style or script applies.

    Args:
      title: of the page.
      style: the only one.
      script: the only one, which stands in the body.
      calls: whether the script asks things of the server that the page came from.
    """
    policy = (
        "default-src 'none'",
        f"style-src '{_digest(style)}'",
        f"script-src '{_digest(script)}'",
        *(["connect-src 'self'"] if calls else []),
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
    )
    return element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content="; ".join(policy)),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="referrer", content="no-referrer"),
        element("meta", name="color-scheme", content="light dark"),
        element("link", rel="icon", href="data:,"),
        element("title", title),
        element("style", Markup(style)),
    )


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
