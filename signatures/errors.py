"""Every error that the promises of a callable can raise.

    ExporterError                   anything this project raises on purpose
    └── SignatureError              something about specs, names or calls
        ├── SpecError               (ValueError)  a spec, axis or dtype that cannot be
        ├── BindError               (TypeError)   values of a call that do not fit
        ├── ResolveError            (ValueError)  functions that cannot be the signatures asked for
        │   └── NameTypeError       (TypeError)   a name that is not text
        └── UnknownSignatureError   (KeyError)    a name that no signature has

`exporter.errors` continues the tree below `ExporterError`.
"""

from collections.abc import Iterable


class ExporterError(Exception):
    """The root of every error that this project raises on purpose."""


class SignatureError(ExporterError):
    """Something about specs, names or calls is wrong."""


class SpecError(SignatureError, ValueError):
    """A spec, an axis or a dtype that cannot be."""


class BindError(SignatureError, TypeError):
    """The values of a call do not fit.

    Attributes:
      problems: one line for each value that does not fit, beginning with the input's name.
    """

    def __init__(self, message: str, problems: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


class ResolveError(SignatureError, ValueError):
    """Functions that cannot be written as the signatures asked for."""


class NameTypeError(ResolveError, TypeError):
    """A name for a signature that is not text."""


class UnknownSignatureError(SignatureError, KeyError):
    """No signature has this name.

    Attributes:
      name: the name that was asked for.
      known: the names that exist.
    """

    def __init__(self, message: str, name: str = "", known: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.name = name
        self.known = tuple(known)

    def __str__(self) -> str:  # KeyError would print the message in quotes
        return str(self.args[0])
