# mypy: disable-error-code="no-any-return"
"""Small networks that programs share."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.checks.kit.data import Rows, loader_of_24, stripe_pictures, table
from tests.checks.kit.training import Trainer, pretrain


def cnn(k: int = 3, c: int = 3, tail: tuple[nn.Module, ...] = ()) -> nn.Sequential:
    body = [
        nn.Conv2d(c, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
    ]
    return nn.Sequential(*body, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, k), *tail)


class Net(nn.Module):
    """A module from a forward function and some layers: `Net(forward, a=layer)`."""

    def __init__(self, run: Callable[..., Any], **layers: Any) -> None:
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, *x: Any) -> Any:
        return self.run(self, *x)


class Lstm(nn.Module):
    def __init__(self, d: int = 4, k: int = 3, batch_first: bool = True, kind: Any = nn.LSTM) -> None:
        super().__init__()
        self.rnn, self.head = kind(d, 16, batch_first=batch_first), nn.Linear(16, k)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.rnn(x)[0][:, -1])


class GruTagger(nn.Module):
    def __init__(self, k: int = 5, vocab: int = 30) -> None:
        super().__init__()
        self.embed, self.rnn, self.head = (
            nn.Embedding(vocab, 16, padding_idx=0),
            nn.GRU(16, 16, batch_first=True),
            nn.Linear(16, k),
        )

    def forward(self, x: Tensor) -> Any:
        return self.head(self.rnn(self.embed(x))[0])


class Decoder(nn.Module):
    def __init__(self, vocab: int = 40, causal: bool = True) -> None:
        super().__init__()
        self.embed, self.place, self.causal = (
            nn.Embedding(vocab, 32),
            nn.Parameter(torch.randn(1, 16, 32) * 0.1),
            causal,
        )
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
        self.head = nn.Linear(32, vocab)

    def forward(self, x: Tensor) -> Any:
        t = x.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(t) if self.causal else None
        return self.head(self.layer(self.embed(x) + self.place[:, :t], src_mask=mask))


class MaskedEncoder(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.embed, self.how = nn.Embedding(30, 16), how
        self.layer, self.head = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Any:
        pad = x == 0
        given = {"right": pad, "inverted": ~pad, "none": None}[self.how]
        h = self.layer(self.embed(x), src_key_padding_mask=given)
        keep = (~pad).float()[..., None]
        return self.head((h * keep).sum(1) / keep.sum(1))


def drop_net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(10, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 4))


def mlp(
    *sizes: int, act: Callable[[], nn.Module] = nn.ReLU, tail: tuple[nn.Module, ...] = (), last: nn.Module | None = None
) -> nn.Sequential:
    """Linear layers with `act` between them; then `tail`, or the one layer `last` where there is one."""
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), act()]
    return nn.Sequential(*layers[:-1], *tail, *([last] if last is not None else []))


def convnet(k: int = 4, c: int = 1, tail: tuple[nn.Module, ...] = ()) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(c, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(12, 16, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, k), *tail,
    )  # fmt: skip


class LastOfRnn(nn.Module):
    """The last output of a recurrent layer, to k numbers."""

    def __init__(self, k: int = 3, d: int = 3, kind: Any = nn.GRU, batch_first: bool = True) -> None:
        super().__init__()
        self.rnn, self.head = kind(d, 24, batch_first=batch_first), nn.Linear(24, k)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.rnn(x)[0][:, -1])


class LstmTagger(nn.Module):
    def __init__(self, k: int = 5, batch_first: bool = True, bidirectional: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(40, 16, padding_idx=0)
        self.rnn = nn.LSTM(16, 24, batch_first=batch_first, bidirectional=bidirectional)
        self.head = nn.Linear(48 if bidirectional else 24, k)

    def forward(self, words: Tensor) -> Any:
        return self.head(self.rnn(self.embed(words))[0])


class Transformer(nn.Module):
    """Words to k numbers a row, or a position; what is 0 is padding."""

    def __init__(self, k: int, is_causal: bool = False, is_pooled: bool = True, mask: str = "right") -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(60, 32), nn.Embedding(20, 32)
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.1, batch_first=True)
        self.head, self.is_causal, self.is_pooled, self.mask = nn.Linear(32, k), is_causal, is_pooled, mask

    def forward(self, words: Tensor) -> Any:
        t = words.shape[1]
        pad = words == 0
        x = self.embed(words) + self.place(torch.arange(t, device=words.device))
        causal = nn.Transformer.generate_square_subsequent_mask(t) if self.is_causal else None
        if self.is_causal:
            x = self.layer(x, src_mask=causal, is_causal=True)
        else:
            x = self.layer(x, src_key_padding_mask=~pad if self.mask == "inverted" else pad)
        if self.is_pooled:
            keep = (~pad).unsqueeze(-1)
            x = (x * keep).sum(1) / keep.sum(1)
        return self.head(x)


class Halves(nn.Module):
    """A body and a head, with a mistake between them."""

    def __init__(self, body: nn.Module, head: nn.Module, between: Callable[[Any], Any] = lambda h: h) -> None:
        super().__init__()
        self.encoder, self.decoder, self.between = body, head, between

    def forward(self, x: Tensor) -> Any:
        return self.decoder(self.between(self.encoder(x)))


def maps(k: int = 1, c: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(c, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, k, 1)
    )


class Normed(nn.Module):
    """A convolutional net with what behaves otherwise in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(1, 12, 3), nn.BatchNorm2d(12), nn.ReLU(), nn.AdaptiveAvgPool2d(3))
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(108, 4))

    def forward(self, x: Tensor) -> Any:
        return self.head(self.encoder(x))


class Fn(nn.Module):
    """A function as a layer."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, *x: Tensor) -> Any:
        return self.fn(*x)


def net_of(n: int = 8, classes: int = 2) -> nn.Module:
    return nn.Sequential(nn.Linear(n, 32), nn.ReLU(), nn.Linear(32, classes))


def conv(a: int, b: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU())


def picture_net(c: int = 3, k: int = 4, s: int = 12) -> nn.Module:
    q = s // 4
    return nn.Sequential(
        conv(c, 12), nn.MaxPool2d(2), conv(12, 16), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16 * q * q, k)
    )  # fmt: skip


class UNet(nn.Module):
    def __init__(self, c: int = 1, k: int = 2, last: nn.Module | None = None) -> None:
        super().__init__()
        self.down1, self.down2, self.middle = conv(c, 8), conv(8, 16), conv(16, 16)
        self.up1, self.up2 = conv(32, 8), conv(16, 8)
        self.out = nn.Sequential(nn.Conv2d(8, k, 1), *([last] if last is not None else []))

    def forward(self, x: Tensor) -> Any:
        a = self.down1(x)
        b = self.down2(F.max_pool2d(a, 2))
        m = self.middle(F.max_pool2d(b, 2))
        b = self.up1(torch.cat([F.interpolate(m, scale_factor=2.0), b], 1))
        return self.out(self.up2(torch.cat([F.interpolate(b, scale_factor=2.0), a], 1)))


class Sentence(nn.Module):
    """Embeds, encodes by a GRU, answers from the last state."""

    def __init__(self, v: int = 30, k: int = 3, d: int = 16) -> None:
        super().__init__()
        self.embed, self.gru, self.head = nn.Embedding(v, d), nn.GRU(d, 24, batch_first=True), nn.Linear(24, k)

    def forward(self, ids: Tensor) -> Any:
        return self.head(self.gru(self.embed(ids))[1][-1])


class BothWaysTagger(nn.Module):
    def __init__(self, v: int = 20, k: int = 4) -> None:
        super().__init__()
        self.embed = nn.Embedding(v, 16)
        self.lstm, self.out = nn.LSTM(16, 16, batch_first=True, bidirectional=True), nn.Linear(32, k)

    def forward(self, ids: Tensor) -> Any:
        return self.out(self.lstm(self.embed(ids))[0])


class SmallGpt(nn.Module):
    """A small GPT."""

    def __init__(self, v: int = 16, t: int = 12, d: int = 32, is_causal: bool = True, drop: float = 0.0) -> None:
        super().__init__()
        self.embed, self.place, self.is_causal = nn.Embedding(v, d), nn.Embedding(t, d), is_causal
        layer = nn.TransformerEncoderLayer(d, 2, 64, drop, batch_first=True, norm_first=True)
        self.body, self.norm = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.LayerNorm(d)
        self.head = nn.Linear(d, v)

    def forward(self, ids: Tensor) -> Any:
        t = ids.shape[1]
        h = self.embed(ids) + self.place(torch.arange(t))
        mask = torch.full((t, t), -math.inf).triu(1) if self.is_causal else None
        return self.head(self.norm(self.body(h, mask)))


class TransformerReader(nn.Module):
    """A transformer encoder over padded tokens, averaged."""

    def __init__(self, is_inverted: bool = False, pool: str = "mean", v: int = 30, k: int = 3) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(v, 24, padding_idx=0), nn.Parameter(0.02 * torch.randn(12, 24))
        self.layer = nn.TransformerEncoderLayer(24, 2, 48, 0.1, batch_first=True)
        self.head, self.is_inverted, self.pool = nn.Linear(24, k), is_inverted, pool

    def forward(self, ids: Tensor) -> Any:
        real = ids != 0
        h = self.layer(self.embed(ids) + self.place, src_key_padding_mask=real if self.is_inverted else ~real)
        if self.pool == "all":
            return self.head(h.mean(1))
        return self.head((h * real.unsqueeze(2)).sum(1) / real.sum(1, keepdim=True))


class Graph(nn.Module):
    def __init__(self, d: int = 5, k: int = 2) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Linear(d, 24), nn.Linear(24, 24), nn.Linear(24, k)

    def forward(self, x: Tensor, adjacency: Tensor) -> Any:
        h = F.relu(adjacency @ self.one(x))
        return self.head(F.relu(adjacency @ self.two(h)).sum(1) / 4)


class Table(nn.Module):
    """Numbers and categories, with an embedding for each category."""

    def __init__(self, d: int = 6, sizes: tuple[int, ...] = (5, 7), k: int = 3) -> None:
        super().__init__()
        self.embeds = nn.ModuleList(nn.Embedding(s, 4) for s in sizes)
        self.body = mlp(d + 4 * len(sizes), 48, 24, k)

    def forward(self, numbers: Tensor, codes: Tensor) -> Any:
        return self.body(torch.cat([numbers, *(e(codes[:, i]) for i, e in enumerate(self.embeds))], 1))


class Translator(nn.Module):
    def __init__(self, v: int = 12, last: nn.Module | None = None, d: int = 24) -> None:
        super().__init__()
        self.source, self.target, self.place = nn.Embedding(v, d), nn.Embedding(v, d), nn.Embedding(16, d)
        self.body = nn.Transformer(d, 2, 1, 1, 48, 0.0, batch_first=True)
        self.generator = nn.Sequential(nn.Linear(d, v), *([last] if last is not None else []))

    def forward(self, source: Tensor, target: Tensor) -> Any:
        i, j = torch.arange(source.shape[1]), torch.arange(target.shape[1])
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        h = self.body(self.source(source) + self.place(i), self.target(target) + self.place(j), tgt_mask=mask)
        return self.generator(h)


class Tuned(nn.Module):
    def __init__(self, trunk: nn.Module, k: int) -> None:
        super().__init__()
        self.trunk, self.head = trunk, nn.Linear(16, k)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.trunk(x))


def dropping() -> nn.Module:
    return nn.Sequential(nn.Linear(10, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Dropout(0.4), nn.Linear(48, 4))


def bn_net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(10, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 4))


def dense(*sizes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i, (a, b) in enumerate(pairwise(sizes)):
        layers += [nn.Linear(a, b), *([nn.ReLU()] if i < len(sizes) - 2 else [])]
    return nn.Sequential(*layers)


def small_cnn(channels: int, classes: int, width: int = 12) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(4 * width, classes),
    )  # fmt: skip


class DilatedBlock(nn.Module):
    def __init__(self, width: int, step: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(width, width, 3, padding=step, dilation=step)
        self.norm = nn.GroupNorm(2, width)

    def forward(self, x: Tensor) -> Any:
        return x + F.gelu(self.norm(self.conv(x)))


class ActivityNet(nn.Module):
    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv1d(2, 12, 3, padding=1)
        self.blocks = nn.ModuleList(DilatedBlock(12, 2**i) for i in range(3))
        self.head = nn.Linear(12, classes)

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(-1))

    def probabilities(self, x: Tensor) -> Tensor:
        return F.softmax(self(x), dim=1)


class CharTagger(nn.Module):
    """Words as ids and as five characters each; a convolution over characters and a GRU over words."""

    def __init__(self, kinds: int = 4) -> None:
        super().__init__()
        self.word, self.char = nn.Embedding(40, 16, padding_idx=0), nn.Embedding(8, 8)
        self.conv = nn.Conv1d(8, 8, 3, padding=1)
        self.rnn = nn.GRU(24, 20, batch_first=True, bidirectional=True)
        self.out = nn.Linear(40, kinds)

    def forward(self, words: Tensor, chars: Tensor) -> Any:
        n, t, c = chars.shape
        spelled = self.conv(self.char(chars).view(n * t, c, 8).transpose(1, 2)).amax(-1).view(n, t, 8)
        seen, _ = self.rnn(torch.cat([self.word(words), spelled], -1))
        return self.out(seen)


class DeepFM(nn.Module):
    def __init__(self, squash: bool = False, with_deep: bool = True, drop: float = 0.1) -> None:
        super().__init__()
        self.emb = nn.Embedding(48, 8)
        self.bias = nn.Embedding(48, 1)
        self.deep = nn.Sequential(nn.Linear(36, 32), nn.ReLU(), nn.Dropout(drop), nn.Linear(32, 1))
        self.wide = nn.Linear(4, 1)
        self.squash, self.with_deep = squash, with_deep

    def forward(self, ids: Tensor, values: Tensor) -> Any:
        shifted = ids + 12 * torch.arange(4, device=ids.device)
        e = self.emb(shifted)
        pairs = 0.5 * (e.sum(1) ** 2 - (e**2).sum(1)).sum(1, keepdim=True)
        deep = self.deep(torch.cat([e.flatten(1), values], 1))
        out = self.bias(shifted).sum(1) + pairs + self.wide(values)
        if self.with_deep:
            out = out + deep
        out = out.squeeze(1)
        return torch.sigmoid(out) if self.squash else out


class DepthNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 12, 3, padding=1), nn.ReLU())
        self.out = nn.Conv2d(12, 1, 1)

    def forward(self, x: Tensor) -> Any:
        return self.out(self.body(x))


class DenseGAT(nn.Module):
    def __init__(self, implicit: bool) -> None:
        super().__init__()
        self.lift, self.left, self.right = nn.Linear(6, 16), nn.Linear(16, 1), nn.Linear(16, 1)
        self.out = nn.Linear(16, 3)
        self.implicit = implicit

    def forward(self, x: Tensor, near: Tensor) -> Any:
        h = self.lift(x)
        score = F.leaky_relu(self.left(h) + self.right(h).transpose(1, 2), 0.2)
        score = score.masked_fill(near == 0, -1e9)
        weight = torch.softmax(score, dim=0 if self.implicit else -1)
        return self.out(F.elu(weight @ h).mean(1))


class MeanAndSign(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = dense(8, 48, 48)
        self.mean, self.sign = nn.Linear(48, 1), nn.Linear(48, 1)
        self.spread = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> Any:
        h = F.relu(self.trunk(x))
        return self.mean(h), self.sign(h)


class PoseNet(nn.Module):
    """Heatmaps by convolution, coordinates by (soft) argmax, a small refinement."""

    def __init__(self, hard: bool) -> None:
        super().__init__()
        self.heat = nn.Sequential(nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 1, 3, padding=1))
        self.refine = nn.Linear(2, 2)
        self.hard = hard

    def forward(self, x: Tensor) -> Any:
        n, _, h, w = x.shape
        heat = self.heat(x).flatten(1)
        if self.hard:
            best = heat.argmax(1)
            place = torch.stack([best % w / w, best // w / h], 1) * 2 - 1
        else:
            grid = torch.linspace(-1, 1, w)
            share = torch.softmax(5 * heat, 1).view(n, h, w)
            place = torch.stack([(share.sum(1) * grid).sum(1), (share.sum(2) * grid).sum(1)], 1)
        return self.refine(place)


class FieldTransformer(nn.Module):
    """A tabular transformer: one token a column, a learnt vector a column, mean pooling."""

    def __init__(self, classes: int = 3, columns: int = 12, plain: bool = False, batch_first: bool = True) -> None:
        super().__init__()
        scale, place = torch.randn(columns, 16) * 0.5, torch.randn(columns, 16) * 0.5
        self.scale = nn.Parameter(scale)
        self.place: Any = place.requires_grad_() if plain else nn.Parameter(place)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=batch_first) for _ in range(2)
        )
        self.out = nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Any:
        h = x[..., None] * self.scale + self.place
        for layer in self.layers:
            h = layer(h)
        return self.out(h.mean(1))


class Intent(nn.Module):
    """Bidirectional LSTM; its two last states side by side."""

    def __init__(self, by_view: bool) -> None:
        super().__init__()
        self.emb = nn.Embedding(40, 16, padding_idx=0)
        self.rnn = nn.LSTM(16, 12, batch_first=True, bidirectional=True)
        self.out = nn.Linear(24, 3)
        self.by_view = by_view

    def forward(self, x: Tensor) -> Any:
        _, (last, _) = self.rnn(self.emb(x))
        joint = last.view(len(x), -1) if self.by_view else torch.cat([last[0], last[1]], 1)
        return self.out(joint)


class Routed(nn.Module):
    """Capsules with two rounds of routing; the agreement is summed over the batch in the broken one."""

    def __init__(self, over_batch: bool) -> None:
        super().__init__()
        self.lift = nn.Linear(12, 32)
        self.vote = nn.Parameter(torch.randn(8, 4, 4, 3) * 0.3)
        self.axes = "nijd,nmd->ij" if over_batch else "nijd,njd->nij"
        self.over_batch = over_batch

    def forward(self, x: Tensor) -> Any:
        u = torch.einsum("nic,icdj->nijd", self.lift(x).view(-1, 8, 4).tanh(), self.vote)
        b = u.new_zeros(len(x), 8, 3)
        v = u.sum(1)
        for _ in range(2):
            s = (torch.softmax(b, 2)[..., None] * u).sum(1)
            v = s * s.norm(dim=-1, keepdim=True) / (1 + s.pow(2).sum(-1, keepdim=True))
            agree = (u * v[:, None]).sum(-1)
            b = b + (agree.mean(0, keepdim=True) * 8 if self.over_batch else agree)
        return 6 * v.pow(2).sum(-1).add(1e-6).sqrt()


class Heads(nn.Module):
    """Attention written by hand; the merge of the heads is what reports name."""

    def __init__(self, width: int, slip: bool) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.slip = slip

    def forward(self, x: Tensor) -> Any:
        n, t, w = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, 4, w // 4).permute(2, 0, 3, 1, 4)
        seen = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(w // 4), -1) @ v
        merged = seen.reshape(n, t, w) if self.slip else seen.transpose(1, 2).reshape(n, t, w)
        return self.out(merged)


class HandTagger(nn.Module):
    def __init__(self, slip: bool) -> None:
        super().__init__()
        self.emb, self.place = nn.Embedding(40, 24, padding_idx=0), nn.Parameter(torch.randn(12, 24) * 0.2)
        self.heads, self.norm = Heads(24, slip), nn.LayerNorm(24)
        self.out = dense(24, 32, 4)

    def forward(self, x: Tensor) -> Any:
        h = self.emb(x) + self.place
        return self.out(self.norm(h + self.heads(h)))


class MaskedDecoder(nn.Module):
    def __init__(self, mask: Tensor, vocab: int = 20, length: int = 14) -> None:
        super().__init__()
        self.emb, self.place = nn.Embedding(vocab, 24), nn.Embedding(length, 24)
        self.attend = nn.MultiheadAttention(24, 2, batch_first=True)
        self.first, self.second, self.mlp = nn.LayerNorm(24), nn.LayerNorm(24), dense(24, 48, 24)
        self.out = nn.Linear(24, vocab)
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Any:
        h = self.emb(x) + self.place(torch.arange(x.shape[1]))
        n = self.first(h)
        h = h + self.attend(n, n, n, attn_mask=self.mask, need_weights=False)[0]
        return self.out(h + self.mlp(self.second(h)))


class TextEncoder(nn.Module):
    def __init__(self, keep: bool, drop: float = 0.0) -> None:
        super().__init__()
        self.emb = nn.Embedding(40, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=drop, batch_first=True)
        self.out = nn.Linear(16, 3)
        self.keep = keep

    def forward(self, x: Tensor) -> Any:
        real = x != 0
        h = self.layer(self.emb(x), src_key_padding_mask=real if self.keep else ~real)
        return self.out((h * real[..., None]).sum(1) / real.sum(1, keepdim=True))


class GraphConv(nn.Module):
    def __init__(self, a: int, b: int, start: str) -> None:
        super().__init__()
        weight = torch.ones(a, b) / a if start == "ones" else torch.randn(a, b) / math.sqrt(a)
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(torch.zeros(b))

    def forward(self, x: Tensor, near: Tensor) -> Any:
        return near @ x @ self.weight + self.bias


class GCN(nn.Module):
    def __init__(self, start: str = "random") -> None:
        super().__init__()
        self.first, self.second = GraphConv(6, 16, start), GraphConv(16, 16, start)
        self.out = nn.Linear(16, 3)

    def forward(self, x: Tensor, near: Tensor) -> Any:
        h = F.relu(self.first(x, near))
        return self.out(F.relu(self.second(h, near)).mean(1))


class GridDetector(nn.Module):
    """Objectness and offset for a 3 x 3 grid, as one-stage detectors have it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(12, 16, 3, padding=1), nn.ReLU(),
            nn.MaxPool2d(2),
        )  # fmt: skip
        self.head = nn.Conv2d(16, 3, 1)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.body(x))


def prior(net: GridDetector, everywhere: bool) -> None:
    bias = -math.log((1 - 0.1) / 0.1)
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d) and (everywhere or name == "head"):
            nn.init.constant_(module.bias, 2 * bias if everywhere else 0.0)  # type: ignore[arg-type]
            if name == "head":
                module.bias.data[0] = bias  # type: ignore[union-attr]


class Game(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.maker, self.critic = dense(4, 32, 6), dense(6, 32, 1)


class Judged(Trainer):
    """Asks for the loss on held-out rows within an epoch; its modes are what differs."""

    to_eval, back = True, True

    def __init__(self, net: nn.Module, optimizer: torch.optim.Optimizer, train: Rows, valid: Rows) -> None:
        super().__init__(net, optimizer, train)
        self.valid = valid

    def judge(self) -> float:
        if self.to_eval:
            self.net.eval()
        with torch.no_grad():
            found = [float(self.loss(x, y)) * len(x) for x, y in loader_of_24(self.valid, 48, False)]
        if self.to_eval and self.back:
            self.net.train()
        return sum(found) / len(self.valid[0])

    def fit(self) -> None:
        self.net.train()
        for _ in range(self.epochs):
            for i, (x, y) in enumerate(loader_of_24(self.train)):
                self.optimizer.zero_grad()
                self.loss(x, y).backward()
                self.optimizer.step()
                if i % 5 == 4:
                    self.judge()


def small_net(channels: int = 1, classes: int = 4) -> nn.Sequential:
    body = nn.Sequential(nn.Conv2d(channels, 12, 3, 2, 1), nn.ReLU(), nn.Conv2d(12, 12, 3, 2, 1), nn.ReLU())
    return nn.Sequential(body, nn.Flatten(), nn.Linear(108, classes))


class Adapter(nn.Module):
    def __init__(self, base: nn.Linear, are_both_zero: bool = False) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        down = torch.zeros(4, base.in_features) if are_both_zero else torch.randn(4, base.in_features) / 4
        self.down, self.up = nn.Parameter(down), nn.Parameter(torch.zeros(base.out_features, 4))

    def forward(self, x: Tensor) -> Any:
        return self.base(x) + x @ self.down.T @ self.up.T


def adapted(are_both_zero: bool = False) -> nn.Sequential:
    base = mlp(10, 32, 32, 4)
    pretrain(base, table())
    first, second = base[0], base[2]
    assert isinstance(first, nn.Linear)
    assert isinstance(second, nn.Linear)
    return nn.Sequential(
        Adapter(first, are_both_zero), nn.ReLU(), Adapter(second, are_both_zero), nn.ReLU(), nn.Linear(32, 4)
    )


class Contract(nn.Module):
    """A small U-Net."""

    def __init__(self, out: int, last: nn.Module | None = None) -> None:
        super().__init__()
        self.down1 = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU())
        self.down2 = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU())
        self.up = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.out = nn.Conv2d(16, out, 1)
        self.last = last or nn.Identity()

    def forward(self, images: Tensor) -> Any:
        fine = self.down1(images)
        return self.last(self.out(torch.cat([fine, self.up(self.down2(fine))], 1)))


class PackedReader(nn.Module):
    """A classifier of padded sentences, bidirectional."""

    def __init__(self, classes: int, words: int = 20) -> None:
        super().__init__()
        self.words = nn.Embedding(words, 16, padding_idx=0)
        self.encoder = nn.GRU(16, 16, batch_first=True, bidirectional=True)
        self.head = nn.Linear(32, classes)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Any:
        packed = nn.utils.rnn.pack_padded_sequence(self.words(tokens), lengths, True, enforce_sorted=False)
        _, last = self.encoder(packed)
        return self.head(torch.cat([last[0], last[1]], 1))


class Speaker(nn.Module):
    """A GRU language model."""

    def __init__(self, words: int = 12) -> None:
        super().__init__()
        self.words = nn.Embedding(words, 24)
        self.memory = nn.GRU(24, 32, batch_first=True)
        self.out = nn.Linear(32, words)

    def forward(self, tokens: Tensor) -> Any:
        return self.out(self.memory(self.words(tokens))[0])


def loaded_trunk() -> nn.Sequential:
    trunk = nn.Sequential(nn.Conv2d(1, 12, 3, 2, 1), nn.ReLU(), nn.Conv2d(12, 12, 3, 2, 1), nn.ReLU(), nn.Flatten())
    images, labels = stripe_pictures(256, classes=6)
    pretrain(nn.Sequential(trunk, nn.Linear(108, 6)), (images, labels))
    return trunk


class Mlp(nn.Module):
    def __init__(self, d: int = 12, hidden: int = 32, out: int = 4, dropout: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(d, hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(hidden, out)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.fc1(x))
        x = self.drop(F.relu(self.fc2(x)))
        return self.head(x)


class Cnn(nn.Module):
    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 12, 3, padding=1)
        self.conv2 = nn.Conv2d(12, 24, 3, padding=1)
        self.fc = nn.Linear(24, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc(x.mean((2, 3)))


class PackedLstm(nn.Module):
    def __init__(self, vocab: int = 50, dim: int = 16, hidden: int = 24, classes: int = 2) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab, dim, padding_idx=0)
        self.lstm = nn.LSTM(dim, hidden, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * hidden, classes)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(
            self.embed(ids), lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        _, (h, _) = self.lstm(packed)
        return self.head(torch.cat([h[-2], h[-1]], dim=1))


class TiedDecoder(nn.Module):
    def __init__(self, vocab: int = 60, dim: int = 32, context: int = 16, layers: int = 2, tie: bool = True) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab, dim)
        self.pos = nn.Embedding(context, dim)
        layer = nn.TransformerEncoderLayer(dim, 4, 2 * dim, dropout=0.1, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, vocab, bias=False)
        nn.init.normal_(self.embed.weight, std=0.02)
        nn.init.normal_(self.pos.weight, std=0.02)
        if tie:
            self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        t = ids.shape[1]
        x = self.embed(ids) + self.pos(torch.arange(t, device=ids.device))
        mask = nn.Transformer.generate_square_subsequent_mask(t, device=ids.device)
        return self.head(self.norm(self.blocks(x, mask=mask, is_causal=True)))


class BatchNormMlp(nn.Module):
    def __init__(self, d: int = 12, hidden: int = 32, classes: int = 4) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(d, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
        )
        self.head = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class ScalarNet(nn.Module):
    def __init__(self, d: int = 8, hidden: int = 32) -> None:
        super().__init__()
        self.fc1 = nn.Linear(d, hidden)
        self.fc2 = nn.Linear(hidden, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.relu(self.fc1(x))).squeeze(-1)
