"""Calls of a signature to copy: in Python, and over HTTP by the Open Inference Protocol."""

import itertools
import json
import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from keyword import iskeyword
from urllib.parse import quote

import ml_dtypes

from exporter.artifact.encoding import signature_of
from exporter.artifact.records import Manifest
from exporter.runtime.datatypes import STANDARD
from exporter.runtime.page.staged import Shapes, Staged, arrays_of, staged_of
from signatures.dtypes import DType, KeyType
from signatures.errors import SpecError
from signatures.resolver import DEFAULT
from signatures.signature import Signature
from signatures.spec import Dim, TensorSpec

# A body with more elements is made by a line of Python, not written out.
MAX_WRITTEN = 256

# As many sizes of each axis, and combinations of them, are tried.
_MAX_SIZES = 8
_MAX_TRIES = 4096


def shapes_of(manifest: Manifest, name: str) -> Shapes | None:
    """Small shapes that the inputs of a signature may have, or `None` if none were found.

    Inputs with defaults are left out, as a caller may.
    """
    number = manifest.signatures[name]
    signature = signature_of(manifest, number, name)
    ranks = _ranks(manifest, number)
    for sizes in _sizes(signature):
        shapes = _shapes(signature, sizes, ranks)
        if shapes is not None:
            return {one: shapes[one] for one in shapes if one not in signature.defaults}
    return None


def sizes_of(manifest: Manifest) -> dict[str, int]:
    """A small size for each named axis of the signatures, as their examples have them."""
    found: dict[str, int] = {}
    for name, number in manifest.signatures.items():
        signature = signature_of(manifest, number, name)
        ranks = _ranks(manifest, number)
        fitting = (one for one in _sizes(signature) if _shapes(signature, one, ranks) is not None)
        found = next(fitting, {}) | found
    return found


def _ranks(manifest: Manifest, number: int) -> Sequence[int]:
    """Numbers of axes for the inputs of any rank, for which there is a program."""
    programs = manifest.concrete_functions[number].programs
    choices = [manifest.programs[program].ranks for program in programs]
    return min(choices, key=lambda ranks: (sum(abs(rank - 1) for rank in ranks), ranks), default=[])


def _sizes(signature: Signature) -> Iterator[dict[str, int]]:
    dims = signature.dims
    choices = (list(_allowed(dim)) for dim in dims.values())
    for sizes in itertools.islice(itertools.product(*choices), _MAX_TRIES):
        yield dict(zip(dims, sizes, strict=True))


def _allowed(dim: Dim) -> Iterator[int]:
    step = dim.multiple_of or 1
    first = max(1, -(-(dim.min or 1) // step)) * step
    sizes = range(first, first + _MAX_SIZES * step, step)
    return (size for size in sizes if dim.problem(size) is None)


def _shapes(
    signature: Signature, sizes: Mapping[str, int], ranks: Sequence[int]
) -> dict[str, tuple[int, ...]] | None:
    shapes: dict[str, tuple[int, ...]] = {}
    open_ranks = iter(ranks)
    for name, spec in signature.inputs.items():
        if spec.shape is None:
            shapes[name] = (2,) * next(open_ranks, 1)
            continue
        try:
            found = spec.evaluate(sizes)
        except SpecError:  # an axis is divided by zero
            return None
        shape = tuple(
            1 if axis is None else size for axis, size in zip(spec.shape, found, strict=True)
        )
        if any(size < (axis != 0) for axis, size in zip(spec.shape, shape, strict=True)):
            return None
        shapes[name] = shape
    return shapes


def python_call(manifest: Manifest, name: str, shapes: Shapes, path: str) -> str:
    """A program that loads the artifact at `path` and calls the signature with zeros.

    A signature with stages is called by them, with a text, a word or a picture for each array.
    """
    inputs = signature_of(manifest, manifest.signatures[name], name).inputs
    staged = staged_of(manifest, name, shapes)
    arrays = shapes if staged is None else arrays_of(manifest, name, shapes)
    dtypes = [inputs[one].dtype for one in arrays]
    modules = ["import jax"] if manifest.x64 or any(map(_is_key, dtypes)) else []
    modules += ["import ml_dtypes"] if any(map(_is_of_ml_dtypes, dtypes)) else []
    modules += ["import numpy as np"] if not all(map(_is_key, dtypes)) else []
    given = [(one, example.python) for one, example in (staged or {}).items()]
    lines = ["import pathlib", ""] if any("pathlib." in value for _, value in given) else []
    lines += [*modules, "", "import exporter", ""] if modules else ["import exporter", ""]
    lines += ['jax.config.update("jax_enable_x64", True)'] if manifest.x64 else []
    lines += [f"model = exporter.load({_text(path)})"]
    given += [(one, _zeros(inputs[one], shape)) for one, shape in arrays.items()]
    kind = "signatures" if staged is None else "pipelines"
    lines += _call(f"model.{kind}[{_text(name)}]", given)
    lines += ["for name, value in outputs.items():", "    print(name, value.shape, value.dtype)"]
    return "\n".join(lines).replace("(\n)", "()")


def _call(function: str, given: Sequence[tuple[str, str]]) -> list[str]:
    """The lines of a call with values by name."""
    start = f"outputs = {function}("
    if all(one.isidentifier() and not iskeyword(one) for one, _ in given):
        return [start, *(f"    {one}={value}," for one, value in given), ")"]
    return [f"{start}**{{", *(f"    {_text(one)}: {value}," for one, value in given), "})"]


def _text(value: str) -> str:
    """A Python literal, in letters that no terminal and no page changes."""
    if not value.isprintable():
        return ascii(value)
    return repr(value) if '"' in value or "\\" in value else f'"{value}"'


def _is_key(dtype: DType) -> bool:
    return isinstance(dtype, KeyType)


def _is_of_ml_dtypes(dtype: DType) -> bool:
    return not isinstance(dtype, KeyType) and hasattr(ml_dtypes, dtype.name)


def _zeros(spec: TensorSpec, shape: tuple[int, ...]) -> str:
    dtype = spec.dtype
    if isinstance(dtype, KeyType):
        key = f"jax.random.key(0, impl={_text(dtype.implementation)})"
        return f"jax.random.split({key}, {shape})" if shape else key
    home = "ml_dtypes" if _is_of_ml_dtypes(dtype) else "np"
    name = "bool_" if dtype.name == "bool" else dtype.name
    return f"np.zeros({shape}, {home}.{name})"


def http_body(manifest: Manifest, name: str, shapes: Shapes) -> dict[str, object] | str:
    """The request of the protocol with zeros for data, or why it has none for this signature.

    A signature with stages gets texts, words and pictures, these in base64.
    """
    inputs = signature_of(manifest, manifest.signatures[name], name).inputs
    staged: Mapping[str, Staged] = staged_of(manifest, name, shapes) or {}
    arrays = arrays_of(manifest, name, shapes)
    strange = {one: inputs[one].dtype.name for one in arrays}
    missing = sorted({dtype for dtype in strange.values() if dtype not in STANDARD})
    if missing:
        return f"the protocol has no datatype for {', '.join(missing)}"
    most = MAX_WRITTEN + 1
    is_default = name == DEFAULT or len(manifest.signatures) == 1
    return {
        **({} if is_default else {"parameters": {"signature_name": name}}),
        "inputs": [
            *(example.tensor(one, most) for one, example in staged.items()),
            *(
                {
                    "name": one,
                    "shape": list(shape),
                    "datatype": STANDARD[inputs[one].dtype.name],
                    "data": [_zero(inputs[one].dtype)] * min(math.prod(shape), most),
                }
                for one, shape in arrays.items()
            ),
        ],
    }


def _zero(dtype: DType) -> object:
    kind = STANDARD[dtype.name]
    return False if kind == "BOOL" else 0 if "INT" in kind else 0.0


def curl_call(manifest: Manifest, name: str, shapes: Shapes, model: str) -> str:
    """A line for a shell that sends the request, or a comment that says why there is none."""
    body = http_body(manifest, name, shapes)
    if isinstance(body, str):
        return f"# There is no request in JSON: {body}."
    address = shlex.quote(f"http://localhost:8000/v2/models/{_in_address(model)}/infer")
    send = f"curl -s {address} \\\n  -H 'Content-Type: application/json' \\\n  --data-binary"
    inputs = body["inputs"]
    assert isinstance(inputs, list)
    if all(math.prod(one["shape"]) <= MAX_WRITTEN for one in inputs):
        return f"{send} {shlex.quote(_lines(body))}"
    # Zeros in such number are made on the way. The text is JSON until Python reads it.
    parts = [
        _json({**one, "data": None})[:-5]
        + f"{_json(one['data'][:1])} * {math.prod(one['shape'])}}}"
        for one in inputs
    ]
    rest = "".join(f", {_json(key)}: {_json(one)}" for key, one in body.items() if key != "inputs")
    made = f'false = False; body = {{"inputs": [{", ".join(parts)}]{rest}}}'
    program = f"import json; {made}; print(json.dumps(body))"
    return f"python3 -c {shlex.quote(program)} |\n{send} @-"


def _json(value: object) -> str:
    return json.dumps(value)


def _lines(body: Mapping[str, object]) -> str:
    """JSON with a line for each input."""
    inputs = body["inputs"]
    assert isinstance(inputs, list)
    if not inputs:
        return _json(body)
    lines = ",\n  ".join(map(_json, inputs))
    rest = "".join(f", {_json(key)}: {_json(one)}" for key, one in body.items() if key != "inputs")
    return f'{{"inputs": [\n  {lines}\n]{rest}}}'


def _in_address(text: str) -> str:
    return quote(text, safe="", errors="replace")
