"""An object in the user's own code, by a name like `models:build`. This is what runs that code."""

import difflib
import functools
import importlib
import inspect
import pkgutil
import sys
import sysconfig
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from exporter.errors import OptionError

_MAX_NAMES = 10


def find(name: str) -> Any:
    """What `module:object` names, called if it is a class or a function.

    Modules are found in the current folder first, then wherever Python finds them. The object may
    be an attribute of another, as in `models:Encoder.small`.

    Raises:
      OptionError: saying which part of the name leads nowhere and which names there are, or what
        the user's code raised and where.
    """
    module_name, colon, path = name.partition(":")
    if not (module_name and colon and path):
        raise OptionError(
            f"expected MODULE:OBJECT, got {name!r}. For the class Net in models.py write "
            "models:Net."
        )
    found: Any = _imported(module_name)
    if getattr(found, "__file__", None) is None and hasattr(found, "__path__"):
        raise OptionError(
            f"{module_name!r} is a folder without Python code here, {next(iter(found.__path__))}. "
            f"Name a file of Python, NAME.py, as NAME:{path}."
        )
    place = f"module {module_name!r}"
    for attribute in path.split("."):
        found = _attribute(found, attribute, place)
        place = f"{attribute!r} of {place}"
    return _made(found, name) if _makes_models(found) else found


def _attribute(holder: object, name: str, place: str) -> Any:
    try:
        return getattr(holder, name)
    except AttributeError as error:
        known = [
            key for key in dir(holder) if not key.startswith("_") and _is_no_module(holder, key)
        ]
        raise OptionError(f"{place} has no {name!r}. {_nearby(name, known)}") from error
    except Exception as error:
        raise OptionError(f"{place} gives no {name!r}: {_raised(error)}.") from error


def _is_no_module(holder: object, name: str) -> bool:
    return not isinstance(inspect.getattr_static(holder, name, None), ModuleType)


def _imported(name: str) -> ModuleType:
    folder = str(Path.cwd())
    if sys.path[:1] != [folder]:
        sys.path.insert(0, folder)
    if name.startswith("."):
        raise OptionError(f"expected the name of a module, got {name!r}. Write models:Net.")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if not missing:  # the user's own code has raised it
            raise OptionError(f"module {name!r} cannot be imported: {_raised(error)}.") from error
        if not f"{name}.".startswith(f"{missing}."):
            raise OptionError(
                f"module {name!r} cannot be imported: it imports {missing!r}{_at(error)}, which is "
                "not installed."
            ) from error
        parent, _, last = missing.rpartition(".")
        raise OptionError(
            f"there is no module {missing!r}. {_nearby(last, _modules(parent), parent)}"
        ) from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise OptionError(f"module {name!r} cannot be imported: {_raised(error)}.") from error


def _modules(parent: str) -> list[str]:
    """The modules of a package, or those in the current folder."""
    where = getattr(sys.modules.get(parent), "__path__", ()) if parent else [str(Path.cwd())]
    return [module.name for module in pkgutil.iter_modules(where)]


def _makes_models(found: object) -> bool:
    """Whether it is called to make a model. What else can be called may be a model itself."""
    return (
        inspect.isclass(found) or inspect.isroutine(found) or isinstance(found, functools.partial)
    )


def _made(factory: Any, name: str) -> Any:
    try:
        inspect.signature(factory).bind()
    except TypeError as error:
        raise OptionError(
            f"{name} cannot be called without arguments: {error}. Name a function that makes the "
            "model and needs none."
        ) from error
    except ValueError:  # what is written in C may have no signature that can be asked for
        pass
    try:
        return factory()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise OptionError(f"{name} makes no model: {_raised(error)}.") from error


def _raised(error: BaseException) -> str:
    what = str(error).strip().partition("\n")[0].rstrip(".")
    text = f"it raises {type(error).__name__}{_at(error)}"
    return f"{text}: {what}" if what else text


def _at(error: BaseException) -> str:
    """The last line of the user's own code that an error passed through."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" at {_short(error.filename)}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"{_short(one.filename)}:{one.lineno}" for one in frames if _is_users(one.filename)]
    return f" at {places[-1]}" if places else ""


def _is_users(file: str) -> bool:
    """Whether a file is neither installed nor ours nor Python's."""
    ours, pythons = Path(__file__).parents[1], Path(sysconfig.get_path("stdlib"))
    is_installed = "site-packages" in file or file.startswith("<")
    return not is_installed and not {ours, pythons} & set(Path(file).parents)


def _short(file: str) -> str:
    return str(Path(file).relative_to(Path.cwd())) if Path.cwd() in Path(file).parents else file


def _nearby(name: str, names: Iterable[str], parent: str = "") -> str:
    """The names that there are: those like it, or else the first ones."""
    known = sorted(names)
    close = difflib.get_close_matches(name, known, n=3)
    where = f" in {parent!r}" if parent else ""
    if close:
        return f"Did you mean {' or '.join(map(repr, close))}?"
    if not known:
        return f"There is none{where}."
    shown = ", ".join(known[:_MAX_NAMES])
    hidden = len(known[_MAX_NAMES:])
    return f"There are{where}: {shown}{f' and {hidden} more' if hidden else ''}."
