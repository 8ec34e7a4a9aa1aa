"""Who may call: the tokens of a file, and the certificate of the server."""

import hmac
import ssl
from collections.abc import Callable
from pathlib import Path

from exporter.errors import OptionError


def tokens_of(file: Path) -> Callable[[str | None], bool]:
    """Whether the value of an `authorization` header has one of the tokens in a file.

    A file has a token in each line. It is read anew when it has changed, so that tokens can be
    replaced without a new start.

    Raises:
      OptionError: if it cannot be read or has none.
    """
    found = _Tokens(file)
    found.refresh()
    return found


class _Tokens:
    def __init__(self, file: Path) -> None:
        self._file = file
        self._seen: tuple[int, int] | None = None
        self._tokens: list[bytes] = []

    def refresh(self) -> None:
        """Read the file if it has changed."""
        try:
            stat = self._file.stat()
            if (stat.st_mtime_ns, stat.st_size) == self._seen:
                return
            lines = self._file.read_text(encoding="utf-8").split()
        except (OSError, UnicodeDecodeError) as error:
            raise OptionError(f"the tokens in {self._file} cannot be read: {error}.") from error
        if not lines:
            raise OptionError(f"{self._file} has no token; it has one in each line.")
        self._tokens = [line.encode() for line in lines]
        self._seen = (stat.st_mtime_ns, stat.st_size)

    def __call__(self, header: str | None) -> bool:
        try:
            self.refresh()
        except OptionError:  # it is being replaced: what was read before still counts
            if not self._tokens:
                return False
        kind, _, token = (header or "").partition(" ")
        given = token.strip().encode("utf-8", "surrogateescape")
        right = [hmac.compare_digest(given, one) for one in self._tokens]  # all, in equal time
        return kind.lower() == "bearer" and any(right)


def certificate_of(certificate: Path, key: Path) -> tuple[bytes, bytes]:
    """The content of both files, which fit each other.

    Raises:
      OptionError: if they do not, or cannot be read.
    """
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
        return certificate.read_bytes(), key.read_bytes()
    except (OSError, ssl.SSLError) as error:
        raise OptionError(
            f"{certificate} and {key} are no certificate and its key, as PEM: {error}."
        ) from error
