"""What a Keras model is called with as far as it knows, and the function that calls it.

A model that is a graph of layers, or a sequence of them, knows its inputs, and so it is called in
the way it was made: with one array, a list or a dict. Names that Keras made up (`keras_tensor_3`)
count the objects of a process and differ in the next one, so such an input is called `inputs`.

A model that is a class knows at most the shapes with which it was first called.
"""

import inspect
import keyword
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import keras

from exporter.errors import TrackingError
from exporter.staging.frameworks import ForwardPass
from signatures.spec import TensorSpec

_MADE_UP = re.compile(r"(keras_tensor|input_layer)(_\d+)?")

# Keras asks for flags by keyword.
_TRAINING = inspect.Parameter("training", inspect.Parameter.KEYWORD_ONLY, default=False)

_NO_DEFAULT = inspect.Parameter.empty


def forward_pass(model: Any) -> ForwardPass:
    """How a model or layer is called for inference."""
    structure = _inputs_of(model)
    if structure is None:
        return _of_class(model)
    specs = _specs(structure)
    if isinstance(model, keras.Sequential) and not any(map(_is_stateful, model.layers)):
        specs = specs.with_shape(("batch", *specs.shape[1:]))  # it keeps the size of its first call
    name = specs.name if isinstance(specs, TensorSpec) else None
    taken = keyword.iskeyword(name or "") or name in ("self", "training")
    parameter = name if name and name.isidentifier() and not taken else "inputs"
    own = inspect.Parameter(parameter, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = [own, _TRAINING] if _takes_training(model) else [own]
    function = _function(parameters, _doc(model))
    return ForwardPass(model, function, {parameter: specs}, _output_names(model))


def unbuilt(layer: Any) -> str:
    """Why a layer without variables cannot be saved, and what to do."""
    return (
        f"{type(layer).__name__} {layer.name!r} is not built yet, so it has no variables to save. "
        "Call it once on an array, or its build(shape), before saving."
    )


def _inputs_of(model: Any) -> object:
    """The symbolic inputs of a graph of layers, nested as it takes them."""
    if isinstance(model, keras.Function):
        structure = model.input
    elif isinstance(model, keras.Sequential):
        structure = getattr(model, "inputs", None)  # it raises while they are unknown
    else:
        return None
    is_single = isinstance(structure, list | tuple) and len(structure) == 1
    return structure[0] if is_single else structure


def _specs(structure: Any, key: str | None = None) -> Any:
    if isinstance(structure, dict):
        return {key: _specs(item, str(key)) for key, item in structure.items()}
    if isinstance(structure, list | tuple):
        items = [_specs(item) for item in structure]
        return items if isinstance(structure, list) else tuple(items)
    if structure.sparse:
        raise TrackingError(
            f"the input {structure.name!r} is sparse, and saved programs take dense arrays. Make "
            "it with keras.Input(sparse=False)."
        )
    name = key if _MADE_UP.fullmatch(structure.name) else structure.name
    return TensorSpec(_with_batch(structure.shape), _dtype(structure.dtype), name)


def _with_batch(shape: Sequence[int | None]) -> tuple[int | str | None, ...]:
    """The leading axis is the batch, which all inputs share."""
    return ("batch", *shape[1:]) if shape and shape[0] is None else tuple(shape)


def _dtype(name: str) -> Any:
    """The dtype in which the model gets its input: without x64, JAX makes 32 bits of 64."""
    if name == "string":
        raise TrackingError(
            "an input of the model is text, which no program takes. Save the part after its text "
            "layers, and give texts to a stage: save(..., stages={...}), see exporter.stages."
        )
    return jax.dtypes.canonicalize_dtype(name)


def _output_names(model: Any) -> tuple[str, ...]:
    """The names of a model's outputs, unless one layer gave several.

    The only one has a name if its author chose it: Keras's own count the layers of a process.
    """
    names = tuple(getattr(model, "output_names", ()))
    if len(names) == 1:
        layer = getattr(getattr(model, "output", None), "_keras_history", (None,))[0]
        return () if layer is None or _is_made_up(layer) else names
    return names if len(set(names)) == len(names) else ()


def _is_made_up(layer: Any) -> bool:
    """Whether Keras has named a layer after its class."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", type(layer).__name__)
    return re.fullmatch(rf"{words.lower()}(_\d+)?", layer.name) is not None


def _takes_training(model: Any) -> bool:
    return "training" in inspect.signature(model.call).parameters


def _doc(model: Any) -> str | None:
    """What the user wrote about calling the model. Keras's own texts are about Keras."""
    own = type(model).call.__module__.partition(".")[0] == "keras"
    return None if own else inspect.getdoc(type(model).call)


def _function(parameters: Sequence[inspect.Parameter], doc: str | None) -> Callable[..., object]:
    kinds = {parameter.kind for parameter in parameters}
    names = [parameter.name for parameter in parameters]

    def forward(model: Any, /, *args: object, **kwargs: object) -> object:
        if inspect.Parameter.VAR_POSITIONAL in kinds:
            return model(*args, **kwargs)
        named = dict(zip(names[1:], args[1:], strict=False))
        return model(*args[:1], **named, **kwargs)  # flags are refused by position

    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    forward.__signature__ = inspect.Signature([own, *parameters])  # type: ignore[attr-defined]  # as functools does
    forward.__name__, forward.__doc__ = "__call__", doc
    return forward


def _of_class(model: Any) -> ForwardPass:
    """The forward pass of a model whose inputs are those of its `call`."""
    parameters = [
        parameter
        for name, parameter in inspect.signature(model.call).parameters.items()
        if name != "training"
    ]
    if _takes_training(model):
        rest = [p for p in parameters if p.kind is p.VAR_KEYWORD]
        parameters = [p for p in parameters if p not in rest] + [_TRAINING, *rest]
    function = _function(parameters, _doc(model))
    if not model.built:
        return ForwardPass(model, function, problem=unbuilt(model))
    wanted = [p.name for p in parameters if p.default is _NO_DEFAULT]
    specs = _recorded(model, wanted)
    if specs is None or _takes_integers(model):
        return ForwardPass(model, function, problem=_unknown(model, specs))
    return ForwardPass(model, function, specs)


def _recorded(model: Any, wanted: Sequence[str]) -> dict[str, TensorSpec] | None:
    """The inputs as Keras keeps them when a model is built: their shapes and not their dtypes."""
    config = model.get_build_config() or {}
    first: dict[str, Any] = dict.fromkeys(wanted[:1], config.get("input_shape"))
    kept = config.get("shapes_dict") or first
    shapes = {name.removesuffix("_shape"): shape for name, shape in kept.items()}
    flat = [isinstance(s, list | tuple) and all(_is_axis(a) for a in s) for s in shapes.values()]
    if set(shapes) != set(wanted) or not all(flat) or not shapes:
        return None
    dtype = keras.config.floatx()
    return {
        name: TensorSpec(("batch", *shapes[name][1:]) if shapes[name] else (), dtype)
        for name in wanted
    }


def _is_stateful(layer: Any) -> bool:
    """Whether a recurrent layer keeps one state for each row of its batch."""
    return bool(getattr(layer, "stateful", False))


def _is_axis(axis: object) -> bool:
    return axis is None or isinstance(axis, int)


def _takes_integers(layer: Any) -> bool:
    return any(isinstance(one, keras.layers.Embedding) for one in _with_sublayers(layer))


def _with_sublayers(layer: Any) -> Iterator[Any]:
    yield layer
    for one in vars(layer).get("_layers", ()):
        yield from _with_sublayers(one)


def _unknown(model: Any, recorded: dict[str, TensorSpec] | None) -> str:
    shapes = recorded or {"x": TensorSpec(("batch", 64), "float32")}
    text = ", ".join(f"TensorSpec({spec.shape!r}, ...)" for spec in shapes.values())
    return (
        f"{type(model).__name__} {model.name!r} does not keep the shapes and dtypes of its inputs. "
        f"Pass input_signature=[{text}] with one spec for each argument of its "
        f"call{inspect.signature(model.call)}."
    )
