"""Addresses to listen at."""

import socket

from exporter.errors import OptionError


def bind(host: str, port: int, *, is_shared: bool) -> socket.socket:
    """A socket at an address, which does not listen yet.

    Args:
      host: a name, or an address of IPv4 or IPv6.
      port: its number; 0 is a free one.
      is_shared: whether other processes of this user may listen there too.

    Raises:
      OptionError: if it cannot be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        made = socket.socket(family, kind, protocol)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if is_shared:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            made.bind(address)
        except OSError:
            made.close()
            raise
    except OSError as error:
        raise OptionError(
            f"cannot listen at {host}:{port}: {error.strerror or error}. Choose another address "
            "or port."
        ) from error
    return made
