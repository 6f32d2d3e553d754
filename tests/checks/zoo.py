# mypy: disable-error-code="no-any-return"
"""The healthy zoo: sound programs that trip naive checks, as people write them."""

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, TensorDataset, WeightedRandomSampler

from tests.checks.program import Parts, Sound

ZOO: list[Sound] = []
Split = tuple[tuple[Tensor, ...], tuple[Tensor, ...]]


def sound(name: str) -> Callable[[Callable[[], Parts]], Callable[[], Parts]]:
    """Register a program; its `make` seeds torch first."""

    def register(build: Callable[[], Parts]) -> Callable[[], Parts]:
        def make(seed: int) -> Parts:
            torch.manual_seed(seed)
            return build()

        ZOO.append(Sound(name, make))
        return build

    return register


# Data


def split(*columns: Tensor, n_valid: int = 120) -> Split:
    return tuple(c[:-n_valid] for c in columns), tuple(c[-n_valid:] for c in columns)


def standardised(x: Tensor, n_valid: int = 120) -> Tensor:
    """Scale by the statistics of the training rows."""
    own = [0, *range(2, x.ndim)]
    return (x - x[:-n_valid].mean(own, keepdim=True)) / x[:-n_valid].std(own, keepdim=True)


def blobs(n: int = 520, d: int = 12, k: int = 4, spread: float = 1.2) -> Split:
    y = torch.randint(k, (n,))
    return split(standardised(torch.randn(k, d)[y] + spread * torch.randn(n, d)), y)


def regression(n: int = 520, d: int = 8, out: int = 1, noise: float = 0.1) -> Split:
    x = torch.randn(n, d)
    y = torch.tanh(x @ torch.randn(d, 6) / d**0.5) @ torch.randn(6, out)
    return split(x, standardised(y) + noise * torch.randn(n, out))


def binary(n: int = 520, d: int = 10) -> Split:
    x = torch.randn(n, d)
    return split(x, (x @ torch.randn(d) + 0.5 * torch.randn(n) > 0).float())


def images(n: int = 360, k: int = 4, side: int = 16, channels: int = 3) -> Split:
    y = torch.randint(k, (n,))
    shapes = F.interpolate(torch.randn(k, channels, 4, 4), side, mode="bilinear")
    gain = 0.7 + 0.6 * torch.rand(n, 1, 1, 1)
    clutter = F.interpolate(torch.randn(n, channels, 8, 8), side, mode="bilinear")
    x = gain * shapes[y] + 0.6 * clutter + 0.2 * torch.randn(n, channels, side, side)
    return split(standardised(x, 100), y, n_valid=100)


def waves(n: int = 400, t: int = 20, d: int = 3, k: int = 3) -> Split:
    y = torch.randint(k, (n,))
    time = torch.linspace(0, 6.28, t)[None, :, None]
    x = torch.sin((1 + y)[:, None, None] * time + 2 * torch.rand(n, 1, d)) + 0.3 * torch.randn(n, t, d)
    return split(x, y)


def sentences(n: int = 420, t: int = 16, vocab: int = 60) -> Split:
    """Text of a Markov chain with a few likely successors for each token; 0 and 1 are kept for pad and mask."""
    after = torch.randint(2, vocab, (vocab, 4))
    x = [torch.randint(2, vocab, (n,))]
    for _ in range(t - 1):
        likely = after[x[-1], torch.multinomial(torch.tensor([0.5, 0.25, 0.15, 0.1]), n, replacement=True)]
        x.append(torch.where(torch.rand(n) < 0.1, torch.randint(2, vocab, (n,)), likely))
    return split(torch.stack(x, 1))


def tokens(n: int = 480, t: int = 14, vocab: int = 50) -> Split:
    """Token ids padded with 0 to the right, their lengths, and a label."""
    y = torch.randint(2, (n,))
    x = 1 + torch.multinomial(torch.softmax(torch.randn(2, vocab - 1), 1)[y], t, replacement=True)
    lengths = torch.randint(6, t + 1, (n,))
    return split(x * (torch.arange(t) < lengths[:, None]), lengths, y)


def batches(*columns: Tensor, size: int = 32) -> Iterator[tuple[Tensor, ...]]:
    """One shuffled epoch, without the rows that do not fill a batch."""
    order = torch.randperm(len(columns[0]))
    for i in range(0, len(order) - size + 1, size):
        yield tuple(c[order[i : i + size]] for c in columns)


# What many programs share


CE, MSE = nn.CrossEntropyLoss(), nn.MSELoss()


def adam(net: nn.Module, lr: float = 1e-3) -> optim.Optimizer:
    return optim.Adam([p for p in net.parameters() if p.requires_grad], lr=lr)


def parts(net: nn.Module, data: Split, criterion: Any = CE, optimizer: Any = None, **more: Any) -> Parts:
    train, valid = data
    return Parts(net, train, valid, criterion, optimizer or adam(net), **more)


def stepped(net: nn.Module, data: Split, step: Callable[[Any, Any], Tensor], optimizer: Any = None) -> Parts:
    train, valid = data
    return Parts(net, train, valid, optimizer=optimizer or adam(net), step=step)


class Texts(Dataset[Tensor]):
    def __init__(self, ids: Tensor) -> None:
        self.ids = ids

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> Tensor:
        return self.ids[i]


def unlabelled(net: nn.Module, data: Split, step: Callable[[Any, Any], Tensor]) -> Parts:
    (train,), (valid,) = data
    return Parts(
        net,
        DataLoader(Texts(train), batch_size=32, shuffle=True),
        DataLoader(Texts(valid), batch_size=32),
        optimizer=adam(net),
        step=step,
    )


def accuracy(net: nn.Module, valid: tuple[Tensor, ...]) -> float:
    *inputs, y = valid
    net.eval()
    with torch.no_grad():
        correct = (net(*inputs).argmax(1) == y).float().mean().item()
    net.train()
    return correct


def pretrain(net: nn.Module, data: Split, steps: int = 80, lr: float = 5e-3) -> None:
    optimizer = optim.Adam(net.parameters(), lr=lr)
    done = 0
    while done < steps:
        for x, y in batches(*data[0]):
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimizer.step()
            done += 1
    for p in net.parameters():
        p.grad = None


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


# Convolutions and transformers over images


class BasicBlock(nn.Module):
    def __init__(self, c_in: int, c_out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        nn.init.zeros_(self.bn2.weight)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or c_in != c_out:
            self.shortcut = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class ResNet(nn.Module):
    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 12, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(12)
        self.layer1 = nn.Sequential(BasicBlock(12, 12), BasicBlock(12, 12))
        self.layer2 = nn.Sequential(BasicBlock(12, 24, 2), BasicBlock(24, 24))
        self.layer3 = nn.Sequential(BasicBlock(24, 32, 2), BasicBlock(32, 32))
        self.fc = nn.Linear(32, classes)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(x.mean((2, 3)))


@sound("resnet-zero-gamma")
def resnet_zero_gamma() -> Parts:
    net = ResNet()
    decay = [p for p in net.parameters() if p.ndim > 1]
    rest = [p for p in net.parameters() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": 5e-4}, {"params": rest, "weight_decay": 0.0}]
    return parts(net, images(), CE, optim.SGD(groups, lr=0.05, momentum=0.9, nesterov=True))


@sound("resnet-cosine-loop")
def resnet_cosine_loop() -> Parts:
    train, valid = images()
    net = ResNet()
    optimizer = optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    epochs = 3
    scheduler = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs)

    def loop() -> None:
        for _ in range(epochs):
            net.train()
            for x, y in batches(*train):
                optimizer.zero_grad()
                F.cross_entropy(net(x), y).backward()
                optimizer.step()
            scheduler.step()
            accuracy(net, valid)

    return Parts(net, train, valid, CE, optimizer, loop=loop)


class VitBlock(nn.Module):
    def __init__(self, dim: int, heads: int, dropout: float, init: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = nn.MultiheadAttention(dim, heads, dropout=dropout, batch_first=True)
        self.scale1 = nn.Parameter(init * torch.ones(dim))
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(
            nn.Linear(dim, 2 * dim), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * dim, dim), nn.Dropout(dropout)
        )
        self.scale2 = nn.Parameter(init * torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm1(x)
        x = x + self.scale1 * self.attn(h, h, h, need_weights=False)[0]
        return x + self.scale2 * self.mlp(self.norm2(x))


class Vit(nn.Module):
    def __init__(self, side: int = 16, patch: int = 4, dim: int = 32, depth: int = 3, classes: int = 4) -> None:
        super().__init__()
        self.patchify = nn.Conv2d(3, dim, patch, patch)
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, dim))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, 1 + (side // patch) ** 2, dim))
        self.drop = nn.Dropout(0.1)
        self.blocks = nn.ModuleList([VitBlock(dim, 4, 0.1, 1e-6) for _ in range(depth)])
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patchify(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
        x = self.drop(x + self.pos_embed)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


@sound("vit-layerscale-warmup")
def vit_layerscale_warmup() -> Parts:
    net = Vit()
    optimizer = optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.05)
    optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / 50))
    return parts(net, images(), nn.CrossEntropyLoss(label_smoothing=0.1), optimizer)


@sound("vit-warmup-loop")
def vit_warmup_loop() -> Parts:
    train, valid = images()
    net = Vit()
    optimizer = optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.05)
    scheduler = optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / 10))

    def loop() -> None:
        for _ in range(4):
            net.train()
            for x, y in batches(*train):
                loss = F.cross_entropy(net(x), y, label_smoothing=0.1)
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                optimizer.step()
                scheduler.step()
            accuracy(net, valid)

    return Parts(net, train, valid, CE, optimizer, loop=loop)


# Recurrent networks


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


@sound("lstm-packed")
def lstm_packed() -> Parts:
    return parts(PackedLstm(), tokens())


class SentenceDataset(Dataset[Any]):
    """Sentences of different lengths, without padding."""

    def __init__(self, ids: Tensor, lengths: Tensor, labels: Tensor) -> None:
        self.rows = [row[:n] for row, n in zip(ids, lengths.tolist(), strict=True)]
        self.labels = labels

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return self.rows[i], self.labels[i]


def collate_packed(rows: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    rows = sorted(rows, key=lambda row: len(row[0]), reverse=True)
    ids = nn.utils.rnn.pad_sequence([x for x, _ in rows], batch_first=True)
    return ids, torch.tensor([len(x) for x, _ in rows]), torch.stack([y for _, y in rows])


@sound("lstm-packed-loader")
def lstm_packed_loader() -> Parts:
    train, valid = tokens()
    net = PackedLstm()
    return Parts(
        net,
        DataLoader(SentenceDataset(*train), batch_size=32, shuffle=True, collate_fn=collate_packed),
        DataLoader(SentenceDataset(*valid), batch_size=64, collate_fn=collate_packed),
        CE,
        adam(net, 2e-3),
    )


class TimeMajorGru(nn.Module):
    """Takes `(time, batch, features)`, as `nn.GRU` does by default."""

    def __init__(self, d: int = 3, hidden: int = 24, classes: int = 3) -> None:
        super().__init__()
        self.gru = nn.GRU(d, hidden, num_layers=2)
        self.head = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        _, h = self.gru(x)
        return self.head(h[-1])


class BatchMajorGru(nn.Module):
    def __init__(self, d: int = 3, hidden: int = 24, classes: int = 3) -> None:
        super().__init__()
        self.inner = TimeMajorGru(d, hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.permute(1, 0, 2))


@sound("gru-time-major-permuted")
def gru_time_major_permuted() -> Parts:
    net = BatchMajorGru()
    return parts(net, waves(), CE, adam(net, 3e-3))


def collate_time_major(rows: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return torch.stack([x for x, _ in rows], dim=1), torch.stack([y for _, y in rows])


@sound("gru-time-major-loader")
def gru_time_major_loader() -> Parts:
    train, valid = waves()
    net = TimeMajorGru()
    return Parts(
        net,
        DataLoader(TensorDataset(*train), batch_size=32, shuffle=True, collate_fn=collate_time_major),
        DataLoader(TensorDataset(*valid), batch_size=32, collate_fn=collate_time_major),
        CE,
        adam(net, 2e-3),
    )


class StreamingRnn(nn.Module):
    """Keeps its hidden state between calls, until `reset`."""

    def __init__(self, d: int = 2, hidden: int = 24) -> None:
        super().__init__()
        self.gru = nn.GRU(d, hidden, batch_first=True)
        self.head = nn.Linear(hidden, d)
        self.state: Tensor | None = None

    def reset(self) -> None:
        self.state = None

    def forward(self, chunk: Tensor) -> Tensor:
        state = None if self.state is None else self.state.detach()
        out, self.state = self.gru(chunk, state)
        return self.head(out)


def streams(n: int, t: int = 81) -> Tensor:
    time = torch.arange(t)[None, :, None] * 0.3
    return torch.sin(time * (0.7 + 0.6 * torch.rand(n, 1, 2)) + 6.28 * torch.rand(n, 1, 2)) + 0.1 * torch.randn(n, t, 2)


@sound("streaming-rnn-loop")
def streaming_rnn_loop() -> Parts:
    train, valid = streams(200), streams(80)
    net = StreamingRnn()
    optimizer = adam(net, 3e-3)

    def loop() -> None:
        for _ in range(2):
            net.train()
            for (rows,) in batches(train):
                net.reset()
                for i in range(0, 80, 20):
                    loss = F.mse_loss(net(rows[:, i : i + 20]), rows[:, i + 1 : i + 21])
                    optimizer.zero_grad()
                    loss.backward()
                    nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                    optimizer.step()
            net.eval()
            net.reset()
            with torch.no_grad():
                for i in range(0, 80, 20):
                    F.mse_loss(net(valid[:, i : i + 20]), valid[:, i + 1 : i + 21])
            net.reset()

    return Parts(net, None, optimizer=optimizer, loop=loop)


@sound("streaming-rnn-step")
def streaming_rnn_step() -> Parts:
    def step(module: StreamingRnn, batch: Any) -> Tensor:
        x, y = batch
        module.reset()
        losses = [F.mse_loss(module(x[:, i : i + 10]), y[:, i : i + 10]) for i in range(0, 40, 10)]
        module.reset()
        return torch.stack(losses).mean()

    x = streams(420, 41)
    return stepped(StreamingRnn(), split(x[:, :-1], x[:, 1:]), step)


# Transformers over tokens


class Decoder(nn.Module):
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


def token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


@sound("decoder-tied-large-vocab")
def decoder_tied_large_vocab() -> Parts:
    (x,), (v,) = sentences(vocab=800)
    net = Decoder(800)
    optimizer = optim.AdamW(net.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    return Parts(net, (x[:, :-1], x[:, 1:]), (v[:, :-1], v[:, 1:]), token_loss, optimizer)


@sound("decoder-shift-in-step")
def decoder_shift_in_step() -> Parts:
    def step(module: nn.Module, ids: Any) -> Tensor:
        logits = module(ids[:, :-1])
        return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), ids[:, 1:].reshape(-1))

    return unlabelled(Decoder(tie=False), sentences(), step)


class Encoder(nn.Module):
    def __init__(self, vocab: int = 50, dim: int = 32, context: int = 14, classes: int = 2) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab, dim, padding_idx=0)
        self.pos = nn.Embedding(context, dim)
        layer = nn.TransformerEncoderLayer(dim, 4, 2 * dim, dropout=0.1, batch_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(dim, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.embed(input_ids) + self.pos(torch.arange(input_ids.shape[1], device=input_ids.device))
        x = self.blocks(x, src_key_padding_mask=attention_mask == 0)
        weights = attention_mask.unsqueeze(-1).to(x.dtype)
        return self.head((x * weights).sum(1) / weights.sum(1))


@sound("encoder-key-padding")
def encoder_key_padding() -> Parts:
    (x, _, y), (v, _, w) = tokens()
    return parts(Encoder(), ((x, (x != 0).long(), y), (v, (v != 0).long(), w)))


def collate_longest(rows: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    ids = nn.utils.rnn.pad_sequence([x for x, _ in rows], batch_first=True)
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": torch.stack([y for _, y in rows])}


@sound("encoder-padded-to-longest")
def encoder_padded_to_longest() -> Parts:
    train, valid = tokens()
    net = Encoder()
    return Parts(
        net,
        DataLoader(SentenceDataset(*train), batch_size=32, shuffle=True, collate_fn=collate_longest),
        DataLoader(SentenceDataset(*valid), batch_size=32, collate_fn=collate_longest),
        CE,
        optim.AdamW(net.parameters(), lr=1e-3),
    )


class Bert(nn.Module):
    def __init__(self, vocab: int = 60, dim: int = 32, context: int = 16) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab, dim)
        self.pos = nn.Embedding(context, dim)
        layer = nn.TransformerEncoderLayer(dim, 4, 2 * dim, dropout=0.1, activation="gelu", batch_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.transform = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.LayerNorm(dim))
        self.head = nn.Linear(dim, vocab)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids) + self.pos(torch.arange(ids.shape[1], device=ids.device))
        return self.head(self.transform(self.blocks(x)))


def masked(ids: Tensor, share: float = 0.15) -> tuple[Tensor, Tensor]:
    """Mask as BERT does: of the chosen tokens 80 % become 1, 10 % random; others are not predicted."""
    chosen = torch.rand(ids.shape) < share
    chosen[torch.arange(len(ids)), torch.randint(ids.shape[1], (len(ids),))] = True
    labels = ids.masked_fill(~chosen, -100)
    dice = torch.rand(ids.shape)
    inputs = ids.masked_fill(chosen & (dice < 0.8), 1)
    return torch.where(chosen & (dice > 0.9), torch.randint(2, 60, ids.shape), inputs), labels


@sound("bert-mlm-fixed-masks")
def bert_mlm_fixed_masks() -> Parts:
    (x,), (v,) = sentences()
    return parts(Bert(), (masked(x), masked(v)), token_loss)


@sound("bert-mlm-dynamic-masks")
def bert_mlm_dynamic_masks() -> Parts:
    def step(module: nn.Module, ids: Any) -> Tensor:
        inputs, labels = masked(ids)
        return F.cross_entropy(module(inputs).transpose(1, 2), labels, ignore_index=-100)

    return unlabelled(Bert(), sentences(), step)


# Plain networks


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


@sound("mlp-batchnorm-drop-last")
def mlp_batchnorm_drop_last() -> Parts:
    train, valid = blobs(n=505)  # 385 rows: one is left over
    net = BatchNormMlp()
    return Parts(
        net,
        DataLoader(TensorDataset(*train), batch_size=32, shuffle=True, drop_last=True),
        DataLoader(TensorDataset(*valid), batch_size=64),
        CE,
        adam(net),
    )


class LinearRegression(nn.Module):
    def __init__(self, d: int = 8) -> None:
        super().__init__()
        self.linear = nn.Linear(d, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


@sound("linear-regression")
def linear_regression() -> Parts:
    x = torch.randn(420, 8)
    y = x @ torch.randn(8, 1) + 0.2 * torch.randn(420, 1)
    net = LinearRegression()
    return parts(net, split(x, y), MSE, optim.SGD(net.parameters(), lr=0.05))


class LogisticRegression(nn.Module):
    def __init__(self, d: int = 10) -> None:
        super().__init__()
        self.linear = nn.Linear(d, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).squeeze(1)


@sound("logistic-regression")
def logistic_regression() -> Parts:
    net = LogisticRegression()
    optimizer = optim.SGD(net.parameters(), lr=0.1, weight_decay=1e-4)
    return parts(net, binary(), nn.BCEWithLogitsLoss(), optimizer)


class SoftmaxRegression(nn.Module):
    def __init__(self, d: int = 12, classes: int = 4) -> None:
        super().__init__()
        self.linear = nn.Linear(d, classes)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


@sound("softmax-regression-zero-init")
def softmax_regression_zero_init() -> Parts:
    net = SoftmaxRegression()
    return parts(net, blobs(), CE, optim.SGD(net.parameters(), lr=0.1))


class MatrixFactorisation(nn.Module):
    def __init__(self, users: int = 40, items: int = 30, rank: int = 4) -> None:
        super().__init__()
        self.user = nn.Embedding(users, rank)
        self.item = nn.Embedding(items, rank)
        self.user_bias = nn.Embedding(users, 1)
        self.item_bias = nn.Embedding(items, 1)
        self.mean = nn.Parameter(torch.zeros(()))
        for table in (self.user, self.item, self.user_bias, self.item_bias):
            nn.init.normal_(table.weight, std=0.1)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        bias = self.user_bias(user) + self.item_bias(item)
        return (self.user(user) * self.item(item)).sum(-1) + bias.squeeze(-1) + self.mean


@sound("matrix-factorisation")
def matrix_factorisation() -> Parts:
    cells = torch.randperm(40 * 30)[:700]
    user, item = cells // 30, cells % 30
    y = (torch.randn(40, 2)[user] * torch.randn(30, 2)[item]).sum(1) + torch.randn(30)[item] + 0.2 * torch.randn(700)
    net = MatrixFactorisation()
    return parts(net, split(user, item, y), MSE, adam(net, 1e-2))


# Reconstruction and generation


class Autoencoder(nn.Module):
    def __init__(self, d: int = 12, code: int = 4) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(d, 32), nn.ReLU(), nn.Linear(32, code))
        self.decoder = nn.Sequential(nn.Linear(code, 32), nn.ReLU(), nn.Linear(32, d))

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))


@sound("autoencoder")
def autoencoder() -> Parts:
    (x, _), (v, _) = blobs()
    return parts(Autoencoder(), ((x, x), (v, v)), MSE)


class ConvAutoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 12, 3, 2, 1), nn.ReLU(), nn.Conv2d(12, 24, 3, 2, 1), nn.ReLU())
        self.up = nn.Sequential(nn.ConvTranspose2d(24, 12, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(12, 3, 4, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.down(x))


@sound("denoising-autoencoder")
def denoising_autoencoder() -> Parts:
    (x, _), (v, _) = images()
    noisy, also = x + 0.3 * torch.randn_like(x), v + 0.3 * torch.randn_like(v)
    return parts(ConvAutoencoder(), ((noisy, x), (also, v)), MSE)


@sound("denoising-autoencoder-noise-in-step")
def denoising_autoencoder_noise_in_step() -> Parts:
    def step(module: nn.Module, batch: Any) -> Tensor:
        clean = batch[0]
        return F.mse_loss(module(clean + 0.3 * torch.randn_like(clean)), clean)

    return stepped(Autoencoder(), blobs(), step)


class Vae(nn.Module):
    def __init__(self, d: int = 12, latent: int = 3) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(d, 32), nn.ReLU())
        self.mu = nn.Linear(32, latent)
        self.logvar = nn.Linear(32, latent)
        self.decoder = nn.Sequential(nn.Linear(latent, 32), nn.ReLU(), nn.Linear(32, d))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.encoder(x)
        mu, logvar = self.mu(h), self.logvar(h)
        z = mu + torch.randn_like(mu) * torch.exp(0.5 * logvar)
        return self.decoder(z), mu, logvar


def vae_loss(recon: Tensor, x: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    kl = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
    return F.mse_loss(recon, x, reduction="sum") + kl


@sound("vae-sum-elbo")
def vae_sum_elbo() -> Parts:
    def step(module: nn.Module, batch: Any) -> Tensor:
        recon, mu, logvar = module(batch[0])
        return vae_loss(recon, batch[0], mu, logvar)

    return stepped(Vae(), blobs(), step)


class Generator(nn.Module):
    def __init__(self, latent: int = 8, d: int = 4) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(latent, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, d))

    def forward(self, z: Tensor) -> Tensor:
        return self.net(z)


class Discriminator(nn.Module):
    def __init__(self, d: int = 4) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(d, 32), nn.LeakyReLU(0.2), nn.Linear(32, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Gan(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.generator = Generator()
        self.discriminator = Discriminator()

    def forward(self, z: Tensor) -> Tensor:
        return self.generator(z)


def points() -> tuple[Tensor, ...]:
    return (blobs(d=4, k=3, spread=0.4)[0][0],)


@sound("gan-loop")
def gan_loop() -> Parts:
    train = points()
    gan = Gan()
    opt_g = optim.Adam(gan.generator.parameters(), lr=1e-3, betas=(0.0, 0.9))
    opt_d = optim.Adam(gan.discriminator.parameters(), lr=1e-3, betas=(0.0, 0.9))
    bce = nn.BCEWithLogitsLoss()

    def loop() -> None:
        ones, zeros = torch.ones(32, 1), torch.zeros(32, 1)
        for _ in range(4):
            gan.train()
            for (real,) in batches(*train):
                fake = gan(torch.randn(32, 8))
                opt_d.zero_grad()
                loss_d = bce(gan.discriminator(real), ones) + bce(gan.discriminator(fake.detach()), zeros)
                loss_d.backward()
                opt_d.step()
                opt_g.zero_grad()
                loss_g = bce(gan.discriminator(fake), ones)
                loss_g.backward()
                opt_g.step()
            gan.eval()
            with torch.no_grad():
                gan(torch.randn(64, 8)).mean(0)

    return Parts(gan, train, optimizer=[opt_g, opt_d], loop=loop)


@sound("gan-ascent-loop")
def gan_ascent_loop() -> Parts:
    """Two modules; the discriminator climbs, the generator descends, on one objective."""
    train = points()
    generator, discriminator = Generator(), Discriminator()
    opt_g = optim.Adam(generator.parameters(), lr=5e-4, betas=(0.0, 0.9))
    opt_d = optim.Adam(discriminator.parameters(), lr=5e-4, betas=(0.0, 0.9), maximize=True)

    def loop() -> None:
        for _ in range(4):
            for (real,) in batches(*train):
                with torch.no_grad():
                    fake = generator(torch.randn(32, 8))
                value = F.logsigmoid(discriminator(real)).mean() + F.logsigmoid(-discriminator(fake)).mean()
                opt_d.zero_grad()
                value.backward()
                opt_d.step()

                opt_g.zero_grad()
                loss = -F.logsigmoid(discriminator(generator(torch.randn(32, 8)))).mean()
                loss.backward()
                opt_g.step()

    return Parts(generator, None, optimizer=[opt_g, opt_d], loop=loop)


@sound("wgan-gp-loop")
def wgan_gp_loop() -> Parts:
    train = points()
    generator, critic = Generator(), Discriminator()
    opt_g = optim.Adam(generator.parameters(), lr=5e-4, betas=(0.0, 0.9))
    opt_c = optim.Adam(critic.parameters(), lr=5e-4, betas=(0.0, 0.9))

    def penalty(real: Tensor, fake: Tensor) -> Tensor:
        mixed = torch.lerp(real, fake, torch.rand(len(real), 1)).requires_grad_()
        (grad,) = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)
        return 10 * (grad.norm(2, dim=1) - 1).pow(2).mean()

    def loop() -> None:
        done = 0
        for _ in range(4):
            for (real,) in batches(*train):
                fake = generator(torch.randn(32, 8)).detach()
                opt_c.zero_grad()
                (critic(fake).mean() - critic(real).mean() + penalty(real, fake)).backward()
                opt_c.step()
                done += 1
                if done % 5 == 0:
                    opt_g.zero_grad()
                    (-critic(generator(torch.randn(32, 8))).mean()).backward()
                    opt_g.step()

    return Parts(critic, None, optimizer=[opt_c, opt_g], loop=loop)


# Rows that meet on purpose


class SiameseNet(nn.Module):
    def __init__(self, d: int = 12) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(d, 32), nn.ReLU(), nn.Linear(32, 8))

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return F.pairwise_distance(self.encoder(left), self.encoder(right))


def contrastive_loss(distance: Tensor, same: Tensor) -> Tensor:
    return (same * distance.pow(2) + (1 - same) * F.relu(1.0 - distance).pow(2)).mean()


def pair_data() -> Split:
    """Half of the pairs are of one class."""
    y = torch.randint(4, (520,))
    same = torch.rand(520) < 0.5
    other = torch.where(same, y, (y + torch.randint(1, 4, (520,))) % 4)
    centres = 1.2 * torch.randn(4, 12)
    noise = torch.randn(2, 520, 12)
    return split((centres[y] + noise[0]) / 1.5, (centres[other] + noise[1]) / 1.5, same.float())


@sound("siamese-contrastive")
def siamese_contrastive() -> Parts:
    return parts(SiameseNet(), pair_data(), contrastive_loss)


class EmbeddingNet(nn.Module):
    def __init__(self, d: int = 12, out: int = 8) -> None:
        super().__init__()
        self.fc1 = nn.Linear(d, 32)
        self.fc2 = nn.Linear(32, out)

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.fc2(F.relu(self.fc1(x))), dim=1)


@sound("triplet")
def triplet() -> Parts:
    def step(module: nn.Module, batch: Any) -> Tensor:
        anchor, positive, negative = batch
        return F.triplet_margin_loss(module(anchor), module(positive), module(negative), margin=0.5)

    y = torch.randint(4, (520,))
    centres, noise = torch.randn(4, 12), torch.randn(3, 520, 12)
    negative = (y + torch.randint(1, 4, (520,))) % 4
    rows = [(centres[k] + e) / 1.4 for k, e in zip((y, y, negative), noise, strict=True)]
    return stepped(EmbeddingNet(), split(*rows), step)


class SimClr(nn.Module):
    def __init__(self, d: int = 12) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(d, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Linear(48, 32))
        self.projector = nn.Sequential(nn.ReLU(), nn.Linear(32, 16))

    def forward(self, x: Tensor) -> Tensor:
        return self.projector(self.encoder(x))


def nt_xent(z1: Tensor, z2: Tensor, temperature: float = 0.5) -> Tensor:
    n = z1.shape[0]
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    sim = z @ z.T / temperature
    sim = sim.masked_fill(torch.eye(2 * n, dtype=torch.bool, device=z.device), float("-inf"))
    return F.cross_entropy(sim, torch.cat([torch.arange(n, 2 * n), torch.arange(n)]))


@sound("simclr")
def simclr() -> Parts:
    def augmented(x: Tensor) -> Tensor:
        return F.dropout(x + 0.2 * torch.randn_like(x), 0.1)

    def step(module: nn.Module, batch: Any) -> Tensor:
        x = batch[0]
        return nt_xent(module(augmented(x)), module(augmented(x)))

    return stepped(SimClr(), blobs(), step)


class Clip(nn.Module):
    def __init__(self, d_image: int = 16, d_text: int = 10, dim: int = 12) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.Linear(d_image, 32), nn.GELU(), nn.Linear(32, dim))
        self.text = nn.Sequential(nn.Linear(d_text, 32), nn.GELU(), nn.Linear(32, dim))
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        image = F.normalize(self.image(image), dim=-1)
        text = F.normalize(self.text(text), dim=-1)
        return self.logit_scale.exp() * image @ text.T


@sound("clip-temperature")
def clip_temperature() -> Parts:
    def step(module: nn.Module, batch: Any) -> Tensor:
        logits = module(*batch)
        labels = torch.arange(len(logits))
        return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2

    shared = torch.randn(520, 4)
    image = torch.tanh(shared @ torch.randn(4, 16)) + 0.1 * torch.randn(520, 16)
    text = torch.tanh(shared @ torch.randn(4, 10)) + 0.1 * torch.randn(520, 10)
    return stepped(Clip(), split(image, text), step)


class DeepSets(nn.Module):
    def __init__(self, d: int = 3) -> None:
        super().__init__()
        self.phi = nn.Sequential(nn.Linear(d, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
        self.rho = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, points: Tensor) -> Tensor:
        return self.rho(self.phi(points).mean(dim=1))


@sound("deep-sets")
def deep_sets() -> Parts:
    x = torch.randn(420, 9, 3) * (0.5 + torch.rand(420, 1, 1)) + 0.5 * torch.randn(420, 1, 3)
    y = x.norm(dim=2).mean(1, keepdim=True) - 1.8
    return parts(DeepSets(), split(x, y), MSE)


class RowAttention(nn.Module):
    """Attends over the rows of the batch, as retrieval models and SAINT do."""

    def __init__(self, d: int = 12, dim: int = 32, classes: int = 4) -> None:
        super().__init__()
        self.embed = nn.Linear(d, dim)
        self.attn = nn.MultiheadAttention(dim, 4, batch_first=True)
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, classes))

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        rows = h.unsqueeze(0)
        mixed = self.attn(rows, rows, rows, need_weights=False)[0].squeeze(0)
        return self.head(self.norm(h + mixed))


@sound("attention-over-batch")
def attention_over_batch() -> Parts:
    return parts(RowAttention(), blobs())


class MixtureOfExperts(nn.Module):
    """Top-1 routing; an expert takes no more rows than its capacity, the others pass by the shortcut."""

    def __init__(self, d: int = 12, dim: int = 32, experts: int = 4, classes: int = 4) -> None:
        super().__init__()
        self.embed = nn.Linear(d, dim)
        self.router = nn.Linear(dim, experts)
        self.experts = nn.ModuleList(
            [nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim)) for _ in range(experts)]
        )
        self.head = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = F.relu(self.embed(x))
        probs = F.softmax(self.router(h), dim=-1)
        gate, chosen = probs.max(dim=-1)
        capacity = math.ceil(1.25 * len(x) / len(self.experts))
        out = h.clone()
        for i, expert in enumerate(self.experts):
            rows = (chosen == i).nonzero().squeeze(1)[:capacity]
            if len(rows):
                out[rows] = h[rows] + gate[rows].unsqueeze(1) * expert(h[rows])
        load = F.one_hot(chosen, len(self.experts)).float().mean(0)
        return self.head(out), len(self.experts) * (load * probs.mean(0)).sum()


@sound("moe-capacity")
def moe_capacity() -> Parts:
    def criterion(outputs: tuple[Tensor, Tensor], y: Tensor) -> Tensor:
        logits, balance = outputs
        return F.cross_entropy(logits, y) + 0.01 * balance

    return parts(MixtureOfExperts(), blobs(), criterion)


# Several outputs


class MultiTask(nn.Module):
    def __init__(self, d: int = 12, classes: int = 4) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(d, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
        self.label_head = nn.Linear(32, classes)
        self.value_head = nn.Linear(32, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.trunk(x)
        return self.label_head(h), self.value_head(h).squeeze(1)


@sound("multi-output")
def multi_output() -> Parts:
    def criterion(outputs: tuple[Tensor, Tensor], targets: Tensor) -> Tensor:
        logits, value = outputs
        return F.cross_entropy(logits, targets[:, 0].long()) + 0.5 * F.mse_loss(value, targets[:, 1])

    (x, y), (v, w) = blobs()
    weights = torch.randn(12) / 12**0.5
    both = [torch.stack([b.float(), torch.tanh(a @ weights)], 1) for a, b in ((x, y), (v, w))]
    return parts(MultiTask(), ((x, both[0]), (v, both[1])), criterion)


@sound("multi-task-idle-head")
def multi_task_idle_head() -> Parts:
    """Few rows have the second label, so that many a batch has none."""

    def step(module: nn.Module, batch: Any) -> Tensor:
        x, y, value = batch
        logits, predicted = module(x)
        loss = F.cross_entropy(logits, y)
        known = ~torch.isnan(value)
        if known.any():
            loss = loss + F.mse_loss(predicted[known], value[known])
        return loss

    (x, y), (v, w) = blobs()
    weights = torch.randn(12) / 12**0.5
    values = [torch.tanh(a @ weights).masked_fill(torch.rand(len(a)) > 0.02, float("nan")) for a in (x, v)]
    return stepped(MultiTask(), ((x, y, values[0]), (v, w, values[1])), step)


class AuxNet(nn.Module):
    """With a second classifier on the way, in training only."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(nn.Conv2d(3, 12, 3, 2, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU())
        self.stage2 = nn.Sequential(nn.Conv2d(12, 24, 3, 2, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU())
        self.aux = nn.Linear(12, classes)
        self.fc = nn.Linear(24, classes)

    def forward(self, x: Tensor) -> Any:
        h = self.stage1(x)
        out = self.fc(self.stage2(h).mean((2, 3)))
        if self.training:
            return out, self.aux(h.mean((2, 3)))
        return out


@sound("aux-head")
def aux_head() -> Parts:
    def criterion(outputs: Any, y: Tensor) -> Tensor:
        if isinstance(outputs, tuple):
            return F.cross_entropy(outputs[0], y) + 0.4 * F.cross_entropy(outputs[1], y)
        return F.cross_entropy(outputs, y)

    return parts(AuxNet(), images(), criterion)


# Transfer


class FineTuned(nn.Module):
    """A pretrained trunk, frozen and kept in evaluation mode, under a new head."""

    def __init__(self, trunk: nn.Module, classes: int = 3) -> None:
        super().__init__()
        self.trunk = trunk.requires_grad_(False).eval()
        self.head = nn.Linear(32, classes)

    def train(self, mode: bool = True) -> "FineTuned":
        super().train(mode)
        self.trunk.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.trunk(x))


@sound("fine-tune-frozen-trunk")
def fine_tune_frozen_trunk() -> Parts:
    source = BatchNormMlp(classes=6)
    pretrain(source, blobs(k=6))
    net = FineTuned(source.body)
    return parts(net, blobs(k=3), CE, optim.Adam(net.head.parameters(), lr=1e-2))


class LinearProbe(nn.Module):
    def __init__(self, backbone: nn.Module, classes: int = 3) -> None:
        super().__init__()
        self.backbone = backbone.requires_grad_(False)
        self.probe = nn.Linear(32, classes)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            features = self.backbone(x)
        return self.probe(features)


@sound("linear-probe")
def linear_probe() -> Parts:
    source = Mlp(out=6)
    pretrain(source, blobs(k=6))
    net = LinearProbe(nn.Sequential(source.fc1, nn.ReLU(), source.fc2, nn.ReLU()))
    return parts(net, blobs(k=3), CE, optim.Adam(net.probe.parameters(), lr=1e-2))


class LoraLinear(nn.Module):
    def __init__(self, base: nn.Linear, rank: int = 4, alpha: float = 8.0) -> None:
        super().__init__()
        self.base = base
        self.base.requires_grad_(False)
        self.lora_a = nn.Parameter(torch.randn(rank, base.in_features) / base.in_features**0.5)
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, rank))
        self.scale = alpha / rank

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.scale * (x @ self.lora_a.T @ self.lora_b.T)


class LoraMlp(nn.Module):
    def __init__(self, base: Mlp) -> None:
        super().__init__()
        self.fc1 = LoraLinear(base.fc1)
        self.fc2 = LoraLinear(base.fc2)
        self.head = LoraLinear(base.head)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.fc2(F.relu(self.fc1(x)))))


@sound("lora-zero-b")
def lora_zero_b() -> Parts:
    base = Mlp()
    pretrain(base, blobs())
    net = LoraMlp(base)
    return parts(net, blobs(), CE, adam(net, 5e-3))


@sound("pretrained-large-logits")
def pretrained_large_logits() -> Parts:
    """All of a pretrained network, its sure head too, on rows of another domain."""
    net = Mlp(hidden=48)
    pretrain(net, blobs(spread=0.5), steps=200)
    return parts(net, blobs(), CE, adam(net, 5e-4))


class CosineClassifier(nn.Module):
    def __init__(self, d: int = 12, dim: int = 32, classes: int = 4, temperature: float = 0.07) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(d, 48), nn.ReLU(), nn.Linear(48, dim))
        self.prototypes = nn.Parameter(torch.randn(classes, dim))
        self.temperature = temperature

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.body(x), dim=1) @ F.normalize(self.prototypes, dim=1).T / self.temperature


@sound("cosine-temperature")
def cosine_temperature() -> Parts:
    return parts(CosineClassifier(), blobs())


class Distilled(nn.Module):
    """Holds its teacher in a list, so that it is neither trained nor saved."""

    def __init__(self, student: Mlp, teacher: Mlp) -> None:
        super().__init__()
        self.student = student
        self.teacher = [teacher.eval()]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            soft = self.teacher[0](x)
        return self.student(x), soft


@sound("distillation-teacher-in-list")
def distillation_teacher_in_list() -> Parts:
    def step(module: nn.Module, batch: Any) -> Tensor:
        x, y = batch
        logits, soft = module(x)
        kd = F.kl_div(F.log_softmax(logits / 4, dim=1), F.softmax(soft / 4, dim=1), reduction="batchmean")
        return 0.3 * F.cross_entropy(logits, y) + 0.7 * 16 * kd

    data = blobs()
    teacher = Mlp(hidden=64)
    pretrain(teacher, data)
    net = Distilled(Mlp(hidden=16), teacher)
    return stepped(net, data, step, optim.Adam(net.student.parameters(), lr=3e-3))


@sound("ema-teacher-loop")
def ema_teacher_loop() -> Parts:
    """Mean teacher: few labels, consistency with a moving average of the weights."""
    train, valid = blobs(n=620)
    student = Mlp(dropout=0.1)
    teacher = copy.deepcopy(student).requires_grad_(False)
    optimizer = adam(student, 2e-3)

    @torch.no_grad()
    def update(decay: float) -> None:
        for old, new in zip(teacher.parameters(), student.parameters(), strict=True):
            old.lerp_(new, 1 - decay)

    def loop() -> None:
        seen = 0
        for _ in range(4):
            student.train()
            for x, y in batches(*train):
                with torch.no_grad():
                    target = teacher(x + 0.1 * torch.randn_like(x)).softmax(1)
                logits = student(x + 0.1 * torch.randn_like(x))
                loss = F.cross_entropy(logits[:16], y[:16]) + F.mse_loss(logits.softmax(1), target)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                seen += 1
                update(min(0.99, 1 - 1 / (seen + 1)))
            teacher.eval()
            with torch.no_grad():
                (teacher(valid[0]).argmax(1) == valid[1]).float().mean()
            teacher.train()

    return Parts(student, train, valid, CE, optimizer, loop=loop)


class Byol(nn.Module):
    def __init__(self, d: int = 12, dim: int = 16) -> None:
        super().__init__()
        self.online = nn.Sequential(nn.Linear(d, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, dim))
        self.predictor = nn.Sequential(nn.Linear(dim, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, dim))
        self.target = copy.deepcopy(self.online).requires_grad_(False)

    def forward(self, one: Tensor, two: Tensor) -> Tensor:
        p1, p2 = self.predictor(self.online(one)), self.predictor(self.online(two))
        with torch.no_grad():
            z1, z2 = self.target(one), self.target(two)
        return 2 - F.cosine_similarity(p1, z2).mean() - F.cosine_similarity(p2, z1).mean()

    @torch.no_grad()
    def update_target(self, tau: float = 0.98) -> None:
        for old, new in zip(self.target.parameters(), self.online.parameters(), strict=True):
            old.mul_(tau).add_(new, alpha=1 - tau)


@sound("byol-target-loop")
def byol_target_loop() -> Parts:
    train, _ = blobs(d=12)
    net = Byol()
    optimizer = optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=1e-3)

    def loop() -> None:
        for _ in range(4):
            for x, _ in batches(*train):
                loss = net(x + 0.2 * torch.randn_like(x), x + 0.2 * torch.randn_like(x))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                net.update_target()

    return Parts(net, None, optimizer=optimizer, loop=loop)


# Losses that look wrong


class ScalarNet(nn.Module):
    def __init__(self, d: int = 8, hidden: int = 32) -> None:
        super().__init__()
        self.fc1 = nn.Linear(d, hidden)
        self.fc2 = nn.Linear(hidden, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.relu(self.fc1(x))).squeeze(-1)


def counts(base: float) -> Split:
    x = torch.randn(520, 8)
    return split(x, torch.poisson(torch.exp(base + 0.6 * torch.tanh(x @ torch.randn(8) / 2))))


@sound("poisson-regression")
def poisson_regression() -> Parts:
    return parts(ScalarNet(), counts(0.5), nn.PoissonNLLLoss(log_input=True))


class QuantileNet(nn.Module):
    def __init__(self, d: int = 8, quantiles: int = 3) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(d, 32), nn.ReLU(), nn.Linear(32, quantiles))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def pinball(predicted: Tensor, y: Tensor) -> Tensor:
    levels = torch.tensor([0.1, 0.5, 0.9], device=y.device)
    gap = y - predicted  # (N, 1) against (N, 3): one target for every level
    return torch.maximum(levels * gap, (levels - 1) * gap).mean()


@sound("quantile-regression")
def quantile_regression() -> Parts:
    return parts(QuantileNet(), regression(noise=0.4), pinball)


@sound("quantile-regression-on-counts")
def quantile_regression_on_counts() -> Parts:
    (x, y), (v, w) = counts(1.0)
    return parts(QuantileNet(), ((x, y.unsqueeze(1)), (v, w.unsqueeze(1))), pinball)


class Coral(nn.Module):
    """Ordinal regression: one score, a threshold for each step between grades."""

    def __init__(self, d: int = 8, grades: int = 5) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(d, 32), nn.ReLU(), nn.Linear(32, 1, bias=False))
        self.thresholds = nn.Parameter(torch.linspace(1.5, -1.5, grades - 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.thresholds


def coral_loss(logits: Tensor, grade: Tensor) -> Tensor:
    levels = (grade.unsqueeze(1) > torch.arange(logits.shape[1])).float()
    return F.binary_cross_entropy_with_logits(logits, levels)


@sound("ordinal-coral")
def ordinal_coral() -> Parts:
    (x, y), (v, w) = regression(noise=0.3)
    edges = torch.tensor([-1.2, -0.4, 0.4, 1.2])
    return parts(Coral(), ((x, torch.bucketize(y[:, 0], edges)), (v, torch.bucketize(w[:, 0], edges))), coral_loss)


class SigmoidNet(nn.Module):
    def __init__(self, d: int = 10) -> None:
        super().__init__()
        self.fc1 = nn.Linear(d, 32)
        self.fc2 = nn.Linear(32, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.fc2(F.relu(self.fc1(x)))).squeeze(-1)


@sound("sigmoid-bce")
def sigmoid_bce() -> Parts:
    return parts(SigmoidNet(), binary(), nn.BCELoss())


class LogSoftmaxCnn(nn.Module):
    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 12, 3, padding=1)
        self.conv2 = nn.Conv2d(12, 24, 3, padding=1)
        self.drop = nn.Dropout(0.25)
        self.fc = nn.Linear(24 * 4 * 4, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return F.log_softmax(self.fc(self.drop(x.flatten(1))), dim=1)


@sound("log-softmax-nll")
def log_softmax_nll() -> Parts:
    return parts(LogSoftmaxCnn(), images(), F.nll_loss)


class SoftmaxMlp(nn.Module):
    def __init__(self, d: int = 12, classes: int = 4) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(d, 32), nn.ReLU(), nn.Linear(32, classes), nn.Softmax(dim=1))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class FocalLoss(nn.Module):
    """On probabilities."""

    def __init__(self, gamma: float = 2.0, eps: float = 1e-7) -> None:
        super().__init__()
        self.gamma = gamma
        self.eps = eps

    def forward(self, probs: Tensor, targets: Tensor) -> Tensor:
        p = probs.gather(1, targets.unsqueeze(1)).squeeze(1).clamp(min=self.eps)
        return (-((1 - p) ** self.gamma) * p.log()).mean()


@sound("softmax-focal-loss")
def softmax_focal_loss() -> Parts:
    return parts(SoftmaxMlp(), blobs(), FocalLoss())


class AttentionPool(nn.Module):
    def __init__(self, d: int = 3, dim: int = 24, classes: int = 3) -> None:
        super().__init__()
        self.gru = nn.GRU(d, dim, batch_first=True, bidirectional=True)
        self.score = nn.Sequential(nn.Linear(2 * dim, dim), nn.Tanh(), nn.Linear(dim, 1))
        self.gate = nn.Linear(2 * dim, 2 * dim)
        self.head = nn.Linear(2 * dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        h, _ = self.gru(x)
        weights = torch.softmax(self.score(h), dim=1)
        pooled = (weights * h).sum(dim=1)
        return self.head(pooled * torch.sigmoid(self.gate(pooled)))


@sound("softmax-attention-gating")
def softmax_attention_gating() -> Parts:
    net = AttentionPool()
    return parts(net, waves(), CE, adam(net, 3e-3))


class SoftGate(nn.Module):
    """A dense mixture of experts: a softmax is the last but one layer."""

    def __init__(self, d: int = 12, experts: int = 3, classes: int = 4) -> None:
        super().__init__()
        self.gate = nn.Sequential(nn.Linear(d, experts), nn.Softmax(dim=-1))
        self.experts = nn.ModuleList([Mlp(d, 24, classes) for _ in range(experts)])

    def forward(self, x: Tensor) -> Tensor:
        outs = torch.stack([expert(x) for expert in self.experts], dim=1)
        return torch.einsum("ne,nec->nc", self.gate(x), outs)


@sound("softmax-expert-gate")
def softmax_expert_gate() -> Parts:
    return parts(SoftGate(), blobs())


class MixtureDensity(nn.Module):
    def __init__(self, d: int = 1, components: int = 4) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(d, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh())
        self.pi = nn.Linear(32, components)
        self.mu = nn.Linear(32, components)
        self.log_sigma = nn.Linear(32, components)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.body(x)
        return F.log_softmax(self.pi(h), dim=1), self.mu(h), self.log_sigma(h).clamp(-5, 3)


def mixture_nll(outputs: tuple[Tensor, Tensor, Tensor], y: Tensor) -> Tensor:
    log_pi, mu, log_sigma = outputs
    log_prob = -0.5 * ((y - mu) / log_sigma.exp()) ** 2 - log_sigma - 0.5 * math.log(2 * math.pi)
    return -torch.logsumexp(log_pi + log_prob, dim=1).mean()


@sound("mixture-density")
def mixture_density() -> Parts:
    y = 2 * torch.rand(520, 1) - 1
    x = y + 0.6 * torch.sin(6.28 * y) + 0.1 * torch.randn(520, 1)
    net = MixtureDensity()
    return parts(net, split(x, 2 * y), mixture_nll, adam(net, 3e-3))


# Chance on purpose


@sound("mc-dropout-loop")
def mc_dropout_loop() -> Parts:
    train, valid = blobs()
    net = Mlp(dropout=0.2)
    optimizer = adam(net, 2e-3)

    def predict(x: Tensor, passes: int = 10) -> tuple[Tensor, Tensor]:
        net.eval()
        for module in net.modules():
            if isinstance(module, nn.Dropout):
                module.train()
        with torch.no_grad():
            probs = torch.stack([net(x).softmax(1) for _ in range(passes)])
        net.train()
        return probs.mean(0), probs.std(0)

    def loop() -> None:
        for _ in range(4):
            net.train()
            for x, y in batches(*train):
                optimizer.zero_grad()
                F.cross_entropy(net(x), y).backward()
                optimizer.step()
            mean, _ = predict(valid[0])
            (mean.argmax(1) == valid[1]).float().mean()

    return Parts(net, train, valid, CE, optimizer, loop=loop)


class McDropoutNet(nn.Module):
    """Its dropout stays on in evaluation, to sample predictions."""

    def __init__(self, d: int = 8) -> None:
        super().__init__()
        self.fc1 = nn.Linear(d, 48)
        self.fc2 = nn.Linear(48, 48)
        self.out = nn.Linear(48, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(F.relu(self.fc1(x)), 0.1, training=True)
        x = F.dropout(F.relu(self.fc2(x)), 0.1, training=True)
        return self.out(x)


@sound("mc-dropout-always-on")
def mc_dropout_always_on() -> Parts:
    return parts(McDropoutNet(), regression(), MSE)


class BayesLinear(nn.Module):
    def __init__(self, d: int, out: int) -> None:
        super().__init__()
        self.weight_mu = nn.Parameter(torch.randn(out, d) / d**0.5)
        self.weight_rho = nn.Parameter(torch.full((out, d), -4.0))
        self.bias_mu = nn.Parameter(torch.zeros(out))
        self.bias_rho = nn.Parameter(torch.full((out,), -4.0))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight_mu + F.softplus(self.weight_rho) * torch.randn_like(self.weight_mu)
        bias = self.bias_mu + F.softplus(self.bias_rho) * torch.randn_like(self.bias_mu)
        return F.linear(x, weight, bias)

    def kl(self) -> Tensor:
        total = torch.zeros(())
        for mu, rho in ((self.weight_mu, self.weight_rho), (self.bias_mu, self.bias_rho)):
            var = F.softplus(rho) ** 2
            total = total + 0.5 * (var + mu**2 - 1 - var.log()).sum()
        return total


class BayesMlp(nn.Module):
    def __init__(self, d: int = 12, classes: int = 4) -> None:
        super().__init__()
        self.fc1 = BayesLinear(d, 32)
        self.fc2 = BayesLinear(32, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.relu(self.fc1(x)))

    def kl(self) -> Tensor:
        return self.fc1.kl() + self.fc2.kl()


@sound("bayes-by-backprop")
def bayes_by_backprop() -> Parts:
    def step(module: BayesMlp, batch: Any) -> Tensor:
        x, y = batch
        return F.cross_entropy(module(x), y) + 0.1 * module.kl() / 400

    return stepped(BayesMlp(), blobs(), step)


class Denoiser(nn.Module):
    def __init__(self, d: int = 4, steps: int = 50, extra: int = 0) -> None:
        super().__init__()
        self.time = nn.Embedding(steps, 16)
        self.net = nn.Sequential(
            nn.Linear(d + extra + 16, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, d)
        )

    def forward(self, noisy: Tensor, t: Tensor) -> Tensor:
        return self.net(torch.cat([noisy, self.time(t)], dim=1))


ALPHAS = torch.cumprod(1 - torch.linspace(1e-3, 0.15, 50), dim=0)


def noised(x: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    a = ALPHAS[t].unsqueeze(1)
    return a.sqrt() * x + (1 - a).sqrt() * noise


@sound("diffusion-step")
def diffusion_step() -> Parts:
    def step(module: nn.Module, batch: Any) -> Tensor:
        x = batch[0]
        t = torch.randint(0, 50, (len(x),))
        noise = torch.randn_like(x)
        return F.mse_loss(module(noised(x, t, noise), t), noise)

    return stepped(Denoiser(), blobs(d=4, k=3, spread=0.3), step)


class Ddpm(nn.Module):
    """Draws time and noise in its forward, which gives the loss."""

    def __init__(self, d: int = 4, steps: int = 50) -> None:
        super().__init__()
        self.denoiser = Denoiser(d, steps)
        self.steps = steps
        self.alphas: Tensor
        self.register_buffer("alphas", ALPHAS.clone())

    def forward(self, x: Tensor) -> Tensor:
        t = torch.randint(0, self.steps, (x.shape[0],), device=x.device)
        noise = torch.randn_like(x)
        a = self.alphas[t].unsqueeze(1)
        return F.mse_loss(self.denoiser(a.sqrt() * x + (1 - a).sqrt() * noise, t), noise)


@sound("diffusion-loss-in-forward")
def diffusion_loss_in_forward() -> Parts:
    def step(module: nn.Module, batch: Any) -> Tensor:
        return module(batch[0])

    return stepped(Ddpm(), blobs(d=4, k=3, spread=0.3), step)


class SelfConditioned(nn.Module):
    """Takes its own estimate of the clean row as a further input."""

    def __init__(self, d: int = 4) -> None:
        super().__init__()
        self.inner = Denoiser(d, extra=d)

    def forward(self, noisy: Tensor, estimate: Tensor, t: Tensor) -> Tensor:
        return self.inner(torch.cat([noisy, estimate], dim=1), t)


@sound("self-conditioning-loop")
def self_conditioning_loop() -> Parts:
    (train, _), (valid, _) = blobs(d=4, k=3, spread=0.3)
    net = SelfConditioned()
    optimizer = adam(net, 2e-3)

    def loop() -> None:
        for _ in range(4):
            net.train()
            for (x,) in batches(train):
                t = torch.randint(0, 50, (len(x),))
                noisy = noised(x, t, torch.randn_like(x))
                estimate = torch.zeros_like(x)
                if torch.rand(()) < 0.5:
                    with torch.no_grad():
                        estimate = net(noisy, estimate, t)
                loss = F.mse_loss(net(noisy, estimate, t), x)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            net.eval()
            with torch.no_grad():
                t = torch.randint(0, 50, (len(valid),))
                noisy = noised(valid, t, torch.randn_like(valid))
                F.mse_loss(net(noisy, torch.zeros_like(valid), t), valid)
            net.train()

    return Parts(net, None, optimizer=optimizer, loop=loop)


class DropPath(nn.Module):
    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        keep = torch.rand(x.shape[0], *[1] * (x.ndim - 1), device=x.device) >= self.p
        return x * keep / (1 - self.p)


class StochasticDepthNet(nn.Module):
    def __init__(self, d: int = 12, dim: int = 32, depth: int = 4, classes: int = 4) -> None:
        super().__init__()
        self.stem = nn.Linear(d, dim)
        self.blocks = nn.ModuleList(
            [
                nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim))
                for _ in range(depth)
            ]
        )
        self.drops = nn.ModuleList([DropPath(0.3 * i / (depth - 1)) for i in range(depth)])
        self.head = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block, drop in zip(self.blocks, self.drops, strict=True):
            x = x + drop(block(x))
        return self.head(x)


@sound("stochastic-depth")
def stochastic_depth() -> Parts:
    return parts(StochasticDepthNet(), blobs())


# Loops


@sound("gradient-accumulation-loop")
def gradient_accumulation_loop() -> Parts:
    train, valid = blobs()
    net = Mlp()
    optimizer = adam(net, 3e-3)
    accumulate = 4

    def loop() -> None:
        for _ in range(6):
            net.train()
            optimizer.zero_grad()
            for i, (x, y) in enumerate(batches(*train, size=16)):
                loss = F.cross_entropy(net(x), y) / accumulate
                loss.backward()
                if (i + 1) % accumulate == 0:
                    nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                    optimizer.step()
                    optimizer.zero_grad()
            accuracy(net, valid)

    return Parts(net, train, valid, CE, optimizer, loop=loop)


@sound("token-weighted-accumulation-loop")
def token_weighted_accumulation_loop() -> Parts:
    """Sums over tokens, divided by how many tokens the whole step has."""
    (train,), (valid,) = sentences()
    net = Decoder(tie=False)
    optimizer = optim.AdamW(net.parameters(), lr=1e-3)

    def loop() -> None:
        for _ in range(2):
            net.train()
            for (rows,) in batches(train, size=64):
                micro = [rows[i : i + 16, : 16 - i // 16] for i in range(0, 64, 16)]
                total = sum(part[:, 1:].numel() for part in micro)
                optimizer.zero_grad()
                for part in micro:
                    logits = net(part[:, :-1])
                    loss = F.cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten(), reduction="sum") / total
                    loss.backward()
                optimizer.step()
            net.eval()
            with torch.no_grad():
                token_loss(net(valid[:, :-1]), valid[:, 1:])

    return Parts(net, None, optimizer=optimizer, loop=loop)


@sound("lbfgs-loop")
def lbfgs_loop() -> Parts:
    (x, y), (v, w) = regression()
    net = Mlp(8, 16, 1)
    optimizer = optim.LBFGS(net.parameters(), lr=1.0, max_iter=8, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.mse_loss(net(x), y) + 1e-4 * sum(p.pow(2).sum() for p in net.parameters())
        loss.backward()
        return loss

    def loop() -> None:
        for _ in range(25):
            net.train()
            optimizer.step(closure)
            net.eval()
            with torch.no_grad():
                F.mse_loss(net(v), w)

    return Parts(net, (x, y), (v, w), MSE, optimizer, loop=loop)


@sound("grad-scaler-disabled-loop")
def grad_scaler_disabled_loop() -> Parts:
    train, valid = images()
    net = Cnn()
    optimizer = optim.AdamW(net.parameters(), lr=2e-3)
    scaler = torch.amp.GradScaler("cpu", enabled=False)

    def loop() -> None:
        for _ in range(4):
            net.train()
            for x, y in batches(*train):
                optimizer.zero_grad(set_to_none=True)
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    loss = F.cross_entropy(net(x), y)
                scaler.scale(loss).backward()
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                scaler.step(optimizer)
                scaler.update()
            accuracy(net, valid)

    return Parts(net, train, valid, CE, optimizer, loop=loop)


@sound("grad-scaler-skipped-steps-loop")
def grad_scaler_skipped_steps_loop() -> Parts:
    """The first scales are too large, and those steps are left out."""
    train, valid = blobs()
    net = Mlp()
    optimizer = adam(net, 2e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24)

    def loop() -> None:
        for _ in range(5):
            net.train()
            for x, y in batches(*train):
                optimizer.zero_grad()
                with torch.autocast("cpu", dtype=torch.float16):
                    loss = F.cross_entropy(net(x), y)
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
            accuracy(net, valid)

    return Parts(net, train, valid, CE, optimizer, loop=loop)


@sound("one-cycle-loop")
def one_cycle_loop() -> Parts:
    train, valid = blobs()
    net = BatchNormMlp()
    optimizer = optim.SGD(net.parameters(), lr=0.01, momentum=0.9, nesterov=True)
    epochs, per_epoch = 5, len(train[0]) // 32
    scheduler = optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=epochs * per_epoch)

    def loop() -> None:
        for _ in range(epochs):
            net.train()
            for x, y in batches(*train):
                optimizer.zero_grad()
                F.cross_entropy(net(x), y).backward()
                optimizer.step()
                scheduler.step()
            accuracy(net, valid)

    return Parts(net, train, valid, CE, optimizer, loop=loop)


@sound("cosine-per-step-loop")
def cosine_per_step_loop() -> Parts:
    train, valid = blobs()
    net = Mlp(dropout=0.1)
    optimizer = optim.AdamW(net.parameters(), lr=3e-3)
    epochs = 5
    loader = DataLoader(TensorDataset(*train), batch_size=32, shuffle=True)
    scheduler = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs * len(loader))

    def loop() -> None:
        for _ in range(epochs):
            net.train()
            for x, y in loader:
                loss = F.cross_entropy(net(x), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                scheduler.step()
            accuracy(net, valid)

    return Parts(net, train, valid, CE, optimizer, loop=loop)


@sound("best-weights-loop")
def best_weights_loop() -> Parts:
    train, valid = blobs(spread=2.0)
    net = Mlp(dropout=0.2)
    optimizer = adam(net, 3e-3)

    def loop() -> None:
        best, best_state = -1.0, copy.deepcopy(net.state_dict())
        for _ in range(6):
            net.train()
            for x, y in batches(*train):
                optimizer.zero_grad()
                F.cross_entropy(net(x), y).backward()
                optimizer.step()
            now = accuracy(net, valid)
            if now > best:
                best, best_state = now, copy.deepcopy(net.state_dict())
        net.load_state_dict(best_state)

    return Parts(net, train, valid, CE, optimizer, loop=loop)


@sound("averaged-weights-loop")
def averaged_weights_loop() -> Parts:
    """`torch`'s own moving average, which is what is evaluated."""
    train, valid = blobs()
    net = Mlp()
    optimizer = adam(net, 3e-3)
    average = optim.swa_utils.AveragedModel(net, multi_avg_fn=optim.swa_utils.get_ema_multi_avg_fn(0.95))

    def loop() -> None:
        for _ in range(5):
            net.train()
            for x, y in batches(*train):
                optimizer.zero_grad()
                F.cross_entropy(net(x), y).backward()
                optimizer.step()
                average.update_parameters(net)
            average.eval()
            with torch.no_grad():
                (average(valid[0]).argmax(1) == valid[1]).float().mean()

    return Parts(net, train, valid, CE, optimizer, loop=loop)


# Steps that have no derivative


class BinarySte(nn.Module):
    def __init__(self, d: int = 12, hidden: int = 48, classes: int = 4) -> None:
        super().__init__()
        self.fc1 = nn.Linear(d, hidden)
        self.fc2 = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.fc1(x))
        h = h + (torch.where(h >= 0, 1.0, -1.0) - h).detach()
        return self.fc2(h)


@sound("straight-through-binary")
def straight_through_binary() -> Parts:
    return parts(BinarySte(), blobs())


class VqVae(nn.Module):
    """With codes of length one, found by their cosine."""

    def __init__(self, d: int = 12, dim: int = 4, codes: int = 32) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(d, 32), nn.ReLU(), nn.Linear(32, dim))
        self.codebook = nn.Embedding(codes, dim)
        self.decoder = nn.Sequential(nn.Linear(dim, 32), nn.ReLU(), nn.Linear(32, d))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = F.normalize(self.encoder(x), dim=1)
        nearest = (z @ F.normalize(self.codebook.weight, dim=1).T).argmax(dim=1)
        q = F.normalize(self.codebook(nearest), dim=1)
        vq_loss = F.mse_loss(q, z.detach()) + 0.25 * F.mse_loss(z, q.detach())
        return self.decoder(z + (q - z).detach()), vq_loss


@sound("vq-vae")
def vq_vae() -> Parts:
    def step(module: nn.Module, batch: Any) -> Tensor:
        recon, vq_loss = module(batch[0])
        return F.mse_loss(recon, batch[0]) + vq_loss

    net = VqVae()
    return stepped(net, blobs(spread=0.4), step, adam(net, 2e-3))


class GumbelNet(nn.Module):
    """Chooses one of several branches by a hard sample; the likeliest in evaluation."""

    def __init__(self, d: int = 12, codes: int = 8, classes: int = 4) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(d, 32), nn.ReLU(), nn.Linear(32, codes))
        self.values = nn.Linear(codes, 16)
        self.head = nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.encoder(x)
        if self.training:
            code = F.gumbel_softmax(logits, tau=1.0, hard=True)
        else:
            code = F.one_hot(logits.argmax(1), logits.shape[1]).to(logits.dtype)
        return self.head(F.relu(self.values(code)))


@sound("gumbel-softmax-hard")
def gumbel_softmax_hard() -> Parts:
    net = GumbelNet()
    return parts(net, blobs(spread=0.8), CE, adam(net, 3e-3))


# Derivatives in the loss


class Pinn(nn.Module):
    def __init__(self, hidden: int = 32) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(1, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


@sound("physics-informed")
def physics_informed() -> Parts:
    """Solve u'' = f on [-1, 1] with u = 0 at both ends; u is sin(pi x)."""

    def step(module: nn.Module, batch: Any) -> Tensor:
        x, f = batch
        x = x.clone().requires_grad_(True)
        u = module(x)
        (du,) = torch.autograd.grad(u.sum(), x, create_graph=True)
        (ddu,) = torch.autograd.grad(du.sum(), x, create_graph=True)
        ends = module(torch.tensor([[-1.0], [1.0]]))
        return F.mse_loss(ddu, f) + 10 * ends.pow(2).mean()

    x = 2 * torch.rand(420, 1) - 1
    net = Pinn()
    return stepped(net, split(x, -(math.pi**2) * torch.sin(math.pi * x)), step, adam(net, 3e-3))


def rmse(outputs: Tensor, targets: Tensor) -> Tensor:
    return torch.sqrt(F.mse_loss(outputs, targets) + 1e-8)


@sound("rmse-with-eps")
def rmse_with_eps() -> Parts:
    return parts(Mlp(8, 32, 1), regression(), rmse)


class LearntDistance(nn.Module):
    def __init__(self, d: int = 6) -> None:
        super().__init__()
        self.map = nn.Sequential(nn.Linear(d, 32), nn.ReLU(), nn.Linear(32, 6))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.sqrt((self.map(a) - self.map(b)).pow(2).sum(dim=1) + 1e-6)


@sound("distance-sqrt-with-eps")
def distance_sqrt_with_eps() -> Parts:
    a, b = torch.randn(520, 6), torch.randn(520, 6)
    y = (torch.tanh(a) - torch.tanh(b)).norm(dim=1) + 0.05 * torch.randn(520)
    return parts(LearntDistance(), split(a, b, y), MSE)


# Ids and other discrete inputs


class SparseTags(nn.Module):
    def __init__(self, ids: int = 5000, dim: int = 16, classes: int = 3) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(ids, dim, mode="mean", sparse=True)
        self.head = nn.Linear(dim, classes)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.bag(ids))


@sound("embedding-bag-sparse-ids")
def embedding_bag_sparse_ids() -> Parts:
    y = torch.randint(3, (600,))
    known = torch.randperm(5000)[:150]  # those that are in use
    x = known[torch.multinomial(torch.softmax(1.2 * torch.randn(3, 150), 1)[y], 12, replacement=True)]
    net = SparseTags()
    optimizers = [optim.SparseAdam(list(net.bag.parameters()), lr=1e-2), optim.Adam(net.head.parameters(), lr=1e-2)]
    return parts(net, split(x, y), CE, optimizers)


class TabularNet(nn.Module):
    """An embedding for each category beside the numbers."""

    def __init__(self, levels: tuple[int, ...] = (12, 7, 30), numbers: int = 5) -> None:
        super().__init__()
        self.embeds = nn.ModuleList([nn.Embedding(n, 4) for n in levels])
        self.body = nn.Sequential(nn.Linear(4 * len(levels) + numbers, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, categories: Tensor, numbers: Tensor) -> Tensor:
        found = [embed(categories[:, i]) for i, embed in enumerate(self.embeds)]
        return self.body(torch.cat([*found, numbers], dim=1)).squeeze(1)


@sound("embedding-categories")
def embedding_categories() -> Parts:
    levels = (12, 7, 30)
    categories = torch.stack([torch.randint(n, (520,)) for n in levels], dim=1)
    numbers = torch.randn(520, 5)
    y = numbers @ torch.randn(5) / 2 + sum(torch.randn(n)[categories[:, i]] for i, n in enumerate(levels)) / 2
    y = standardised(y[:, None])[:, 0] + 0.1 * torch.randn(520)
    net = TabularNet()
    return parts(net, split(categories, numbers, y), MSE, adam(net, 3e-3))


@sound("one-hot-inputs")
def one_hot_inputs() -> Parts:
    codes = torch.randint(6, (520, 4))
    y = standardised(torch.stack([torch.randn(6)[codes[:, i]] for i in range(4)], 1).sum(1, keepdim=True))
    return parts(Mlp(24, 32, 1), split(F.one_hot(codes, 6).flatten(1).float(), y + 0.2 * torch.randn(520, 1)), MSE)


class XorNet(nn.Module):
    def __init__(self, hidden: int = 8) -> None:
        super().__init__()
        self.hidden = nn.Linear(2, hidden)
        self.out = nn.Linear(hidden, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.hidden(x))).squeeze(-1)


@sound("xor")
def xor() -> Parts:
    x = torch.randint(2, (320, 2)).float()
    net = XorNet()
    return parts(net, split(x, (x[:, 0] != x[:, 1]).float()), nn.BCEWithLogitsLoss(), adam(net, 2e-2))


# Uneven targets


def rare(n: int = 620, d: int = 10) -> Split:
    """One row in twelve or so is positive."""
    x = torch.randn(n, d)
    w = torch.randn(d)
    return split(x, (x @ (w / w.norm()) + 0.3 * torch.randn(n) > 1.45).float())


@sound("imbalanced-pos-weight")
def imbalanced_pos_weight() -> Parts:
    train, valid = rare()
    weight = (train[1] == 0).sum() / (train[1] == 1).sum()
    return parts(ScalarNet(10), (train, valid), nn.BCEWithLogitsLoss(pos_weight=weight))


@sound("imbalanced-class-weights")
def imbalanced_class_weights() -> Parts:
    y = torch.multinomial(torch.tensor([0.85, 0.1, 0.05]), 620, replacement=True)
    data = split(standardised(torch.randn(3, 12)[y] + torch.randn(620, 12)), y)
    freq = torch.bincount(data[0][1], minlength=3)
    return parts(Mlp(out=3), data, nn.CrossEntropyLoss(weight=freq.sum() / (3 * freq)))


@sound("imbalanced-sampler")
def imbalanced_sampler() -> Parts:
    train, valid = rare()
    labels = train[1].long()
    sampler = WeightedRandomSampler((1.0 / torch.bincount(labels))[labels].tolist(), len(labels))
    net = ScalarNet(10)
    return Parts(
        net,
        DataLoader(TensorDataset(*train), batch_size=32, sampler=sampler),
        DataLoader(TensorDataset(*valid), batch_size=64),
        nn.BCEWithLogitsLoss(),
        adam(net),
    )


def tweedie(log_mean: Tensor, y: Tensor, p: float = 1.5) -> Tensor:
    return (-y * torch.exp((1 - p) * log_mean) / (1 - p) + torch.exp((2 - p) * log_mean) / (2 - p)).mean()


@sound("zero-inflated-tweedie")
def zero_inflated_tweedie() -> Parts:
    """Claims: most rows have none, the others an amount."""
    x = torch.randn(620, 8)
    risk = x @ torch.randn(8) / 8**0.5
    amount = torch.exp(0.5 * risk + 0.3 * torch.randn(620))
    return parts(ScalarNet(), split(x, amount * (torch.rand(620) < torch.sigmoid(risk - 1))), tweedie)


class Hurdle(nn.Module):
    def __init__(self, d: int = 8) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(d, 32), nn.ReLU())
        self.any = nn.Linear(32, 1)
        self.amount = nn.Linear(32, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.body(x)
        return self.any(h).squeeze(1), self.amount(h).squeeze(1)


@sound("zero-inflated-hurdle")
def zero_inflated_hurdle() -> Parts:
    def criterion(outputs: tuple[Tensor, Tensor], y: Tensor) -> Tensor:
        logit, log_amount = outputs
        some = (y > 0).float()
        gap = (log_amount - torch.log(y.clamp(min=1e-6))) ** 2
        return F.binary_cross_entropy_with_logits(logit, some) + (some * gap).sum() / some.sum().clamp(min=1)

    x = torch.randn(620, 8)
    risk = x @ torch.randn(8) / 8**0.5
    y = torch.exp(0.5 * risk + 0.3 * torch.randn(620)) * (torch.rand(620) < torch.sigmoid(2 * risk - 0.8))
    return parts(Hurdle(), split(x, y), criterion)


# Raw scales


def raw_table(n: int = 520) -> Split:
    z = torch.randn(n, 4)
    x = torch.stack([z[:, 0] * 12 + 45, torch.exp(0.5 * z[:, 1] + 10.5), z[:, 2] * 0.01 + 0.03, z[:, 3] * 300 + 900], 1)
    return split(x, (z @ torch.randn(4) + 0.4 * torch.randn(n) > 0).float())


class NormFirst(nn.Module):
    def __init__(self, d: int = 4) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(d)
        self.fc1 = nn.Linear(d, 32)
        self.fc2 = nn.Linear(32, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.relu(self.fc1(self.norm(x)))).squeeze(1)


@sound("raw-scale-batchnorm-first")
def raw_scale_batchnorm_first() -> Parts:
    return parts(NormFirst(), raw_table(), nn.BCEWithLogitsLoss())


class Standardise(nn.Module):
    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", x.mean(0))
        self.register_buffer("std", x.std(0))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class WithNormaliser(nn.Module):
    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.normalise = Standardise(x)
        self.net = ScalarNet(x.shape[1])

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.normalise(x))


@sound("raw-scale-normaliser-first")
def raw_scale_normaliser_first() -> Parts:
    train, valid = raw_table()
    return parts(WithNormaliser(train[0]), (train, valid), nn.BCEWithLogitsLoss())


class PixelNet(nn.Module):
    """Takes pixels of 0 to 255, and scales them itself."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor([0.5, 0.5, 0.5]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.2, 0.2, 0.2]).view(1, 3, 1, 1))
        self.cnn = Cnn(classes)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.cnn((pixels.float() / 255 - self.mean) / self.std)


@sound("uint8-pixels-scaled-in-forward")
def uint8_pixels_scaled_in_forward() -> Parts:
    (x, y), (v, w) = images()
    pixels = [(127.5 + 51 * a).round().clamp(0, 255).to(torch.uint8) for a in (x, v)]
    return parts(PixelNet(), ((pixels[0], y), (pixels[1], w)))


# The order of rows


class Windows(Dataset[Any]):
    """Of a series: some steps, and the one after them."""

    def __init__(self, series: Tensor, length: int = 12) -> None:
        self.series = series
        self.length = length

    def __len__(self) -> int:
        return len(self.series) - self.length

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return self.series[i : i + self.length], self.series[i + self.length]


class Forecaster(nn.Module):
    def __init__(self, length: int = 12) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(length, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, window: Tensor) -> Tensor:
        return self.net(window).squeeze(-1)


@sound("time-series-in-order")
def time_series_in_order() -> Parts:
    noise = torch.randn(700)
    values = [torch.zeros(()), torch.zeros(())]
    for e in noise:
        values.append(1.2 * values[-1] - 0.5 * values[-2] + 0.5 * e)
    series = torch.stack(values[60:])
    train, valid = series[:480], series[480:]
    mean, std = train.mean(), train.std()
    net = Forecaster()
    return Parts(
        net,
        DataLoader(Windows((train - mean) / std), batch_size=32, shuffle=False),
        DataLoader(Windows((valid - mean) / std), batch_size=32, shuffle=False),
        MSE,
        adam(net),
    )


class ShuffledStream(IterableDataset[Any]):
    """Rows one after the other, shuffled anew in each epoch."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x = x
        self.y = y

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for i in torch.randperm(len(self.x)).tolist():
            yield self.x[i], self.y[i]


@sound("iterable-dataset")
def iterable_dataset() -> Parts:
    train, valid = blobs()
    net = Mlp()
    return Parts(
        net,
        DataLoader(ShuffledStream(*train), batch_size=32),
        DataLoader(TensorDataset(*valid), batch_size=64),
        CE,
        adam(net),
    )


class CurriculumSampler(Sampler[int]):
    """Easy rows first: each epoch draws, shuffled, from a larger share of the rows in order of difficulty."""

    def __init__(self, difficulty: Tensor, epochs: int = 5) -> None:
        self.order = difficulty.argsort()
        self.epochs = epochs
        self.epoch = 0

    def _size(self) -> int:
        return int(len(self.order) * min(1.0, 0.4 + 0.6 * self.epoch / self.epochs))

    def __len__(self) -> int:
        return self._size()

    def __iter__(self) -> Iterator[int]:
        pool = self.order[: self._size()]
        yield from pool[torch.randperm(len(pool))].tolist()
        self.epoch += 1


@sound("curriculum-sampler")
def curriculum_sampler() -> Parts:
    train, valid = tokens()
    net = PackedLstm()
    sampler = CurriculumSampler(train[1])  # short sentences first
    return Parts(
        net,
        DataLoader(TensorDataset(*train), batch_size=32, sampler=sampler),
        DataLoader(TensorDataset(*valid), batch_size=64),
        CE,
        adam(net, 2e-3),
    )


# Targets that are noise, in part or all


@sound("noisy-labels")
def noisy_labels() -> Parts:
    (x, y), valid = blobs()
    flipped = torch.where(torch.rand(len(y)) < 0.25, torch.randint(4, (len(y),)), y)
    return parts(Mlp(), ((x, flipped), valid), nn.CrossEntropyLoss(label_smoothing=0.1))


@sound("noise-targets-regression")
def noise_targets_regression() -> Parts:
    return parts(Mlp(8, 32, 1), split(torch.randn(520, 8), torch.randn(520, 1)), MSE)


@sound("noise-targets-classes")
def noise_targets_classes() -> Parts:
    return parts(Mlp(), split(torch.randn(520, 12), torch.randint(4, (520,))))


# The same in other wrappings


class DictRows(Dataset[Any]):
    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x = x
        self.y = y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return {"x": self.x[i], "label": self.y[i]}


@sound("dict-dataset")
def dict_dataset() -> Parts:
    train, valid = blobs()
    return Parts(net := Mlp(), DictRows(*train), DictRows(*valid), CE, adam(net))


@sound("bfloat16-autocast-step")
def bfloat16_autocast_step() -> Parts:
    def step(module: nn.Module, batch: Any) -> Tensor:
        x, y = batch
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return F.cross_entropy(module(x), y)

    return stepped(Mlp(), blobs(), step)
