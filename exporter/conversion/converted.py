"""What a conversion made, as its caller sees it."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.display import lines, quiet

if TYPE_CHECKING:
    from exporter.conversion.checking import Check


@dataclass(frozen=True)
class ConvertedSignature:
    """One signature in a file.

    Attributes:
      name: its name.
      inputs: each input as it is called there, with its dtype and shape.
      outputs: each output likewise.
      check: how it compares with the loaded model, or `None` if it was not run.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    check: "Check | None"

    def facts(self) -> list[str]:
        """What there is to know of it, in lines."""
        found = [f"input   {one}" for one in self.inputs]
        found += [f"output  {one}" for one in self.outputs]
        if self.check is not None:
            compared = "; ".join(map(str, self.check.outputs))
            found.append(f"run with {self.check.inputs}: {compared}")
        return found


@dataclass(frozen=True)
class Converted:
    """A file that signatures were converted to.

    Attributes:
      path: the file, or the folder that is one to its system.
      format: the name of its format.
      platform: the platform that it was made for, and tried on.
      signatures: what is in it: one, but for formats that take all.
      size: how many bytes it takes.
      unchecked: why it was not run, or `None` if it was.
    """

    path: Path
    format: str
    platform: str
    signatures: tuple[ConvertedSignature, ...]
    size: int
    unchecked: str | None

    @property
    def inputs(self) -> tuple[str, ...]:
        """The inputs of its signatures, one after another."""
        return tuple(one for signature in self.signatures for one in signature.inputs)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The outputs of its signatures, one after another."""
        return tuple(one for signature in self.signatures for one in signature.outputs)

    @property
    def largest(self) -> float | None:
        """The largest difference between two numbers of the two results, if it was run."""
        found = [one.check.largest for one in self.signatures if one.check is not None]
        return max(found) if found else None

    @quiet
    def __repr__(self) -> str:
        return lines(self.headline(), self.facts())

    def headline(self) -> str:
        """What it is, in a line."""
        names = ", ".join(one.name for one in self.signatures)
        return f"{self.path}: {names} as {self.format}, {self.size:,} bytes"

    def facts(self) -> list[str]:
        """What there is to know of it, in lines."""
        found = []
        for one in self.signatures:
            indent = "  " if len(self.signatures) > 1 else ""
            found += [one.name] if indent else []
            found += [f"{indent}{fact}" for fact in one.facts()]
        return found if self.unchecked is None else [*found, f"not run: {self.unchecked}"]
