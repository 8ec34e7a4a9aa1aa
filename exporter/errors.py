"""Every error of the package, as a tree.

ExporterError                       (from `signatures.errors`, with the errors of calls)
├── TrackingError                   (ValueError)         the object's state cannot be followed
│   ├── UntrackedVariableError                           a function uses other state
│   └── AssetNotFoundError          (FileNotFoundError)  a file that is to be saved is not there
├── TracingError                    (ValueError)         a function cannot be traced
│   └── InconclusiveSizesError                           asks for a size that depends on the call
├── LoweringError                   (ValueError)         a trace cannot become a program
├── OptionError                     (ValueError)         an option has a value that cannot be
├── StageError                      (ValueError)         a stage does not fit its signature
├── ArtifactError                   (ValueError)         a folder that is not a sound artifact
│   ├── ArtifactNotFoundError       (FileNotFoundError)  there is no artifact at the path
│   ├── ArtifactExistsError         (FileExistsError)    something is there already
│   ├── ArtifactReplacedError                            others save there faster than it is read
│   ├── FormatVersionError                               written in a format we do not read
│   ├── UnsafeProgramError                               a program calls unknown native code
│   └── AuthenticityError                                it is not what the holder of a key signed
├── CheckpointError                 (ValueError)         a checkpoint cannot be written or read
│   ├── CheckpointExistsError       (FileExistsError)    the step is there already
│   ├── CheckpointNotFoundError     (FileNotFoundError)  there is no checkpoint at the path
│   └── RestoreError                (AssertionError)     it holds other arrays than the object
├── UnknownPartError                (LookupError)        a path that leads to no part of a model
├── VerificationError               (AssertionError)     a model computes other results than it did
├── IncompatibleRuntimeError        (RuntimeError)       this machine cannot run the artifact
├── NoDerivativeError               (ValueError)         a program was saved without its derivative
├── NotBatchableError               (NotImplementedError) a loaded function under jax.vmap
├── ConversionError                 (ValueError)         a signature cannot have a foreign format
├── PlacementError                  (ValueError)         variables cannot lie where they should
├── StateError                      (RuntimeError)       a variable cannot take or give a value
└── MissingExtraError               (ImportError)        an optional dependency is not installed
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from signatures.errors import ExporterError

Kind = Literal[
    "object",  # what the object holds cannot be followed or kept
    "state",  # a function leaves state that was not there, or uses state of others
    "code",  # the function itself raises
    "dimension",  # it cannot be traced with the sizes that its specs leave open
    "ranks",  # it cannot be traced with some numbers of axes
    "signature",  # the inputs or signatures asked for cannot be
    "callback",  # it calls Python while it runs
    "constant",  # it holds a large array that the object does not hold
    "custom call",  # it calls native code that nobody vouches for
    "platform",  # an operation has no lowering on a platform
    "mesh",  # it is pinned to a number of devices
    "program",  # it cannot be written at the version of StableHLO that was asked for
    "option",  # what was asked of saving cannot be
    "warning",  # saving would warn
]


@dataclass(frozen=True)
class Problem:
    """One thing that stands in the way of saving an object, or that saving warns of.

    Attributes:
      kind: what sort of thing it is.
      function: the path of the function it concerns, or `None` for the object as a whole.
      message: what is wrong, in a sentence or more.
      remedy: what to do about it.
      platforms: the platforms it concerns, or none if it concerns them all.
      inputs: what the function was traced with, as in `x: float32[n, 3]`, where that matters.
      line: the file and line of the user's code, where it could be found.
      is_error: whether saving fails.
    """

    kind: Kind
    function: str | None
    message: str
    remedy: str = ""
    platforms: tuple[str, ...] = ()
    inputs: str | None = None
    line: str | None = None
    is_error: bool = True

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}" if self.remedy else self.message


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
    """A function cannot be traced with its input specs.

    Attributes:
      line: the line of the user's code where it fails, if the traceback does not tell it.
    """

    def __init__(self, message: str, line: str | None = None) -> None:
        super().__init__(message)
        self.line = line


class InconclusiveSizesError(TracingError):
    """A function asks whether two sizes are equal, and the answer depends on the call."""


class LoweringError(ExporterError, ValueError):
    """A traced function cannot become a portable program.

    Attributes:
      problems: each thing that stands in its way.
    """

    def __init__(self, message: str, problems: Iterable[Problem] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)

    @classmethod
    def of(cls, problems: Iterable[Problem]) -> "LoweringError":
        """One error for all of them, a line each. A remedy of several is told once, at the last."""
        found = tuple(problems)
        distinct = list({str(problem): problem for problem in found}.values())
        following = [*(problem.remedy for problem in distinct[1:]), None]
        lines = [
            problem.message if problem.remedy == after else str(problem)
            for problem, after in zip(distinct, following, strict=True)
        ]
        return cls("\n".join(lines), found)


class OptionError(ExporterError, ValueError):
    """An option has a value that cannot be."""


class StageError(ExporterError, ValueError):
    """A stage does not fit its signature, or its file cannot be used.

    Attributes:
      problems: one line for each thing that is wrong.
    """

    def __init__(self, message: str, problems: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


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


class ArtifactReplacedError(ArtifactError):
    """Another artifact was at the path each time that one had been read. Reading again may do."""


class FormatVersionError(ArtifactError):
    """The artifact is written in a format that this version does not read."""


class UnsafeProgramError(ArtifactError):
    """A program calls native code that nobody has vouched for."""


class CheckpointError(ExporterError, ValueError):
    """A checkpoint cannot be written or read."""


class CheckpointExistsError(CheckpointError, FileExistsError):
    """There is a checkpoint already where one was to be written."""


class CheckpointNotFoundError(CheckpointError, FileNotFoundError):
    """There is no checkpoint at the path."""


class RestoreError(CheckpointError, AssertionError):
    """A checkpoint does not hold the arrays of the object.

    Attributes:
      missing: the arrays of the object that the checkpoint lacks, by path.
      extra: the arrays of the checkpoint that the object has no place for.
      misfits: the arrays of another shape or dtype.
    """

    def __init__(
        self,
        message: str,
        missing: Iterable[str] = (),
        extra: Iterable[str] = (),
        misfits: Iterable[str] = (),
    ) -> None:
        super().__init__(message)
        self.missing = tuple(missing)
        self.extra = tuple(extra)
        self.misfits = tuple(misfits)


class UnknownPartError(ExporterError, LookupError):
    """A path leads to no part of a saved model.

    Attributes:
      known: the paths of the parts that there are at the last object on the way.
    """

    def __init__(self, message: str, known: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.known = tuple(known)


class AuthenticityError(ArtifactError):
    """An artifact is not what the holder of a key signed, or cannot be signed."""


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


class ConversionError(ExporterError, ValueError):
    """A signature cannot become a file of a foreign format, or computes something else there.

    What a foreign compiler said in full is in the cause.
    """


class PlacementError(ExporterError, ValueError):
    """Variables cannot be placed on the devices that a caller asks for.

    Attributes:
      problems: one line for each variable that cannot.
    """

    def __init__(self, message: str, problems: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


class StateError(ExporterError, RuntimeError):
    """A variable cannot take the value that it is given, or has none to give."""


class MissingExtraError(ExporterError, ImportError):
    """An optional dependency is not installed. The message says which command installs it."""
