"""The results of a benchmark over a size, as small SVG files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def draw(results: Mapping[str, Mapping[str, Any]], folder: Path) -> None:
    """One file for each benchmark that has rows with a size, named after it."""
    for name, document in results.items():
        points = [row for row in document["rows"] if "size" in row["parameters"]]
        if points:
            _draw(points, folder / f"{name}.svg")


def _draw(rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    """A panel for each kind of size, a line for each operation, dotted where it is proportional."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = file.stem  # the same figures make the same file
    mpl.rcParams["svg.fonttype"] = "none"  # texts stay texts, and the file small
    import matplotlib.pyplot as plt

    kinds = list(dict.fromkeys(row["parameters"]["kind"] for row in rows))
    figure, panels = plt.subplots(1, len(kinds), figsize=(4 * len(kinds), 3.4), squeeze=False)
    for panel, kind in zip(panels[0], kinds, strict=True):
        panel.set(xscale="log", yscale="log", xlabel=kind)
        _panel(panel, [row for row in rows if row["parameters"]["kind"] == kind])
    panels[0][0].set_ylabel("seconds")
    panels[0][-1].legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None, "Creator": None})
    plt.close(figure)


def _panel(panel: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    sizes = sorted({row["parameters"]["size"] for row in rows})
    for operation in dict.fromkeys(row["parameters"]["operation"] for row in rows):
        line = [row for row in rows if row["parameters"]["operation"] == operation]
        times = [row["ours"]["min"] for row in line]
        (drawn,) = panel.plot(
            [row["parameters"]["size"] for row in line], times, marker="o", label=operation
        )
        linear = [times[-1] * size / sizes[-1] for size in sizes]
        panel.plot(sizes, linear, color=drawn.get_color(), linewidth=0.7, linestyle=":")
    panel.minorticks_off()
    panel.set_xticks(sizes, [f"{size:,}" for size in sizes])
