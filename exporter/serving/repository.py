"""Which versions of which models a folder holds, and which of them are wanted. It reads no model.

A folder is one of three: an artifact; a model, with a folder for each version that is named by its
number, as TensorFlow Serving lays it out; or a repository, with a folder for each model, which is
an artifact or holds versions.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from exporter.artifact.layout import MANIFEST
from exporter.errors import OptionError

_NUMBER = re.compile(r"[0-9]{1,18}", re.ASCII)


@dataclass(frozen=True)
class Found:
    """A version that is there.

    Attributes:
      model: the name of its model.
      version: its number; 1 for an artifact that lies in no folder of that kind.
      folder: where it is.
      identity: another one means that another artifact was put there.
    """

    model: str
    version: int
    folder: Path
    identity: tuple[int, int, int]


@dataclass(frozen=True)
class Policy:
    """Which versions are wanted of those that are there.

    Attributes:
      latest: the highest so many, or `None` for those of other kinds.
      specific: these, if they are there; empty with `latest=None` is all.
    """

    latest: int | None = 1
    specific: tuple[int, ...] = ()

    @classmethod
    def parse(cls, text: object) -> "Policy":
        """The policy in words: `latest`, `latest:2`, `all` or `specific:1,3`.

        Raises:
          OptionError: if it is none of them.
        """
        kind, _, rest = str(text).partition(":")
        if kind == "all" and not rest:
            return cls(None)
        if kind == "latest" and (not rest or (_NUMBER.fullmatch(rest) and int(rest))):
            return cls(int(rest or 1))
        numbers = rest.split(",")
        if kind == "specific" and all(map(_NUMBER.fullmatch, numbers)):
            return cls(None, tuple(sorted({int(one) for one in numbers})))
        raise OptionError(
            f"a version policy is latest, latest:N, all or specific:N,N; got {str(text)!r}."
        )

    def chosen(self, versions: Iterable[int]) -> list[int]:
        """Those that are wanted, the highest first."""
        there = sorted(versions, reverse=True)
        if self.latest is not None:
            return there[: self.latest]
        return [one for one in there if not self.specific or one in self.specific]


def scan(root: Path, model_name: str | None = None) -> dict[str, list[Found]]:
    """The versions of each model in a folder.

    Args:
      root: an artifact, a model or a repository.
      model_name: what the only model is called, by default as its folder is.

    Raises:
      OSError: if the folder cannot be read.
    """
    children = sorted(root.iterdir())  # it fails on what is no folder, and nothing else tells
    name = model_name or _name_of(root)
    alone = _artifact(name, _version_of(root), root)
    if alone is not None:
        return {name: [alone]}
    versions = _versions(name, children)
    if versions:
        return {name: versions}
    models = {}
    for child in children:
        if not child.name.startswith(".") and (found := _model(child)) is not None:
            models[child.name] = found
    if model_name is not None and len(models) == 1:
        (found,) = models.values()
        return {name: [Found(name, one.version, one.folder, one.identity) for one in found]}
    return models


def _model(folder: Path) -> list[Found] | None:
    """The versions of a folder in a repository, or `None` if it is no model."""
    alone = _artifact(folder.name, 1, folder)
    if alone is not None:
        return [alone]
    try:
        children = sorted(folder.iterdir())
    except (NotADirectoryError, FileNotFoundError):
        return None
    return _versions(folder.name, children) or None


def _versions(model: str, children: Iterable[Path]) -> list[Found]:
    found: dict[int, Found] = {}
    for child in children:
        if not _NUMBER.fullmatch(child.name):
            continue
        one = _artifact(model, int(child.name), child)
        if one is not None:
            found.setdefault(one.version, one)  # of 1 and 01 one is as good as the other
    return list(found.values())


def _artifact(model: str, version: int, folder: Path) -> Found | None:
    """The version in a folder, or `None` if there is none. One that is being copied may lack it."""
    try:
        stat = (folder / MANIFEST).stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return Found(model, version, folder, (stat.st_ino, stat.st_size, stat.st_mtime_ns))


def _name_of(root: Path) -> str:
    """What a model is called by its folder, above that of a version."""
    root = root.resolve()
    return (root.parent.name if _NUMBER.fullmatch(root.name) else root.name) or "model"


def _version_of(root: Path) -> int:
    name = root.resolve().name
    return int(name) if _NUMBER.fullmatch(name) else 1


@dataclass(frozen=True)
class Repository:
    """A folder, or several, and what is wanted of it.

    Attributes:
      roots: each folder, with what its only model is called if that is not as the folder is.
      policy: which versions are wanted of models that have no policy of their own.
      policies: the policy of a model by its name.
      labels: names for versions, by the name of the model. These versions are wanted too.
    """

    roots: tuple[tuple[Path, str | None], ...]
    policy: Policy = Policy()
    policies: Mapping[str, Policy] | None = None
    labels: Mapping[str, Mapping[str, int]] | None = None

    def scan(self) -> dict[str, list[Found]]:
        """The versions of each model that are there.

        Raises:
          OSError: if a folder cannot be read.
          OptionError: if two folders have models of one name.
        """
        models: dict[str, list[Found]] = {}
        for root, name in self.roots:
            for model, found in scan(root, name).items():
                if model in models:
                    raise OptionError(
                        f"two models are called {model!r}: {models[model][0].folder} and "
                        f"{found[0].folder}. Give one of them another name."
                    )
                models[model] = found
        return models

    def wanted(self, model: str, found: Iterable[Found]) -> list[Found]:
        """Those that are wanted, the highest first."""
        there = {one.version: one for one in found}
        policy = (self.policies or {}).get(model, self.policy)
        versions = {*policy.chosen(there), *self.labels_of(model).values()}
        return [there[version] for version in sorted(versions, reverse=True) if version in there]

    def labels_of(self, model: str) -> Mapping[str, int]:
        """The labels of a model's versions."""
        return (self.labels or {}).get(model, {})

    def paths(self) -> Iterator[Path]:
        """The folders."""
        return (root for root, _ in self.roots)
