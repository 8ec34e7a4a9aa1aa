"""A loaded model: its attributes as they were, its signatures by name, its variables as trees."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn

from exporter.artifact.encoding import metadata_of
from exporter.artifact.records import Manifest
from exporter.artifact.stored import StoredModel
from exporter.display import card, card_of, code, cut, lines, quiet, signatures_card
from exporter.errors import StateError
from exporter.runtime.functions import COPYING, LoadedFunction, LoadedSignature
from exporter.runtime.origin import Origin
from exporter.runtime.paths import values_by_key
from exporter.variable import Variable, assign_all, fitting, held
from signatures.dtypes import as_dtype, is_inexact
from signatures.errors import BindError, UnknownSignatureError
from signatures.resolver import resolve_call
from signatures.values import shown

if TYPE_CHECKING:
    from exporter.stages.pipeline import Pipelines


class LoadedObject:
    """An object of the saved tree: its variables, functions and parts are its attributes.

    They are not replaced: the programs know those that they were saved with. Attributes may be
    added, and those that are deleted are left out when the object is saved again.
    """

    def __init__(self, class_name: str) -> None:
        """An object without attributes yet."""
        self.__dict__["__class_name__"] = class_name
        self.__dict__["__saved__"] = frozenset[str]()

    def __call__(self, /, *args: object, **kwargs: object) -> Any:
        """Call the object's own `__call__`, if it was decorated."""
        call = self.__dict__.get("__call__")
        if call is None:
            raise TypeError(
                f"this {self.__dict__['__class_name__']} cannot be called: its __call__ was not "
                f"decorated when it was saved. It has {self._listed() or 'no functions'}."
            )
        return call(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"this {self.__dict__.get('__class_name__', 'object')} has no attribute {name!r}. "
            f"It has {self._listed() or 'none'}. Only variables, decorated functions and the "
            "objects that hold them are saved."
        )

    def __setattr__(self, name: str, value: object) -> None:
        held = self.__dict__.get(name)
        if isinstance(held, Variable) and not isinstance(value, Variable):
            raise _not_its_value(name)
        if name in self.__dict__["__saved__"] and held is not value:  # it is after `model.n += 1`
            raise _not_its_value(name) if isinstance(held, Variable) else _not_replaced(name)
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        object.__delattr__(self, name)
        self.__dict__["__saved__"] -= {name}

    def __reduce__(self) -> NoReturn:
        raise TypeError(COPYING)

    def _names(self) -> list[str]:
        return [n for n in self.__dict__ if n == "__call__" or not n.startswith("__")]

    def _listed(self) -> str:
        return ", ".join(self._names())

    def _title(self) -> str:
        return f"{type(self).__name__} {self.__dict__['__class_name__']}: {self._listed()}"

    @quiet
    def __repr__(self) -> str:
        return f"<{cut(self._title())}>"

    @card_of
    def _repr_html_(self) -> str:
        rows = [(code(name), code(_kind(self.__dict__[name]))) for name in self._names()]
        return card(code(self.__dict__["__class_name__"]), ("Attribute", ""), rows)


class Signatures(Mapping[str, LoadedSignature]):
    """The signatures of a loaded model by name. It cannot be changed."""

    def __init__(
        self,
        signatures: Mapping[str, LoadedSignature],
        note: str | None,
        left_out: Sequence[str] = (),
    ) -> None:
        """The signatures, and what to tell those who ask for one that is not there.

        Args:
          signatures: by name.
          note: why there are none.
          left_out: the names of those that need parts of the model that were not loaded.
        """
        self._signatures = dict(signatures)
        self._note = note
        self._left_out = tuple(left_out)

    def without(self, names: Iterable[str]) -> "Signatures":
        """The same, which knows that those of these names that it lacks were left out."""
        left_out = [name for name in names if name not in self._signatures]
        return Signatures(self._signatures, self._note, left_out)

    def __getitem__(self, name: str) -> LoadedSignature:
        if self._left_out and name not in self._signatures:
            raise UnknownSignatureError(
                f"no signature {name!r} was loaded: only= left out "
                f"{', '.join(map(repr, self._left_out))}, which need other parts of the model. "
                f"Loaded were {', '.join(map(repr, self._signatures)) or 'none'}.",
                name,
                self._signatures,
            )
        return resolve_call(self._signatures, name, self._note)

    def __iter__(self) -> Iterator[str]:
        return iter(self._signatures)

    def __len__(self) -> int:
        return len(self._signatures)

    @quiet
    def __repr__(self) -> str:
        if not self._signatures:
            return "<Signatures: none>"
        return lines("Signatures", (str(one.signature) for one in self._signatures.values()))

    @card_of
    def _repr_html_(self) -> str:
        found = [one.signature for one in self._signatures.values()]
        return signatures_card("Signatures", found, "" if found else self._note or "none")


class LoadedModel(LoadedObject):
    """A model without its code: attributes as they were, signatures by name.

    Its own books are attributes with names in double underscores, so that they are in nobody's way
    and are not taken for parts of the model when it is saved again.
    """

    @property
    def signatures(self) -> Signatures:
        """The signatures by name."""
        return self.__dict__["__signatures__"]  # type: ignore[no-any-return]  # set when loaded

    @property
    def pipelines(self) -> "Pipelines":
        """The signatures that were saved with stages, with them, by name."""
        from exporter.stages.pipeline import Pipelines

        return self.__dict__.get("__pipelines__") or Pipelines({}, {}, self.signatures)

    @property
    def manifest(self) -> Manifest:
        """Everything the artifact says about itself."""
        return self.__dict__["__manifest__"]  # type: ignore[no-any-return]  # set when loaded

    @property
    def variables(self) -> dict[str, Any]:
        """The arrays, as nested dicts by attribute path. Assigning replaces the values.

        Raises:
          StateError: on assigning a tree with other names, shapes or dtypes.
        """
        return _tree(self.__dict__["__variables__"], lambda _: True)

    @variables.setter
    def variables(self, tree: Mapping[str, Any]) -> None:
        _assign(self.__dict__["__variables__"], tree, lambda _: True)

    @property
    def trainable_variables(self) -> dict[str, Any]:
        """The arrays that an optimiser should change, likewise.

        These are the variables marked as trainable, without those of whole numbers, such as a
        counter: they have no gradient.
        """
        return _tree(self.__dict__["__variables__"], _is_trainable)

    @trainable_variables.setter
    def trainable_variables(self, tree: Mapping[str, Any]) -> None:
        _assign(self.__dict__["__variables__"], tree, _is_trainable)

    def with_variables(self, tree: Mapping[str, Any]) -> "LoadedModel":
        """The same model with other values. It shares the programs and their compiled code.

        This one stays as it is, and the new one has state of its own. Values may be traced: so
        gradients with respect to variables are had.

            jax.grad(lambda v: loss(model.with_variables(v).f(x)))(model.trainable_variables)

        What a function changes is then in `variables` of the new model. Attributes that were added
        since this one was loaded are not part of it.

        Args:
          tree: nested dicts by attribute path, as `variables` and `trainable_variables` give them.
            Variables that are not in it keep their values.

        Raises:
          StateError: if the tree has other names, shapes or dtypes.
        """
        variables = self.__dict__["__variables__"]
        values = _checked(variables, tree, lambda _: True, is_partial=True)
        return self.__dict__["__remade__"](values)  # type: ignore[no-any-return]  # set when loaded

    @property
    def function_aliases(self) -> Mapping[str, LoadedFunction]:
        """The functions that were saved with an alias, by it."""
        return MappingProxyType(self._origin.aliased if self._origin else {})

    @property
    def metadata(self) -> dict[str, Any]:
        """What the model was saved with as its metadata. Changing it changes nothing else."""
        return metadata_of(self._origin.manifest.metadata) if self._origin else {}

    @property
    def _origin(self) -> Origin | None:
        """What it was loaded from. A model inside another one was not loaded by itself."""
        return self.__dict__.get("__origin__")

    @property
    def __exporter_model__(self) -> StoredModel | None:
        return self._origin.stored if self._origin else None

    @property
    def __exporter_signatures__(self) -> tuple[Mapping[str, LoadedSignature], str | None]:
        return self.signatures, self.manifest.signature_note

    @quiet
    def __repr__(self) -> str:
        found = [str(one.signature) for one in self.signatures.values()]
        found += [f"with stages {one}" for one in self.pipelines.lines()]
        return lines(self._title(), found, self._size())

    @card_of
    def _repr_html_(self) -> str:
        found = [one.signature for one in self.signatures.values()]
        staged = [f"with stages {one}" for one in self.pipelines.lines()]
        note = "; ".join([self._size(), *staged])
        return signatures_card(code(self.__dict__["__class_name__"]), found, note)

    def _size(self) -> str:
        variables = self.__dict__["__variables__"]
        count = sum(variable.size for _, variable in variables)
        plural = "" if len(variables) == 1 else "s"
        return f"{len(variables)} variable{plural}, {count:,} elements"


def _not_its_value(name: str) -> StateError:
    return StateError(f"{name} is a Variable: assign its value, as in model.{name}.value = ...")


def _not_replaced(name: str) -> StateError:
    return StateError(
        f"{name} was saved with the model, whose programs would go on without what is assigned "
        "here. Assign the values of variables, as in model.w.value = ...; to save the model "
        f"without {name}, delete it first."
    )


def _kind(value: object) -> str:
    """What an attribute is, in a word or two."""
    if isinstance(value, Variable):
        return f"{value.dtype.name}[{', '.join(map(str, value.shape))}]"
    if isinstance(value, LoadedObject):
        return str(value.__dict__["__class_name__"])
    if isinstance(value, list | tuple | dict):
        return f"{type(value).__name__} of {len(value)}"
    return str(value) if isinstance(value, bool | int | float | str) else type(value).__name__


def _tree(
    variables: Sequence[tuple[Sequence[str], Variable]], keep: Callable[[Variable], bool]
) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    kept = [(key, variable) for key, variable in variables if keep(variable)]
    with held(variable for _, variable in kept):
        for key, variable in kept:
            inner = tree
            for part in key[:-1]:
                inner = inner.setdefault(part, {})
            inner[key[-1]] = variable.value
    return tree


def _is_trainable(variable: Variable) -> bool:
    return variable.trainable and is_inexact(as_dtype(variable.dtype))


def _assign(
    variables: Sequence[tuple[Sequence[str], Variable]],
    tree: Mapping[str, Any],
    keep: Callable[[Variable], bool],
) -> None:
    assign_all(_checked(variables, tree, keep))


def _checked(
    variables: Sequence[tuple[Sequence[str], Variable]],
    tree: Mapping[str, Any],
    keep: Callable[[Variable], bool],
    *,
    is_partial: bool = False,
) -> dict[Variable, object]:
    """The value for each variable. All that does not fit is told at once."""
    if not isinstance(tree, Mapping):
        raise StateError(
            "the values of variables are nested dicts by attribute path, as model.variables gives "
            f"them; got {shown(tree)}."
        )
    given = dict(values_by_key(tree))
    wanted = {tuple(key): variable for key, variable in variables if keep(variable)}
    problems = [
        f"{'/'.join(key)}: missing" for key in wanted if key not in given and not is_partial
    ]
    problems += [f"{'/'.join(key)}: not a variable" for key in given if key not in wanted]
    values: dict[Variable, object] = {}
    for key, variable in wanted.items():
        if key in given:
            try:
                values[variable] = fitting(variable, given[key])
            except BindError as error:
                problems.append(f"{'/'.join(key)}: {error}")
    if problems:
        lines = "".join(f"\n  {problem}" for problem in problems)
        raise StateError(f"the values do not fit the variables:{lines}")
    return values
