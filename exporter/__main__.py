"""The command `exporter`, as the shell starts it; `python -m exporter` is the same."""

import os
import signal
import sys
import warnings
from types import FrameType

# Where an exception is lost: JAX is called back by the garbage collector, and objects end there.
_DEAF = frozenset({"_xla_gc_callback", "__del__"})

# Soon afterwards, in seconds.
_SOON = 0.02

_INTERRUPTED = 130


def run() -> int:
    """Run the command of this process, and give its exit code."""
    try:
        signal.signal(signal.SIGINT, _interrupted)
        signal.signal(signal.SIGALRM, _interrupted)
        warnings.showwarning = _show_warning
        from exporter.cli import main

        code = main()
    except KeyboardInterrupt:  # while something was imported
        code = _INTERRUPTED
    if code == _INTERRUPTED:  # threads of compilers would not outlive what else is to be done
        os._exit(code)
    return code


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    """A warning as one line: where in our code it arose concerns nobody."""
    from exporter.markup import printable

    print(f"exporter: warning: {printable(' '.join(str(message).split()))}", file=sys.stderr)


def _interrupted(_number: int, frame: FrameType | None) -> None:
    """What Python does for SIGINT, but not where it would be ignored: then a moment later."""
    while frame is not None:
        if frame.f_code.co_name in _DEAF:
            signal.setitimer(signal.ITIMER_REAL, _SOON)
            return
        frame = frame.f_back
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(run())
