"""The decoder of `gpt.py` as PyTorch users write it, with its cache in buffers."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

import gpt


class Layer(nn.Module):
    """A layer with the keys and values of the tokens so far, which it changes in place."""

    def __init__(self, size: gpt.Size) -> None:
        super().__init__()
        width, shape = size.width, (1, size.heads, size.length, size.width // size.heads)
        self.attention_norm = nn.LayerNorm(width, eps=gpt.EPSILON)
        self.attention = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.hidden_norm = nn.LayerNorm(width, eps=gpt.EPSILON)
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)
        self.heads = size.heads
        self.register_buffer("keys", torch.zeros(shape))
        self.register_buffer("values", torch.zeros(shape))

    def forward(self, x: Tensor, here: Tensor, mask: Tensor) -> Tensor:
        parts = self.attention(self.attention_norm(x)).unflatten(2, (3, self.heads, -1))
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        self.keys.index_copy_(2, here, key)
        self.values.index_copy_(2, here, value)
        seen = functional.scaled_dot_product_attention(
            query, self.keys, self.values, attn_mask=mask
        )
        x = x + self.attention_out(seen.transpose(1, 2).flatten(2))
        hidden = functional.gelu(self.expand(self.hidden_norm(x)), approximate="tanh")
        return x + self.contract(hidden)


class Decoder(nn.Module):
    """The decoder. `forward` takes int64[1, tokens] and where each of them stands."""

    def __init__(self, size: gpt.Size) -> None:
        super().__init__()
        self.words = nn.Embedding(size.words, size.width)
        self.positions = nn.Embedding(size.length, size.width)
        self.layers = nn.ModuleList(Layer(size) for _ in range(size.layers))
        self.norm = nn.LayerNorm(size.width, eps=gpt.EPSILON)
        self.register_buffer("all", torch.arange(size.length))

    def forward(self, ids: Tensor, here: Tensor) -> Tensor:
        mask = self.all <= here[:, None]
        x = self.words(ids) + self.positions(here)
        for layer in self.layers:
            x = layer(x, here, mask)
        return functional.linear(self.norm(x[:, -1]), self.words.weight)

    def step(self, token: Tensor, here: Tensor) -> tuple[Tensor, Tensor]:
        """The token after `token`, int64[1], which stands at `here`, and where that stands."""
        return self(token[:, None], here).argmax(-1), here + 1


def decoder(size: gpt.Size) -> Decoder:
    model = Decoder(size)
    tree = gpt.parameters(size)
    named = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in flat(tree):
            turned = value.T if name.endswith("kernel") else value
            named.pop(published(name)).copy_(torch.from_numpy(turned.copy()))
    assert not named, f"not set: {sorted(named)}"
    return model.eval().requires_grad_(False)


def flat(tree: Any, name: str = "") -> list[tuple[str, np.ndarray]]:
    if isinstance(tree, np.ndarray):
        return [(name, tree)]
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    return [one for key, below in items for one in flat(below, f"{name}.{key}".lstrip("."))]


def published(name: str) -> str:
    """PyTorch's name of a parameter."""
    if name in {"words", "positions"}:
        return f"{name}.weight"
    stem, _, last = name.rpartition(".")
    return f"{stem}.{'bias' if last == 'bias' else 'weight'}"


def eager(size: str, folder: str, prompt: int, tokens: int) -> Callable[[], Any]:  # noqa: ARG001  # all sides are called alike
    return generator(size, prompt, tokens, lambda step: step)


def compiled(size: str, folder: str, prompt: int, tokens: int) -> Callable[[], Any]:  # noqa: ARG001  # all sides are called alike
    """The step alone is compiled: on a GPU with CUDA graphs, which record it as a whole."""
    mode = "reduce-overhead" if torch.cuda.is_available() else "default"
    return generator(
        size, prompt, tokens, lambda step: torch.compile(step, mode=mode, fullgraph=True)
    )


def generator(size: str, prompt: int, tokens: int, made: Callable[[Any], Any]) -> Callable[[], Any]:
    """What follows a prompt, and `tokens` more. Waits for the device once, at the end."""
    place = "cuda" if torch.cuda.is_available() else "cpu"
    model = decoder(gpt.SIZES[size]).to(place)
    step = made(model.step)
    ids = torch.from_numpy(gpt.prompt(gpt.SIZES[size], prompt)).long().to(place)
    here = torch.arange(prompt, device=place)

    @torch.no_grad()
    def generate() -> dict[str, Any]:
        logits = model(ids, here)
        token, next_place = logits.argmax(-1), here[-1:] + 1
        found = [token]
        for _ in range(tokens):
            # CUDA graphs give each result in the same memory, which the next call overwrites.
            token, next_place = (one.clone() for one in step(token, next_place))
            found.append(token)
        return {"logits": logits.cpu().numpy(), "tokens": torch.stack(found).cpu().numpy()}

    return generate
