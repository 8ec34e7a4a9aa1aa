"""A SavedModel of TensorFlow: every signature by name, on variables that they share and change.

A program goes in as it is stored. TensorFlow has an operation for programs of `jax.export`,
`XlaCallModule`, which compiles one for the sizes and the platform that it meets, without JAX. It is
none of TensorFlow's public names: it is found where JAX's own bridge to TensorFlow finds it. When
it moves, its new place stands here.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from keyword import iskeyword
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.compiler.tf2xla.python import xla

from exporter.conversion.program import OpenArray, OpenProgram, StoredVariable, Written
from exporter.errors import ConversionError

# Variables lie here at first. TensorFlow moves them to where it computes.
_HOME = "CPU:0"

_PACKED = frozenset(("int2", "uint2", "int4", "uint4", "float4_e2m1fn"))


def write(
    programs: Sequence[OpenProgram], variables: Mapping[int, StoredVariable], file: Path
) -> list[Written]:
    """Written by `tf.saved_model.save`, with the variables as a tree under `variables`.

    Raises:
      ConversionError: if TensorFlow has no such variable, or cannot read a program.
    """
    for program in programs:
        _check_convention(program)
    with tf.device(_HOME):
        held = {number: _variable(one) for number, one in variables.items()}
    keys = {number: one.key for number, one in variables.items()}
    root = tf.train.Checkpoint(variables=_tree({keys[number]: one for number, one in held.items()}))
    functions = {program.name: _function(program, held) for program in programs}
    try:
        tf.saved_model.save(root, str(file), signatures=functions)
    except (KeyError, TypeError, ValueError, tf.errors.OpError) as error:  # a name of its own
        raise ConversionError(f"TensorFlow cannot save it: {_matter(error)}") from error

    @cache
    def loaded() -> Any:
        return tf.saved_model.load(str(file))

    changed = {number: variables[number] for one in programs for number in one.updates}
    return [
        Written(
            tuple(_called(one)),
            tuple(array.name for array in one.outputs),
            _runner(loaded, one, _called(one), changed),
        )
        for one in programs
    ]


def _check_convention(program: OpenProgram) -> None:
    newest = xla.call_module_maximum_supported_version()
    if program.calling_convention > newest:
        raise ConversionError(
            f"signature {program.name!r} is called by convention {program.calling_convention}, and "
            f"TensorFlow {tf.__version__} knows those up to {newest}. Install a newer one"
        )


def _variable(stored: StoredVariable) -> Any:
    """A variable of TensorFlow.

    Raises:
      ConversionError: if it would not hold what was stored.
    """
    path, dtype = "/".join(stored.key), stored.value.dtype
    if dtype.name in _PACKED:
        raise ConversionError(
            f"variable {path} is {dtype.name}, which TensorFlow keeps one to a byte and a program "
            "reads two to a byte"
        )
    name = stored.key[-1] if stored.key else "value"
    try:
        return tf.Variable(stored.value, trainable=stored.trainable, name=name)
    except (TypeError, ValueError, tf.errors.OpError) as error:
        raise ConversionError(
            f"variable {path} is {dtype.name}, which TensorFlow has no variables of"
        ) from error


def _tree(leaves: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, leaf in leaves.items():
        *above, last = key
        node = tree
        for part in above:
            node = node.setdefault(part, {})
        node[last] = leaf
    return tree


def _function(program: OpenProgram, variables: Mapping[int, Any]) -> Any:
    """A program as a function of TensorFlow that has been traced."""
    results = [variables[number] for number in program.updates]
    tout = [*(one.dtype for one in results), *(_dtype(one) for one in program.outputs)]
    sout = [*(one.shape for one in results), *(one.shape for one in program.outputs)]

    def call(*inputs: Any) -> dict[str, Any]:
        every = [*(variables[number] for number in program.variables), *inputs]
        found = xla.call_module(
            [every[position] for position in program.kept],
            version=program.calling_convention,
            module=program.bytecode,
            Tout=tout,
            Sout=sout,
            platforms=[one.upper() for one in program.platforms],
        )
        # All are computed before the first is assigned.
        for variable, value in zip(results, found, strict=False):
            variable.assign(value)
        outputs = found[len(results) :]
        return {one.name: value for one, value in zip(program.outputs, outputs, strict=True)}

    specs = [
        tf.TensorSpec(one.shape, _dtype(one), name)
        for one, name in zip(program.inputs, _called(program), strict=True)
    ]
    try:
        return tf.function(call, autograph=False).get_concrete_function(*specs)
    except (TypeError, ValueError, tf.errors.OpError) as error:
        raise ConversionError(
            f"TensorFlow cannot express signature {program.name!r}: {_matter(error)}"
        ) from error


def _dtype(array: OpenArray) -> Any:
    return tf.as_dtype(array.dtype)


def _called(program: OpenProgram) -> list[str]:
    """The names of inputs as TensorFlow has them, which are those of Python and all different."""
    found: list[str] = []
    for one in program.inputs:
        plain = name = re.sub(r"\W", "_", one.name, flags=re.ASCII)
        # TensorFlow passes inputs by name to methods of its own.
        if not plain[:1].isalpha() or plain == "self" or iskeyword(plain):
            plain = name = f"x_{plain}"
        count = 0
        while name in found:
            count += 1
            name = f"{plain}_{count}"
        found.append(name)
    return found


def _runner(
    loaded: Callable[[], Any],
    program: OpenProgram,
    names: Sequence[str],
    changed: Mapping[int, StoredVariable],
) -> Callable[[Sequence[np.ndarray]], list[np.ndarray]]:
    """Runs a signature of what was written, on variables as they were stored."""
    states = [number for number in program.updates if number in program.variables]

    def run(values: Sequence[np.ndarray]) -> list[np.ndarray]:
        model = loaded()
        held = {number: _leaf(model.variables, one.key) for number, one in changed.items()}
        for number, one in changed.items():
            held[number].assign(one.value)
        count = len(program.inputs)
        for number, value in zip(states, values[count:], strict=True):
            held[number].assign(value)
        given = {
            name: tf.constant(value) for name, value in zip(names, values[:count], strict=True)
        }
        try:
            found = model.signatures[program.name](**given)
        except tf.errors.OpError as error:
            raise ConversionError(_matter(error)) from error
        return [
            *(found[one.name].numpy() for one in program.outputs),
            *(held[number].numpy() for number in program.updates),
        ]

    return run


def _leaf(tree: Any, key: Sequence[str]) -> Any:
    for part in key:
        tree = tree[part]
    return tree


def _matter(error: Exception) -> str:
    """The line that says what is wrong, without the program that is quoted around it."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    found = next((line for line in lines if "error: " in line), lines[0])
    return found.rpartition("error: ")[2]
