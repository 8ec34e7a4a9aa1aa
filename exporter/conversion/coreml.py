"""Core ML: an `.mlpackage` for the devices of Apple. It is written here, and runs only there."""

import contextlib
import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from exporter.conversion.program import PlainArray, StaticProgram, Written
from exporter.errors import ConversionError
from exporter.jax_static import parsed


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without progress bars, and without warnings of all that only a Mac has."""
    logger = logging.getLogger("coremltools")
    logger.disabled = True
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.disabled = False


with _quietly():
    import coremltools
    from coremltools.converters.mil import Builder
    from coremltools.converters.mil.mil.passes.defs.preprocess import NameSanitizer
    from stablehlo_coreml import build_pass_pipeline, convert


def write(program: StaticProgram, file: Path) -> Written:
    """Converted by `stablehlo-coreml` and `coremltools`, with float32 left as it is.

    What was written is read again, and its inputs and outputs are compared with those of the
    program: their number, shapes and dtypes. Nothing is computed.

    Raises:
      ConversionError: if they cannot express it, or the file is not what it should be.
    """
    try:
        with _quietly():
            description = _converted(program, file)
    except Exception as error:  # what they raise for what they lack is of many kinds
        reason = str(error).strip().partition("\n")[0]
        raise ConversionError(
            f"Core ML cannot express it: {type(error).__name__}: {reason}"
        ) from error
    return Written(
        _same("inputs", program.inputs, description.input),
        _same("outputs", program.outputs, description.output),
        None,
    )


def _converted(program: StaticProgram, file: Path) -> Any:
    """The description that stands in the file, once it is written."""
    target = coremltools.target.iOS18
    with parsed(program.bytecode) as module:
        converted = convert(module, target)
    function = converted.functions["main"]
    with function:
        function.set_outputs(
            [
                Builder.identity(x=one, name=name)
                for one, name in zip(function.outputs, _names(program, function), strict=True)
            ]
        )
    made = coremltools.convert(
        converted,
        source="milinternal",
        minimum_deployment_target=target,
        compute_precision=coremltools.precision.FLOAT32,
        pass_pipeline=build_pass_pipeline(),
        skip_model_load=True,
    )
    made.save(str(file))
    return coremltools.utils.load_spec(str(file)).description


def _names(program: StaticProgram, function: Any) -> list[str]:
    """A name for each output that Core ML accepts, and that no input has."""
    sanitizer = NameSanitizer(prefix="var_")
    taken = set(function.inputs)
    names = []
    for one in program.outputs:
        name = sanitizer.sanitize_name(one.name)
        while name in taken:
            name += "_out"
        taken.add(name)
        names.append(name)
    return names


def _same(what: str, arrays: tuple[PlainArray, ...], features: Any) -> tuple[str, ...]:
    """The names of features that are these arrays, where a single number is an array of one."""
    found = [(list(one.type.multiArrayType.shape), _dtype(one)) for one in features]
    wanted = [(list(one.shape) or [1], one.dtype.name) for one in arrays]
    if found != wanted:
        raise ConversionError(f"Core ML was given the {what} {wanted}, and has {found}.")
    return tuple(one.name for one in features)


def _dtype(feature: Any) -> str:
    kind = feature.type.multiArrayType
    return str(kind.ArrayDataType.Name(kind.dataType)).lower()
