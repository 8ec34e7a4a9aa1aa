"""Whether options have values that can be. What is wrong is said at once."""

import json
import operator
import os
from collections.abc import Iterable, Mapping, Sequence

from exporter.errors import OptionError


def check_bytes(option: str, value: object) -> None:
    """Refuse what is no number of bytes."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise OptionError(f"{option} is a number of bytes, 0 or more; got {value!r}.")


def check_tolerance(option: str, value: object) -> None:
    """Refuse what is no number of 0 or more."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not value >= 0:  # type: ignore[operator]  # and so NaN
        raise OptionError(f"{option} is a number, 0 or more; got {value!r}.")


def check_text(option: str, value: object) -> None:
    """Refuse what is not text."""
    if not isinstance(value, str):
        raise OptionError(f"{option} is text; got {value!r}.")


def check_flag(option: str, value: object) -> None:
    """Refuse what is neither true nor false."""
    if not isinstance(value, bool):
        raise OptionError(f"{option} is True or False; got {value!r}.")


def check_names(option: str, value: object) -> None:
    """Refuse what is no mapping from names that are text and not empty."""
    if not isinstance(value, Mapping):
        raise OptionError(f"{option} is a dict by name; got {value!r}.")
    for name in value:
        if not isinstance(name, str) or not name:
            raise OptionError(f"{option} has the name {name!r}; names are text and not empty.")


def check_kind(option: str, value: object, kind: type) -> None:
    """Refuse what is not an instance of the option's class."""
    if not isinstance(value, kind):
        raise OptionError(f"{option} is a {kind.__name__}; got {value!r}.")


def check_progress(value: object) -> None:
    """Refuse what cannot be called."""
    if value is not None and not callable(value):
        raise OptionError(
            f"progress is a function of a stage, how much is done, and how much there is; got "
            f"{value!r}."
        )


def as_tags(value: object) -> tuple[str, ...]:
    """The tags, each once. A single one may be given as it is.

    Raises:
      OptionError: if they are not text.
    """
    tags = [value] if isinstance(value, str) else value
    if not isinstance(tags, Sequence | set | frozenset):
        raise OptionError(f"tags is a list of texts; got {value!r}.")
    for tag in tags:
        if not isinstance(tag, str) or not tag:
            raise OptionError(f"tags has {tag!r}; tags are text and not empty.")
    return tuple(dict.fromkeys(sorted(tags) if isinstance(tags, set | frozenset) else tags))


def as_paths(option: str, value: object) -> tuple[str, ...]:
    """Attribute paths. A single one may be given as it is.

    Raises:
      OptionError: if they are not text.
    """
    paths = [value] if isinstance(value, str) else value
    if not isinstance(paths, Sequence) or not all(isinstance(path, str) for path in paths):
        raise OptionError(
            f"{option} is an attribute path as text, or a list of them; got {value!r}."
        )
    return tuple(paths)


def as_calls(value: object) -> tuple[str, ...]:
    """The names of native functions. A single one may be given as it is.

    Raises:
      OptionError: if they are not text.
    """
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, Sequence | set | frozenset):
        names = [value]  # which is no text
    if all(isinstance(name, str) and name for name in names):
        return tuple(names)
    raise OptionError(
        f"custom_calls is the name of a native function, or a list of them; got {value!r}."
    )


def as_json(option: str, value: object) -> str:
    """A dict as JSON.

    Raises:
      OptionError: if JSON would not give it back as it is.
    """
    if not isinstance(value, Mapping):
        raise OptionError(f"{option} is a dict; got {value!r}.")
    try:
        problem = _json_problem(value, option)
        if problem:
            raise OptionError(problem)
        return json.dumps(value, default=dict, allow_nan=False)
    except RecursionError:
        raise OptionError(f"{option} holds itself, or is nested too deeply for JSON.") from None


def _json_problem(value: object, where: str) -> str | None:
    if isinstance(value, float) and value - value != 0:
        return f"{where} is {value}, which JSON does not have. Write it as text."
    if value is None or isinstance(value, str | int | float):
        return None
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                return f"{where} has the key {key!r}; the keys of JSON are text."
        pairs = [(f"{where}[{key!r}]", item) for key, item in value.items()]
    elif isinstance(value, list | tuple):
        pairs = [(f"{where}[{index}]", item) for index, item in enumerate(value)]
    else:
        return (
            f"{where} is {value!r} ({type(value).__name__}), which JSON does not have. Hold arrays "
            "in variables, files in Assets, and other values as numbers or text."
        )
    return next((p for place, item in pairs if (p := _json_problem(item, place))), None)


def as_cache(value: object) -> bool | str | os.PathLike[str]:
    """Where compiled programs are kept: in the user's own cache, not at all, or in a folder.

    Raises:
      OptionError: if it is none of these.
    """
    if isinstance(value, bool):
        return value
    path = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if isinstance(path, str) and path and "\0" not in path:
        return path
    raise OptionError(
        "cache is True for the user's own cache folder, False for none, or the path of another; "
        f"got {value!r}."
    )


def as_sizes(value: object) -> dict[str, tuple[int, ...]] | bool:
    """The sizes of named axes, each with one or several. A flag stays one.

    Raises:
      OptionError: if it is neither a flag nor whole numbers by name, naming all that is wrong.
    """
    if isinstance(value, bool):
        return value
    check_names("warm", value)
    assert isinstance(value, Mapping)
    found, problems = {}, []
    for name, sizes in value.items():
        try:
            several = sizes if isinstance(sizes, Iterable) else [sizes]
            found[name] = tuple(dict.fromkeys(_whole(size) for size in several))
        except TypeError:
            problems.append(f"{name!r}: {sizes!r}")
    problems += [f"{name!r}: {value[name]!r}" for name, sizes in found.items() if not sizes]
    if problems:
        raise OptionError(
            "warm has a size, or a list of sizes, for each name of an axis, as in "
            f"{{'batch': (1, 8), 'seq': 128}}; got {', '.join(problems)}."
        )
    return found


def _whole(size: object) -> int:
    if isinstance(size, bool):
        raise TypeError
    return operator.index(size)  # type: ignore[arg-type]  # it raises for what is no whole number
