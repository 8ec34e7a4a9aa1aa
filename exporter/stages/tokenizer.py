"""Texts become token ids, by a Hugging Face `tokenizer.json` that `tokenizers` reads."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from exporter import notices
from exporter.artifact.records import TokenizerOptions
from exporter.artifact.stages import fitting, holds, largest
from exporter.errors import StageError
from exporter.stages.stage import Prepared, content_of, missing
from signatures.errors import BindError
from signatures.signature import Signature
from signatures.spec import TensorSpec

if TYPE_CHECKING:
    import tokenizers

_PARTS = ("ids", "attention_mask", "type_ids")

# What padding is called where a file does not say how to pad.
_PAD_TOKENS = ("[PAD]", "<pad>")


@dataclass(frozen=True)
class Tokenizer:
    """Texts in, token ids out. All texts of a call are padded to the longest of them.

    An axis of tokens that has bounds gets a size within them, and one that is a number that size.
    Longer texts are cut, with a warning that says so.

    Attributes:
      file: a `tokenizer.json`, as the library `tokenizers` writes it.
      input: what callers name the texts.
      outputs: the input of the signature for each of `ids`, `attention_mask` and `type_ids`. `None`
        takes the inputs that have these names.
      max_length: the most tokens of a text. `None` takes what the file says, or else the bound of
        the axis of tokens.
    """

    file: str | os.PathLike[str]
    input: str = "text"
    outputs: Mapping[str, str] | None = None
    max_length: int | None = None

    def prepared(self, signature: Signature) -> Prepared:
        """See `Stage`."""
        name, data = content_of(self.file)
        tokenizer = _opened(data, name)
        outputs = dict(self.outputs or {part: part for part in _PARTS if part in signature.inputs})
        if not outputs:
            known = ", ".join(map(repr, signature.inputs)) or "none"
            raise StageError(
                f"no input is called {', '.join(_PARTS)}, they are {known}: say with outputs= "
                "which takes the ids, as in {'ids': 'tokens'}"
            )
        if unknown := [part for part in outputs if part not in _PARTS]:
            raise StageError(f"outputs has {unknown[0]!r}, and can have {', '.join(_PARTS)}")
        padding = tokenizer.padding or {}
        named = [found for pad in _PAD_TOKENS if (found := tokenizer.token_to_id(pad)) is not None]
        options = TokenizerOptions(
            input=self.input,
            outputs=outputs,  # type: ignore[arg-type]  # they were looked at
            pad_id=padding.get("pad_id", named[0] if named else 0),
            pad_type_id=padding.get("pad_type_id", 0),
            pad_side=padding.get("direction", "right"),
            max_length=self._limit(
                tokenizer, signature.inputs.get(next(iter(outputs.values()), ""))
            ),
        )
        return Prepared(options, ((name, data),))

    def _limit(self, tokenizer: "tokenizers.Tokenizer", spec: TensorSpec | None) -> int | None:
        """The most tokens of a text."""
        if self.max_length is not None:
            return self.max_length
        axes = spec.shape if spec else None
        bound = largest(axes[1], spec.dims) if spec and axes and len(axes) == 2 else None
        limits = [(tokenizer.truncation or {}).get("max_length"), bound]
        return min((limit for limit in limits if limit is not None), default=None)


class Tokenizing:
    """The stage at work. It can be used by several threads at once."""

    def __init__(self, options: TokenizerOptions, data: bytes, signature: Signature) -> None:
        """The stage before that signature.

        Raises:
          StageError: if the file is damaged, or does not fit.
        """
        self._options = options
        self._specs = {part: signature.inputs[name] for part, name in options.outputs.items()}
        self._tokenizer = _opened(data, "the file")
        special = self._tokenizer.num_special_tokens_to_add(False)
        limit = options.max_length
        if limit is not None and limit <= special:
            raise StageError(f"max_length is {limit}, and {special} tokens of each are special")
        count = max([*self._tokenizer.get_vocab(True).values(), options.pad_id], default=0) + 1
        spec = self._specs.get("ids")
        if spec is not None and not holds(spec, count - 1):
            name = options.outputs["ids"]
            raise StageError(f"{name!r} is {spec}, which cannot hold the ids of {count:,} tokens")
        spec = self._specs.get("type_ids")
        if spec is not None and not holds(spec, options.pad_type_id):
            raise StageError(f"pad_type_id is {options.pad_type_id}, which {spec} cannot hold")
        self._tokenizer.no_padding()
        if limit is not None:
            way = self._tokenizer.truncation or {}
            self._tokenizer.enable_truncation(
                limit,
                strategy=way.get("strategy", "longest_first"),
                direction=way.get("direction", "right"),
            )
        else:
            self._tokenizer.no_truncation()

    def arrays(self, value: object) -> dict[str, Any]:
        """See `InputStage`. One text is a batch of one."""
        encodings = self._tokenizer.encode_batch(_texts(self._options.input, value))
        self._tell_of_cuts(encodings)
        rows = {
            "ids": ([one.ids for one in encodings], self._options.pad_id),
            "attention_mask": ([one.attention_mask for one in encodings], 0),
            "type_ids": ([one.type_ids for one in encodings], self._options.pad_type_id),
        }
        return {
            name: self._padded(*rows[part], self._specs[part])
            for part, name in self._options.outputs.items()
        }

    def _padded(self, rows: Sequence[Sequence[int]], pad: int, spec: TensorSpec) -> Any:
        axes, dtype = spec.shape, spec.dtype
        assert axes is not None, "it has two axes"
        assert isinstance(dtype, np.dtype), "it is of numbers"
        width = fitting(max(map(len, rows), default=0), axes[1], spec.dims)
        array = np.full((len(rows), width), pad, dtype)
        for target, row in zip(array, rows, strict=True):
            start = width - len(row) if self._options.pad_side == "left" else 0
            target[start : start + len(row)] = row
        return array

    def _tell_of_cuts(self, encodings: "Sequence[tokenizers.Encoding]") -> None:
        cut = [position for position, one in enumerate(encodings) if one.overflowing]
        if cut:
            name, limit = self._options.input, self._options.max_length
            others = f" and {len(cut) - 1} more" if len(cut) > 1 else ""
            notices.warn(f"{name}[{cut[0]}]{others}: longer than {limit} tokens, and cut to them.")


def _texts(name: str, value: object) -> list[str]:
    if isinstance(value, np.ndarray) and value.ndim <= 1:
        value = value.tolist()
    texts: list[object] = list(value) if isinstance(value, list | tuple) else [value]
    problems = []
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            problems.append(f"{name}[{position}]: expected text, got {type(text).__name__}")
        elif any("\ud800" <= character <= "\udfff" for character in text):
            problems.append(f"{name}[{position}]: has half of a surrogate pair, which is no text")
    if problems:
        raise BindError("\n".join(problems), problems)
    return [str(text) for text in texts]


def _opened(data: bytes, name: str) -> "tokenizers.Tokenizer":
    try:
        import tokenizers
    except ImportError as error:
        raise missing("tokenizers", "a tokenizer") from error
    try:
        return tokenizers.Tokenizer.from_str(data.decode())
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of the library is no Exception
        text = " ".join(str(error).split())
        raise StageError(
            f"{name} is no tokenizer.json that tokenizers {tokenizers.__version__} reads: {text}"
        ) from error
