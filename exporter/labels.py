"""What an artifact says beside its programs and arrays: aliases of functions, tags, metadata.

They come from the options of the save, or else from the loaded model that is saved again.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from exporter import choices
from exporter.artifact.stored import StoredModel
from exporter.drafting import Draft, SaveOptions
from exporter.errors import OptionError
from exporter.staging.functions import Function
from exporter.staging.tracking import as_function, is_function

# The attribute by which a loaded model offers what it was loaded with. A model that is a part of
# another artifact offers `None`.
MODEL = "__exporter_model__"


@dataclass(frozen=True)
class Labels:
    """The parts of a manifest that name and describe.

    Attributes:
      function_aliases: the number of a function by its alias.
      tags: each once.
      metadata: a dict as JSON.
    """

    function_aliases: Mapping[str, int]
    tags: tuple[str, ...]
    metadata: str


def stored_model(obj: object) -> StoredModel | None:
    """What a loaded model carries over to its next artifact, `None` for any other object."""
    found = getattr(obj, MODEL, None) if hasattr(type(obj), MODEL) else None
    return found if isinstance(found, StoredModel) else None


def gather(draft: Draft, options: SaveOptions, stored: StoredModel | None) -> Labels:
    """The labels of an artifact. Functions that have only an alias join the draft.

    Raises:
      OptionError: if an alias stands for something else than a function.
    """
    before = stored or StoredModel()
    aliases = options.function_aliases
    aliases = before.function_aliases if aliases is None else aliases
    tags = before.tags if options.tags is None else choices.as_tags(options.tags)
    metadata = options.metadata
    return Labels(
        {alias: _number(alias, as_function(one), draft) for alias, one in aliases.items()},
        tuple(tags),
        before.metadata if metadata is None else choices.as_json("metadata", metadata),
    )


def _number(alias: str, function: object, draft: Draft) -> int:
    if not is_function(function):
        raise OptionError(
            f"function_aliases has {function!r} ({type(function).__name__}) for {alias!r}. "
            "Expected a method or function decorated with @exporter.function, or a loaded function."
        )
    if isinstance(function, Function) and function.lacks_self:
        raise OptionError(
            f"function_aliases has the method {function.name} for {alias!r}, taken from its class "
            f"and not from an object. Pass model.{function.name}."
        )
    attached = [tracked.function for tracked in draft.graph.functions]
    if function in attached:
        return attached.index(function)
    return draft.add_function(function, alias)
