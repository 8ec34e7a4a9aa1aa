"""Scores become labels: that of the highest score, or those of the highest few."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from exporter.artifact.records import LabelsOptions
from exporter.errors import StageError
from exporter.stages.stage import Prepared, as_lines, chosen, lines_of
from signatures.errors import BindError
from signatures.signature import Signature

# An array of texts takes as much memory for each as for the longest.
_MAX_LENGTH = 1000


@dataclass(frozen=True)
class Labels:
    """Scores in, labels out: instead of an output its labels with the highest scores.

    Of equal scores the first counts, and NaN is lower than any other.

    Attributes:
      labels: the path of a text file with a label in each line, or a list: one for each position
        in the last axis of the output.
      output: the output of the signature that has the scores; not needed if there is only one.
      top_k: how many labels. With 1 the last axis of the scores is gone, else it is as long.
      with_scores: whether callers get the scores too, as `label_score`.
      name: what callers name the labels.
    """

    labels: str | os.PathLike[str] | Sequence[str]
    output: str | None = None
    top_k: int = 1
    with_scores: bool = True
    name: str = "label"

    def prepared(self, signature: Signature) -> Prepared:
        """See `Stage`."""
        output = chosen(self.output, signature.outputs, "output")
        if self.top_k < 1:
            raise StageError(f"top_k is a whole number of at least 1; got {self.top_k!r}")
        file = as_lines(self.labels, "labels.txt", "labels")
        options = LabelsOptions(output, self.name, self.top_k, self.with_scores)
        return Prepared(options, (file,))


class Labelling:
    """The stage at work."""

    def __init__(self, options: LabelsOptions, data: bytes, signature: Signature) -> None:
        """The stage after that signature.

        Raises:
          StageError: if the file is damaged, or has another number of labels than needed.
        """
        self._options = options
        lines = lines_of(data, "the labels")
        if any(len(line) > _MAX_LENGTH for line in lines):
            raise StageError(f"the labels have one of more than {_MAX_LENGTH:,} characters")
        self._labels = np.array(lines, object)
        axis = (signature.outputs[options.output].shape or (None,))[-1]
        if isinstance(axis, int) and axis != len(lines):
            raise StageError(
                f"there are {len(lines)} labels, and {options.output!r} is "
                f"{signature.outputs[options.output]}, with {axis} scores"
            )
        if len(lines) < options.top_k:
            raise StageError(f"top_k is {options.top_k}, and there are {len(lines)} labels")

    def results(self, output: Any) -> dict[str, Any]:
        """See `OutputStage`."""
        scores = np.asarray(output)
        name, k = self._options.name, self._options.top_k
        if scores.shape[-1] != len(self._labels):
            problem = (
                f"{self._options.output}: has {scores.shape[-1]} scores in its last axis, and "
                f"there are {len(self._labels)} labels"
            )
            raise BindError(problem, [problem])
        order = _descending(scores)[..., :k]
        found = {name: self._labels[order].astype(str)}
        if self._options.with_scores:
            found[f"{name}_score"] = np.take_along_axis(scores, order, axis=-1)
        return {key: one[..., 0] if k == 1 else one for key, one in found.items()}


def _descending(scores: np.ndarray) -> np.ndarray:
    """The positions in the last axis, the highest score first, of equal ones the first."""
    if scores.dtype.kind not in "biu":
        wide = scores.astype(np.float64)  # exact for every smaller float, which cannot all sort
        scores = np.where(np.isnan(wide), -np.inf, wide)
    backwards = np.argsort(scores[..., ::-1], axis=-1, kind="stable")[..., ::-1]
    order: np.ndarray = scores.shape[-1] - 1 - backwards
    return order
