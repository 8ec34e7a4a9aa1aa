"""One signature at fixed sizes on one platform, as a converter takes it."""

from collections.abc import Callable, Sequence
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
class StaticProgram:
    """One signature at fixed sizes on one platform.

    Attributes:
      name: of the signature.
      platform: what its operations are for.
      inputs: the inputs of the signature, then the state that it reads and changes.
      outputs: its outputs, then the state that it changes.
      state: the stored values of that state, the last of the inputs.
      variables: the variables that the module takes first, with their values. None where they are
        constants in it.
      custom_calls: the native functions that it calls by name.
      bytecode: the module, as bytecode of MLIR. Its main function takes `variables` and `inputs`
        and returns `outputs`. Names are attributes: `jax.arg_info` and `jax.result_info`.
    """

    name: str
    platform: str
    inputs: tuple[PlainArray, ...]
    outputs: tuple[PlainArray, ...]
    state: tuple[np.ndarray, ...]
    variables: tuple[tuple[str, np.ndarray], ...]
    custom_calls: tuple[str, ...]
    bytecode: bytes = field(repr=False)


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
