"""Words become their positions in a list."""

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from exporter.artifact.records import VocabularyOptions
from exporter.artifact.stages import holds
from exporter.errors import StageError
from exporter.stages.stage import Prepared, as_lines, chosen, lines_of
from signatures.errors import BindError
from signatures.signature import Signature

_MAX_PROBLEMS = 10


@dataclass(frozen=True)
class Vocabulary:
    """Words in, ids out: the position of each word in a list, from 0.

    Words are given as nested lists with the axes of the input of the signature.

    Attributes:
      words: the path of a text file with a word in each line, or a list.
      input: what callers name the words.
      output: the input of the signature that takes the ids; not needed if there is only one.
      unknown: the word of the list that stands for all others. `None` refuses others.
    """

    words: str | os.PathLike[str] | Sequence[str]
    input: str = "words"
    output: str | None = None
    unknown: str | None = None

    def prepared(self, signature: Signature) -> Prepared:
        """See `Stage`."""
        output = chosen(self.output, signature.inputs, "output")
        file = as_lines(self.words, "vocabulary.txt", "words")
        return Prepared(VocabularyOptions(self.input, output, self.unknown), (file,))


class LookingUp:
    """The stage at work."""

    def __init__(self, options: VocabularyOptions, data: bytes, signature: Signature) -> None:
        """The stage before that signature.

        Raises:
          StageError: if the file is damaged, or does not fit.
        """
        words = lines_of(data, "the vocabulary")
        self._ids = {word: position for position, word in enumerate(words)}
        if len(self._ids) < len(words):
            twice = next(w for position, w in enumerate(words) if self._ids[w] != position)
            raise StageError(f"the vocabulary has {twice!r} twice")
        if options.unknown is not None and options.unknown not in self._ids:
            raise StageError(f"unknown is {options.unknown!r}, which the vocabulary does not have")
        self._spec = signature.inputs[options.output]
        if not holds(self._spec, len(words) - 1):
            raise StageError(
                f"{options.output!r} is {self._spec}, which cannot hold the ids of "
                f"{len(words):,} words"
            )
        self._options = options

    def arrays(self, value: object) -> dict[str, Any]:
        """See `InputStage`. What lacks the first axis is a batch of one."""
        name, rank = self._options.input, len(self._spec.shape or ())
        words = _as_array(name, value, rank)
        other = None if self._options.unknown is None else self._ids[self._options.unknown]
        ids = [self._ids.get(word, other) for word in words.flat]
        problems = _unknown(name, words, ids)
        if problems:
            raise BindError("\n".join(problems), problems)
        array = np.array(ids, np.int64).astype(cast(np.dtype[Any], self._spec.dtype))
        return {self._options.output: array.reshape(words.shape)}


def _unknown(name: str, words: np.ndarray, ids: Sequence[int | None]) -> list[str]:
    """A line for each word that has no id, at its first place, and how many more there are."""
    places: dict[str, tuple[int, ...]] = {}
    for place, word, found in zip(np.ndindex(words.shape), words.flat, ids, strict=True):
        if found is None:
            places.setdefault(word, place)
    lines = [
        f"{name}{''.join(f'[{index}]' for index in place)}: {word!r} is not in the vocabulary"
        for word, place in itertools.islice(places.items(), _MAX_PROBLEMS)
    ]
    more = len(places) - len(lines)
    return [*lines, f"{name}: {more:,} more words are not"] if more else lines


def _as_array(name: str, value: object, rank: int) -> np.ndarray:
    """Words in an array of so many axes. A word alone is a batch of one, in every axis."""
    plain = value.tolist() if isinstance(value, np.ndarray) else value
    leaves: list[str] = []
    shape = _shape(name, plain, leaves)
    if shape is None or len(shape) not in (0, rank, rank - 1):
        found = "lists of different lengths" if shape is None else f"{len(shape)}"
        problem = f"{name}: expected words in {rank} axes, got {found}"
        raise BindError(problem, [problem])
    if 0 in shape:
        shape = (*shape, *(0 for _ in range(rank - len(shape))))
    array = np.empty(len(leaves), object)
    array[:] = leaves
    return array.reshape((*(1 for _ in range(rank - len(shape))), *shape))


def _shape(name: str, value: object, leaves: list[str]) -> tuple[int, ...] | None:
    """The shape of nested lists of words, or `None` if they have none. The words join `leaves`."""
    if isinstance(value, str):
        leaves.append(value)
        return ()
    if not isinstance(value, list | tuple):
        problem = f"{name}: expected words, got {type(value).__name__}"
        raise BindError(problem, [problem])
    shapes = {_shape(name, item, leaves) for item in value}
    if len(shapes) > 1 or None in shapes:
        return None
    return (len(value), *(next(iter(shapes), ()) or ()))
