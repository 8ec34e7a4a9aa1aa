"""How calls of a signature that arrive at once are joined by a server: plain numbers, no code."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from exporter.errors import OptionError

# A program computes with the sizes of its axes in 32 bits.
_MAX_SIZE = 2**31 - 1


@dataclass(frozen=True)
class Batching:
    """How a server joins calls of one signature along its batch axis.

    The names are those of TensorFlow Serving.

    Attributes:
      max_batch_size: the most rows of one call of the program.
      allowed_batch_sizes: the sizes that the program is compiled for, ascending: a batch is filled
        up to the next of them with copies of its first row. Empty is the powers of two up to
        `max_batch_size`.
      batch_timeout_micros: how long the first row of a batch that is not full waits for others, in
        microseconds. With 0 a batch is what has arrived while the one before was computed.
      max_enqueued_batches: how many full batches may wait. Further calls are refused.
      enable_large_batch_splitting: whether a call of more rows is computed in parts, and is not
        refused.
      buckets: for named axes that are no batch axis, the sizes that arrays are filled up to, as in
        `{"tokens": (16, 64, 256)}`. Outputs are cut back. It is for functions whose results do not
        depend on what is filled in, such as those that take a mask.
      pad_values: what is filled in by the name of the input, 0 where it has none.

    Raises:
      OptionError: naming every value that cannot be.
    """

    max_batch_size: int = 32
    allowed_batch_sizes: tuple[int, ...] = ()
    batch_timeout_micros: int = 0
    max_enqueued_batches: int = 64
    enable_large_batch_splitting: bool = True
    buckets: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    pad_values: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        problems = list(_problems(vars(self)))
        last = () if problems else tuple(self.allowed_batch_sizes[-1:])
        if last not in {(), (self.max_batch_size,)}:
            problems.append(
                f"allowed_batch_sizes ends with max_batch_size, {self.max_batch_size}; got "
                f"{list(self.allowed_batch_sizes)!r}"
            )
        if problems:
            raise OptionError("batching: " + "; ".join(problems) + ".")
        object.__setattr__(self, "allowed_batch_sizes", tuple(self.allowed_batch_sizes))
        object.__setattr__(self, "buckets", {n: tuple(s) for n, s in self.buckets.items()})
        object.__setattr__(self, "pad_values", dict(self.pad_values))

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes that the program is compiled for.

        >>> Batching(max_batch_size=12).sizes
        (1, 2, 4, 8, 12)
        """
        if self.allowed_batch_sizes:
            return self.allowed_batch_sizes
        powers = [2**power for power in range(self.max_batch_size.bit_length())]
        return tuple(dict.fromkeys((*powers, self.max_batch_size)))


_LEAST = {"max_batch_size": 1, "batch_timeout_micros": 0, "max_enqueued_batches": 1}


def _problems(given: Mapping[str, object]) -> Iterator[str]:
    """What cannot be, of values that may come from a file and be of any type."""
    for name, least in _LEAST.items():
        if not _is_whole(given[name], least):
            yield f"{name} is a whole number from {least} to {_MAX_SIZE}; got {given[name]!r}"
    splits = given["enable_large_batch_splitting"]
    if not isinstance(splits, bool):
        yield f"enable_large_batch_splitting is True or False; got {splits!r}"
    if not _are_sizes(sizes := given["allowed_batch_sizes"]):
        yield f"allowed_batch_sizes {_ASCENDING}; got {sizes!r}"
    yield from _named_problems("buckets", given["buckets"], _are_some_sizes, _ASCENDING)
    yield from _named_problems("pad_values", given["pad_values"], _is_number, "is a number")


def _named_problems(
    name: str, given: object, is_right: Callable[[object], bool], expected: str
) -> Iterator[str]:
    if not isinstance(given, Mapping):
        yield f"{name} is a dict by name; got {given!r}"
        return
    for key, value in given.items():
        if not is_right(value):
            yield f"{name}[{key!r}] {expected}; got {value!r}"


_ASCENDING = "has whole numbers of at least 1, ascending"


def _is_whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= _MAX_SIZE


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def _are_some_sizes(sizes: object) -> bool:
    return bool(sizes) and _are_sizes(sizes)


def _are_sizes(sizes: object) -> bool:
    return (
        isinstance(sizes, tuple | list)
        and all(_is_whole(size, 1) for size in sizes)
        and list(sizes) == sorted(set(sizes))
    )
