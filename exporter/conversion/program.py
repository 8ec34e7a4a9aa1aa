"""Signatures as converters take them: one at fixed sizes, or several as they are stored."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class PlainArray:
    """One array that goes in or out. A random key is the words that it is made of.

    Attributes:
      name: the name in the signature, or `state/` and the path of a variable.
      dtype: its dtype.
      shape: its shape.
    """

    name: str
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype.name}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True, eq=False)
class Arrays:
    """What goes into a signature and comes out of it, at fixed sizes.

    Attributes:
      inputs: the inputs of the signature, then the state that it reads and changes.
      outputs: its outputs, then the state that it changes.
      state: the stored values of that state, the last of the inputs.
    """

    inputs: tuple[PlainArray, ...]
    outputs: tuple[PlainArray, ...]
    state: tuple[np.ndarray, ...]


@dataclass(frozen=True, eq=False)
class StaticProgram(Arrays):
    """One signature at fixed sizes on one platform.

    Attributes:
      name: of the signature.
      platform: what its operations are for.
      variables: the variables that the module takes first, with their values. None where they are
        constants in it.
      custom_calls: the native functions that it calls by name.
      bytecode: the module, as bytecode of MLIR. Its main function takes `variables` and `inputs`
        and returns `outputs`. Names are attributes: `jax.arg_info` and `jax.result_info`.
    """

    name: str
    platform: str
    variables: tuple[tuple[str, np.ndarray], ...]
    custom_calls: tuple[str, ...]
    bytecode: bytes = field(repr=False)


@dataclass(frozen=True)
class OpenArray:
    """One array that goes in or out, where an axis may have any size.

    Attributes:
      name: the name in the signature.
      dtype: its dtype. A random key is the words that it is made of.
      axes: each a size, the text of a name or expression, or `None` for any size.
    """

    name: str
    dtype: np.dtype[np.generic]
    axes: tuple[int | str | None, ...]

    @property
    def shape(self) -> tuple[int | None, ...]:
        """Its sizes, `None` where they are open."""
        return tuple(axis if isinstance(axis, int) else None for axis in self.axes)

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype.name}[{', '.join(map(str, self.axes))}]"


@dataclass(frozen=True, eq=False)
class OpenProgram:
    """One signature as it is stored: for any sizes, and for all its platforms.

    Attributes:
      name: of the signature.
      platforms: what it can run on. If there are several, it is told the number of one first.
      calling_convention: the version of what it takes besides.
      inputs: the inputs of the signature.
      outputs: its outputs.
      variables: the numbers of the variables that it works on, which come before the inputs.
      kept: the positions, among variables and inputs, of what it takes.
      updates: the numbers of the variables that it gives values to, which come before the outputs.
      bytecode: the program, as portable bytecode.
    """

    name: str
    platforms: tuple[str, ...]
    calling_convention: int
    inputs: tuple[OpenArray, ...]
    outputs: tuple[OpenArray, ...]
    variables: tuple[int, ...]
    kept: tuple[int, ...]
    updates: tuple[int, ...]
    bytecode: bytes = field(repr=False)


@dataclass(frozen=True, eq=False)
class StoredVariable:
    """A variable with its value.

    Attributes:
      key: its path.
      value: what was stored. A random key is the words that it is made of.
      trainable: whether training changes it.
    """

    key: tuple[str, ...]
    value: np.ndarray
    trainable: bool


# Runs a converted file on the inputs of a program, and gives its outputs.
Run = Callable[[Sequence[np.ndarray]], list[np.ndarray]]


@dataclass(frozen=True)
class Written:
    """What a converter made of a program.

    Attributes:
      inputs: what each input is called in the file, in order. `None` where names are not kept, and
        inputs are known by their position.
      outputs: what each output is called, likewise.
      run: runs it, if this machine has what runs it.
    """

    inputs: tuple[str, ...] | None
    outputs: tuple[str, ...] | None
    run: Run | None


class Writer(Protocol):
    """The module of a format. What its libraries are it imports itself, so that it needs them."""

    def write(self, program: StaticProgram, file: Path) -> Written:
        """Write a program to a file of that name, which is not there yet.

        Raises:
          ConversionError: if the format has no place for what it computes.
        """
        ...


class WholeWriter(Protocol):
    """The module of a format that takes several signatures with the variables that they share."""

    def write(
        self, programs: Sequence[OpenProgram], variables: Mapping[int, StoredVariable], file: Path
    ) -> list[Written]:
        """Write them to a file of that name, which is not there yet, and say what became of each.

        Args:
          programs: the signatures.
          variables: those that they work on, by their numbers.
          file: the file or folder.

        Raises:
          ConversionError: if the format has no place for one of them.
        """
        ...
