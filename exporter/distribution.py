"""How the values of an array are distributed, and that as a small drawing."""

import itertools
from dataclasses import dataclass

import numpy as np

from exporter.markup import Markup, element, fragment

# The bars of a drawing, and its size in units of its own.
BARS = 32
_BAR_WIDTH = 3
_HEIGHT = 28


@dataclass(frozen=True)
class Distribution:
    """What is known of the values of an array.

    Attributes:
      looked_at: how many values this is of.
      blocks: from how many places they are, 1 where they are all.
      minimum: of the finite values, like the next three. `None` if there are none.
      maximum: likewise.
      mean: likewise.
      std: the standard deviation, of all and not of a sample.
      zeros: the share of values that are 0.
      nans: the share that is no number.
      infinities: the share that is infinite.
      counts: how many finite values fall into each of `BARS` parts of their range.
      is_complex: whether these are the absolute values of complex numbers.
    """

    looked_at: int
    blocks: int
    minimum: float | None
    maximum: float | None
    mean: float | None
    std: float | None
    zeros: float
    nans: float
    infinities: float
    counts: tuple[int, ...]
    is_complex: bool = False

    @classmethod
    def of(cls, elements: np.ndarray, blocks: int = 1) -> "Distribution":
        """The distribution of the elements of an array, or of those in some blocks of it."""
        is_complex = elements.dtype.kind == "c"
        with np.errstate(all="ignore"):  # what overflows is infinite, and is told as that
            values = np.abs(elements) if is_complex else elements
            values = values.astype(np.float64)
            finite = values[np.isfinite(values)]
            has_any = finite.size > 0
            count = max(values.size, 1)
            return cls(
                looked_at=values.size,
                blocks=blocks,
                minimum=float(finite.min()) if has_any else None,
                maximum=float(finite.max()) if has_any else None,
                mean=float(finite.mean()) if has_any else None,
                std=float(finite.std()) if has_any else None,
                zeros=int((values == 0).sum()) / count,
                nans=int(np.isnan(values).sum()) / count,
                infinities=int(np.isinf(values).sum()) / count,
                counts=_counts(finite),
                is_complex=is_complex,
            )


def _counts(finite: np.ndarray) -> tuple[int, ...]:
    if not finite.size:
        return ()
    if not np.isfinite(finite.max() - finite.min()):  # the range of what is scaled is a number
        finite = finite / 4
    try:
        counts, _ = np.histogram(finite, BARS)
    except ValueError:  # numbers so close to each other that nothing lies between them
        counts = np.array([finite.size] + [0] * (BARS - 1))
    return tuple(map(int, counts))


def drawing(found: Distribution) -> Markup:
    """The histogram as SVG, with a line where 0 is. One value alone has none."""
    if found.minimum is None or found.maximum is None or found.minimum == found.maximum:
        return Markup()
    highest = max(found.counts)
    width = BARS * _BAR_WIDTH
    heights = [  # what is there at all is seen
        max(1, round(_HEIGHT * count / highest)) if count else 0 for count in found.counts
    ]
    path, position = f"M0 {_HEIGHT}", 0
    for height, group in itertools.groupby(heights):
        position += _BAR_WIDTH * len(list(group))
        path += f"V{_HEIGHT - height}H{position}"
    zero = None
    if found.minimum < 0 < found.maximum:
        at = width / (1 - found.maximum / found.minimum)
        zero = element("path", class_="zero", d=f"M{at:.1f} 0V{_HEIGHT}")
    label = f"Histogram from {number(found.minimum)} to {number(found.maximum)}"
    return element(
        "svg",
        element("path", d=f"{path}V{_HEIGHT}Z"),
        zero,
        class_="histogram",
        viewBox=f"0 0 {width} {_HEIGHT}",
        preserveAspectRatio="none",
        role="img",
        aria_label=label,
    )


def facts(found: Distribution, size: int) -> Markup:
    """The numbers in words, and what of the array they are of."""
    prefix = "absolute values: " if found.is_complex else ""
    if found.minimum is None:
        words = ["no finite values"]
    elif found.minimum == found.maximum:
        words = [f"always {number(found.minimum)}"]
    else:
        words = [
            f"min {number(found.minimum)}",
            f"max {number(found.maximum)}",
            f"mean {number(found.mean)}",
            f"std {number(found.std)}",
        ]
    if found.zeros and found.minimum != found.maximum:
        words.append(f"zeros {_share(found.zeros)}")
    alarming = [
        f"{name} {_share(share)}"
        for name, share in (("NaN", found.nans), ("infinite", found.infinities))
        if share
    ]
    sampled = ""
    if found.looked_at < size:
        sampled = f", of {found.looked_at:,} values in {found.blocks} blocks"
    return fragment(
        prefix,
        ", ".join(words),
        *(fragment(", ", element("strong", words, class_="alarm")) for words in alarming),
        sampled,
    )


def number(value: float | None) -> str:
    """A number in four digits, with a true minus sign."""
    return "" if value is None else f"{value:.4g}".replace("-", "\N{MINUS SIGN}")


def _share(share: float) -> str:
    if share == 1:
        return "100%"
    percent = 100 * share
    return "<0.1%" if percent < 0.1 else f"{min(percent, 99.9):.3g}%"
