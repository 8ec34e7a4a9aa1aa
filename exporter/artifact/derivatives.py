"""Whether what a manifest says of derivatives and of independent rows can be true.

Used by `soundness.py`, which has checked each program by itself before.
"""

from collections.abc import Iterable, Sequence

from exporter.artifact.encoding import spec_of
from exporter.artifact.records import Manifest, PlainTensorRecord, ProgramRecord, VariableRecord
from signatures.dtypes import as_dtype, is_inexact
from signatures.spec import TensorSpec

# Each derivative is about twice as large as what it is of. Nobody writes more than two today.
_MAX_ORDER = 8


def check_rows(where: str, program: ProgramRecord) -> None:
    """Refuse a dimension of independent rows that leads no input, or stands not only in front.

    Raises:
      ValueError: saying where and why.
    """
    name = program.row_wise
    if name is None:
        return
    inputs = [spec_of(tensor) for tensor in program.inputs]
    leading = [spec for spec in inputs if spec.shape and spec.shape[0] == name]
    _require(leading, f"{where}.row_wise is {name!r}, which no input has first.")
    specs = [*inputs, *map(spec_of, program.outputs)]
    elsewhere = [spec for spec in specs if name in _names_behind(spec, name)]
    _require(not elsewhere, f"{where}.row_wise is {name!r}, which is not first everywhere.")
    _require(not program.updates, f"{where} has row_wise and updates.")


def _names_behind(spec: TensorSpec, name: str) -> Iterable[str]:
    shape = spec.shape or ()
    return spec.with_shape(shape[1:] if shape[:1] == (name,) else shape).names


def check_derivatives(manifest: Manifest) -> None:
    """Refuse a derivative that is not after its program, is that of another, or does not fit it.

    Raises:
      ValueError: saying where and why.
    """
    programs = manifest.programs
    linked = [program.vjp for program in programs if program.vjp is not None]
    called = [number for concrete in manifest.concrete_functions for number in concrete.programs]
    _require(len(set(linked)) == len(linked), "a program is the derivative of two others.")
    _require(
        set(linked).isdisjoint(called), "a concrete function calls the derivative of a program."
    )
    orders: dict[int, int] = {}
    for position, program in enumerate(programs):
        where = f"programs[{position}]"
        if program.vjp is None:
            continue
        _require(program.vjp_problem is None, f"{where} has vjp and vjp_problem.")
        _require(
            position < program.vjp < len(programs),
            f"{where}.vjp is {program.vjp}, and should be after {position} and below "
            f"{len(programs)}.",
        )
        orders[program.vjp] = orders.get(position, 0) + 1
        _require(orders[program.vjp] <= _MAX_ORDER, f"{where} is differentiated too often.")
        _check_derivative(where, program, programs[program.vjp], manifest.variables)


def _check_derivative(
    where: str,
    program: ProgramRecord,
    derivative: ProgramRecord,
    variables: Sequence[VariableRecord],
) -> None:
    taken = [*(_plain(variables[n]) for n in program.variables), *program.inputs]
    given = [*(_plain(variables[n]) for n in program.updates), *program.outputs]
    cotangents = [tensor for tensor in given if is_inexact(as_dtype(tensor.dtype))]
    results = [tensor for tensor in taken if is_inexact(as_dtype(tensor.dtype))]
    fields = ("variables", "dims", "ranks", "platforms")
    fits = all(getattr(program, field) == getattr(derivative, field) for field in fields)
    _require(
        fits
        and not derivative.updates
        and derivative.inputs == [*program.inputs, *cotangents]
        and derivative.outputs == results,
        f"{where} and programs[{program.vjp}] do not fit as a program and its derivative.",
    )


def _plain(variable: VariableRecord) -> PlainTensorRecord:
    return PlainTensorRecord(variable.dtype, list(variable.shape))


def _require(holds: object, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)
