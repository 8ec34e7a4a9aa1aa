"""MiniLM and ResNet-50 as PyTorch users write them. Nothing here imports JAX."""

import torch
from torch import Tensor, nn
from torch.nn import functional

import minilm
import resnet


class Attention(nn.Module):
    """Attention between tokens, `heads` at a time, by PyTorch's own fused operation."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        query, key, value = (
            layer(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        seen = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return seen.transpose(1, 2).flatten(2)


class Layer(nn.Module):
    """One layer of BERT. The names of its parts are those of the published weights."""

    def __init__(self, width: int, hidden: int, heads: int, epsilon: float) -> None:
        super().__init__()
        attention = nn.Module()
        attention.self = Attention(width, heads)
        attention.output = residual(width, width, epsilon)
        self.attention = attention
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, hidden)})
        self.output = residual(hidden, width, epsilon)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        output = self.attention.output
        x = output["LayerNorm"](x + output["dense"](self.attention.self(x, mask)))
        hidden = functional.gelu(self.intermediate["dense"](x))
        return self.output["LayerNorm"](x + self.output["dense"](hidden))


def residual(inputs: int, outputs: int, epsilon: float) -> nn.ModuleDict:
    return nn.ModuleDict(
        {"dense": nn.Linear(inputs, outputs), "LayerNorm": nn.LayerNorm(outputs, eps=epsilon)}
    )


class SentenceEncoder(nn.Module):
    """MiniLM: one vector of length 1 for each row of token ids."""

    def __init__(self) -> None:
        super().__init__()
        config = minilm.config()
        width, epsilon = config["hidden_size"], config["layer_norm_eps"]
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": nn.Embedding(config["vocab_size"], width),
                "position_embeddings": nn.Embedding(config["max_position_embeddings"], width),
                "token_type_embeddings": nn.Embedding(config["type_vocab_size"], width),
                "LayerNorm": nn.LayerNorm(width, eps=epsilon),
            }
        )
        sizes = (config["intermediate_size"], config["num_attention_heads"], epsilon)
        self.encoder = nn.ModuleDict(
            {
                "layer": nn.ModuleList(
                    Layer(width, *sizes) for _ in range(config["num_hidden_layers"])
                )
            }
        )

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        embeddings = self.embeddings
        x = embeddings["word_embeddings"](ids) + embeddings["token_type_embeddings"].weight[0]
        x = x + embeddings["position_embeddings"].weight[: ids.shape[1]]
        x = embeddings["LayerNorm"](x)
        for layer in self.encoder["layer"]:
            x = layer(x, mask[:, None, None, :] > 0)
        weight = mask[:, :, None].to(x.dtype)
        mean = (x * weight).sum(1) / weight.sum(1).clamp(min=1)
        return functional.normalize(mean, dim=1)


def sentence_encoder() -> nn.Module:
    model = SentenceEncoder()
    weights = {name: torch.from_numpy(value) for name, value in minilm.parameters().items()}
    pooler = {name for name in weights if name.startswith("pooler.")}  # trained, but not used
    model.load_state_dict({name: weights[name] for name in weights.keys() - pooler})
    return model.eval()


class Normalised(nn.Module):
    """A convolution and the normalisation after it."""

    def __init__(self, one: resnet.Convolution) -> None:
        super().__init__()
        self.conv = nn.Conv2d(one.inputs, one.outputs, one.size, one.stride, one.size // 2)
        self.bn = nn.BatchNorm2d(one.outputs, eps=resnet.EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


class Block(nn.Module):
    """Three convolutions whose result is added to the input."""

    def __init__(self, block: resnet.Block) -> None:
        super().__init__()
        self.first, self.second, self.third = map(Normalised, block.path)
        self.shortcut = nn.Identity() if block.shortcut is None else Normalised(block.shortcut)

    def forward(self, x: Tensor) -> Tensor:
        hidden = functional.relu(self.second(functional.relu(self.first(x))))
        return functional.relu(self.third(hidden) + self.shortcut(x))


class ResNet(nn.Module):
    """ResNet-50 of images in `[batch, height, width, 3]`, as the other libraries are given them.

    Moving their last axis makes what PyTorch calls `channels_last`; the kernels lie that way too.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = Normalised(resnet.STEM)
        self.blocks = nn.Sequential(*map(Block, resnet.blocks()))
        self.predictions = nn.Linear(4 * resnet.STAGES[-1][0], resnet.CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        x = functional.relu(self.stem(images.permute(0, 3, 1, 2)))
        x = self.blocks(functional.max_pool2d(x, 3, 2, 1))
        return self.predictions(x.mean((2, 3)))

    def normalised(self) -> list[Normalised]:
        """In the order of `resnet.convolutions`."""
        found = [self.stem]
        for block in self.blocks:
            beside = [block.shortcut] if isinstance(block.shortcut, Normalised) else []
            found += [*beside, block.first, block.second, block.third]
        return found


@torch.no_grad()
def residual_network() -> nn.Module:
    model = ResNet()
    tensors = {name: torch.from_numpy(value) for name, value in resnet.parameters().items()}
    for one, module in zip(resnet.convolutions(), model.normalised(), strict=True):
        convolution, norm = f"{one.name}_conv", f"{one.name}_bn"
        module.conv.weight.copy_(tensors[f"{convolution}/kernel"].permute(3, 2, 0, 1))
        module.conv.bias.copy_(tensors[f"{convolution}/bias"])
        module.bn.weight.copy_(tensors[f"{norm}/gamma"])
        module.bn.bias.copy_(tensors[f"{norm}/beta"])
        module.bn.running_mean.copy_(tensors[f"{norm}/moving_mean"])
        module.bn.running_var.copy_(tensors[f"{norm}/moving_variance"])
    model.predictions.weight.copy_(tensors["predictions/kernel"].T)
    model.predictions.bias.copy_(tensors["predictions/bias"])
    return model.eval().to(memory_format=torch.channels_last)
