"""What the server writes to stderr: lines for people, or JSON for machines."""

import json
import logging
import sys
import time

# What every record has; the rest was given with `extra=`.
_USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

# Of these we tell. Others that come through it are as loud as their libraries make them.
_OURS = "exporter.serving"


class _Json(logging.Formatter):
    """A record as a line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        found = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **{key: value for key, value in vars(record).items() if key not in _USUAL},
        }
        if record.exc_info:
            found["exception"] = self.formatException(record.exc_info)
        return json.dumps(found, default=str)


class _Text(logging.Formatter):
    """A record as a line for people."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, with what was given beside its message."""
        beside = "".join(
            f" {key}={value}" for key, value in vars(record).items() if key not in _USUAL
        )
        line = f"{_time(record)} {record.levelname.lower():7} {record.getMessage()}{beside}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def set_up(*, is_json: bool, level: int = logging.INFO) -> None:
    """Let the records of the server, and warnings and errors of others, go to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if is_json else _Text())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger(_OURS).setLevel(level)
    logging.captureWarnings(capture=True)


def _time(record: logging.LogRecord) -> str:
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{seconds}.{int(record.msecs):03d}Z"
