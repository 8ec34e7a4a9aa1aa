"""Every error of the package, as a tree.

ExporterError                       (from `signatures.errors`, with the errors of calls)
├── TrackingError                   (ValueError)         the object's state cannot be followed
│   ├── UntrackedVariableError                           a function uses other state
│   └── AssetNotFoundError          (FileNotFoundError)  a file that is to be saved is not there
├── TracingError                    (ValueError)         a function cannot be traced
│   └── InconclusiveSizesError                           asks for a size that depends on the call
├── LoweringError                   (ValueError)         a trace cannot become a program
├── OptionError                     (ValueError)         an option has a value that cannot be
├── ArtifactError                   (ValueError)         a folder that is not a sound artifact
│   ├── ArtifactNotFoundError       (FileNotFoundError)  there is no artifact at the path
│   ├── ArtifactExistsError         (FileExistsError)    something is there already
│   ├── FormatVersionError                               written in a format we do not read
│   └── UnsafeProgramError                               a program calls unknown native code
├── UnknownPartError                (LookupError)        a path that leads to no part of a model
├── VerificationError               (AssertionError)     a model computes other results than it did
├── IncompatibleRuntimeError        (RuntimeError)       this machine cannot run the artifact
├── NoDerivativeError               (ValueError)         a program was saved without its derivative
├── NotBatchableError               (NotImplementedError) a loaded function under jax.vmap
├── StateError                      (RuntimeError)       a variable cannot take or give a value
└── MissingExtraError               (ImportError)        an optional dependency is not installed
"""

from collections.abc import Iterable

from signatures.errors import ExporterError


class TrackingError(ExporterError, ValueError):
    """The state of an object cannot be followed, or a function uses state outside of it."""


class UntrackedVariableError(TrackingError):
    """A function uses a variable that is not part of the saved object.

    Attributes:
      variable: the variable.
    """

    def __init__(self, message: str, variable: object) -> None:
        super().__init__(message)
        self.variable = variable


class AssetNotFoundError(TrackingError, FileNotFoundError):
    """A file or folder that is to be saved with an object is not there."""


class TracingError(ExporterError, ValueError):
    """A function cannot be traced with its input specs."""


class InconclusiveSizesError(TracingError):
    """A function asks whether two sizes are equal, and the answer depends on the call."""


class LoweringError(ExporterError, ValueError):
    """A traced function cannot become a portable program."""


class OptionError(ExporterError, ValueError):
    """An option has a value that cannot be."""


class ArtifactError(ExporterError, ValueError):
    """A folder is not a sound artifact.

    Attributes:
      problems: one line for each thing that is wrong, naming its file.
    """

    def __init__(self, message: str, problems: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


class ArtifactNotFoundError(ArtifactError, FileNotFoundError):
    """There is no artifact at the path."""


class ArtifactExistsError(ArtifactError, FileExistsError):
    """Something is at the path already, and it was not to be replaced."""


class FormatVersionError(ArtifactError):
    """The artifact is written in a format that this version does not read."""


class UnsafeProgramError(ArtifactError):
    """A program calls native code that nobody has vouched for."""


class UnknownPartError(ExporterError, LookupError):
    """A path leads to no part of a saved model.

    Attributes:
      known: the paths of the parts that there are at the last object on the way.
    """

    def __init__(self, message: str, known: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.known = tuple(known)


class VerificationError(ExporterError, AssertionError):
    """A loaded model computes other results than the original did.

    Attributes:
      report: every comparison.
    """

    def __init__(self, message: str, report: object) -> None:
        super().__init__(message)
        self.report = report


class IncompatibleRuntimeError(ExporterError, RuntimeError):
    """This machine or process cannot run the artifact."""


class NoDerivativeError(ExporterError, ValueError):
    """A program was saved without its derivative, and somebody asks for a gradient."""


class NotBatchableError(ExporterError, NotImplementedError):
    """A loaded function was called under `jax.vmap`."""


class StateError(ExporterError, RuntimeError):
    """A variable cannot take the value that it is given, or has none to give."""


class MissingExtraError(ExporterError, ImportError):
    """An optional dependency is not installed. The message says which command installs it."""
