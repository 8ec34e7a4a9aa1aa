"""A file that a model needs beside its arrays, the same while a model is built and when loaded."""

import os
from dataclasses import dataclass
from pathlib import Path

from exporter.errors import TrackingError


@dataclass(frozen=True, init=False)
class Asset(os.PathLike[str]):
    """A file or folder that belongs to a model: a vocabulary, a tokenizer, a table of labels.

    Assign it to an attribute of the model, or put it into a list or dict there. Saving copies the
    file into the artifact, and in the loaded model the `Asset` at the same place is the path of
    that copy. It can be used wherever a path can, as in `open(model.vocabulary)`.

    Attributes:
      path: where the file is, absolute.
    """

    path: Path

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """The file or folder at `path`. It is looked at when the model is saved, not before."""
        given: object = path
        text = os.fspath(given) if isinstance(given, str | os.PathLike) else None
        if not isinstance(text, str) or not text or "\0" in text:
            raise TrackingError(
                f"an Asset is the path of a file or folder, as in Asset('vocab.txt'); got {path!r}."
            )
        object.__setattr__(self, "path", Path.cwd() / text)

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"Asset({str(self.path)!r})"
