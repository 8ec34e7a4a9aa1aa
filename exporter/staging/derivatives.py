"""The derivative of a flat function, as another flat function that can be lowered like any other.

JAX can export derivatives by itself, but they take and return arrays of no bytes (`float0`) for
integers, which no program of ours could pass on. Here only fractions and complex numbers have
cotangents, so every argument and result is an ordinary array.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax

from exporter.staging.outputs import spec_of
from signatures.dtypes import as_dtype, is_inexact
from signatures.spec import TensorSpec


@dataclass(frozen=True)
class FlatFunction:
    """A function of flat plain arrays, with what its program will be called with.

    Attributes:
      name: what it is called in messages.
      call: takes the variables it reads, then the inputs; returns the variables it changes, then
        the outputs.
      structs: what `call` takes.
      variables: the variables it reads, by number in the artifact.
      updates: the variables it changes, likewise.
      inputs: the inputs, every axis a size or a symbol.
      outputs: the outputs likewise.
    """

    name: str
    call: Callable[..., Sequence[jax.Array]]
    structs: tuple[jax.ShapeDtypeStruct, ...]
    variables: tuple[int, ...]
    updates: tuple[int, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def derivative_of(
    function: FlatFunction, results: Sequence[jax.ShapeDtypeStruct]
) -> FlatFunction | None:
    """The reverse-mode derivative of a flat function, or `None` where all of it is zero.

    It takes what the function takes, then a cotangent for each result that is inexact (a fraction
    or complex), variables first, and returns a cotangent for each argument that is. It changes no
    variable. It computes the function anew: nothing is kept between the two.

    Args:
      function: what to differentiate. It is not traced here, but when the derivative is.
      results: what it returns, symbols included.
    """
    moving = [i for i, struct in enumerate(function.structs) if _is_inexact(struct)]
    seen = [i for i, struct in enumerate(results) if _is_inexact(struct)]
    if not moving or not seen:
        return None
    count = len(function.structs)

    def call(*arrays: jax.Array) -> list[jax.Array]:
        arguments, cotangents = arrays[:count], arrays[count:]

        def of_inexact(*moved: jax.Array) -> list[jax.Array]:
            given = list(arguments)
            for position, array in zip(moving, moved, strict=True):
                given[position] = array
            found = function.call(*given)
            return [found[position] for position in seen]

        _, pull_back = jax.vjp(of_inexact, *(arguments[position] for position in moving))
        return list(pull_back(list(cotangents)))

    read = len(function.structs) - len(function.inputs)
    states = [spec_of(struct) for struct in function.structs[:read]]
    updates = [spec_of(struct) for struct in results[: len(function.updates)]]
    taken, given = (*states, *function.inputs), (*updates, *function.outputs)
    towards = [jax.ShapeDtypeStruct(results[i].shape, results[i].dtype) for i in seen]
    return FlatFunction(
        name=f"the derivative of {function.name}",
        call=call,
        structs=(*function.structs, *towards),
        variables=function.variables,
        updates=(),
        inputs=(*function.inputs, *(given[position] for position in seen)),
        outputs=tuple(taken[position] for position in moving),
    )


def _is_inexact(struct: jax.ShapeDtypeStruct) -> bool:
    return is_inexact(as_dtype(struct.dtype))
