"""Data that can be learnt, small, drawn from the seed."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from tests.checks.kit.program import Parts

Maker = Callable[[bool], Parts]


def blobs(n: int = 400, d: int = 10, k: int = 4) -> tuple[Tensor, Tensor]:
    centres, y = torch.randn(k, d), torch.randint(0, k, (n,))
    x = centres[y] + torch.randn(n, d)
    return (x - x.mean(0)) / x.std(0), y


def yes_no(n: int = 400, d: int = 10) -> tuple[Tensor, Tensor]:
    x = torch.randn(n, d)
    return x, ((x @ torch.randn(d)) + torch.randn(n) * 0.5 > 0).float()


def line(n: int = 400, d: int = 8, out: int = 1) -> tuple[Tensor, Tensor]:
    x = torch.randn(n, d)
    y = torch.tanh(x @ torch.randn(d, 16)) @ torch.randn(16, out) / 3 + 0.2 * torch.randn(n, out)
    return x, y


def pictures(n: int = 300, k: int = 3, c: int = 3, side: int = 16) -> tuple[Tensor, Tensor]:
    y = torch.randint(0, k, (n,))
    base = F.interpolate(torch.randn(k, c, 4, 4), side, mode="bilinear")
    noise = F.interpolate(torch.randn(n, c, 8, 8), side, mode="bilinear")
    x = base[y] + noise + 0.2 * torch.randn(n, c, side, side)
    return x / x.std(), y


def waves(n: int = 300, t: int = 20, d: int = 4, k: int = 3) -> tuple[Tensor, Tensor]:
    y = torch.randint(0, k, (n,))
    steps = torch.arange(t) / t * 6.28
    x = torch.sin(steps[None, :, None] * (y[:, None, None] + 1) + torch.rand(n, 1, d) * 6) + 0.3 * torch.randn(n, t, d)
    return x, y


def words(n: int = 300, t: int = 12, vocab: int = 40) -> Tensor:
    table = torch.randint(1, vocab, (vocab, 3))
    x = torch.randint(1, vocab, (n, 1))
    for _ in range(t - 1):
        x = torch.cat([x, table[x[:, -1], torch.randint(0, 3, (n,))][:, None]], 1)
    return x


def halves(x: Any, y: Any, cut: float = 0.75) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    m = int(len(y) * cut)
    return (x[:m], y[:m]), (x[m:], y[m:])


def padded(n: int = 300, t: int = 14, k: int = 5) -> tuple[Tensor, Tensor]:
    x = torch.randint(1, 30, (n, t))
    y = x % k
    lengths = torch.randint(5, t + 1, (n,))
    pad = torch.arange(t) >= lengths[:, None]
    return x.masked_fill(pad, 0), y.masked_fill(pad, -100)


def padded_rows() -> tuple[Tensor, Tensor]:
    x, _ = padded()
    return x, (x.float().sum(1) / (x > 0).sum(1) > 15).long()


class Items(Dataset[Any]):
    def __init__(self, x: Tensor, y: Tensor, change: Callable[[Any, int], Any] = lambda x, i: x) -> None:
        self.x, self.y, self.change = x, y, change

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, i: int) -> Any:
        return self.change(self.x[i], i), self.y[i]


def standard(x: Tensor) -> Tensor:
    return (x - x.mean(0)) / x.std(0)


def even(n: int, k: int) -> Tensor:
    return (torch.arange(n) % k)[torch.randperm(n)]


def clusters(n: int = 400, d: int = 12, k: int = 4) -> tuple[Tensor, Tensor]:
    y = even(n, k)
    return standard(torch.randn(k, d)[y] * 1.2 + torch.randn(n, d)), y


def two(n: int = 400, d: int = 12) -> tuple[Tensor, Tensor]:
    x, y = clusters(n, d, 2)
    return x, y.float()


def surface(n: int = 400, d: int = 8, out: int = 1) -> tuple[Tensor, Tensor]:
    x = torch.randn(n, d)
    y = torch.sin(x @ torch.randn(d, out) / d**0.5) + 0.5 * torch.tanh(x @ torch.randn(d, out))
    return x, standard(y + 0.15 * torch.randn(n, out))


def gratings(n: int = 400, k: int = 4, c: int = 1, side: int = 12) -> tuple[Tensor, Tensor]:
    """Stripes in k directions, at any phase."""
    y = even(n, k)
    angle = (y * torch.pi / k)[:, None, None]
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    phase = torch.rand(n, 1, 1) * 6.28
    waves = torch.sin((row * torch.cos(angle) + column * torch.sin(angle)) * 1.3 + phase)
    colour = 0.5 + torch.rand(n, c, 1, 1)
    x = waves[:, None] * colour + 0.4 * torch.randn(n, c, side, side)
    return x / x.std(), y


def signals(n: int = 400, t: int = 24, d: int = 3, k: int = 3) -> tuple[Tensor, Tensor]:
    y = even(n, k)
    time = torch.arange(t)[None, :, None] / t
    speed = (y + 1)[:, None, None] * 6.28
    x = torch.sin(time * speed + torch.rand(n, 1, d) * 6.28) + 0.3 * torch.randn(n, t, d)
    return x / x.std(), y


def reviews(n: int = 400, t: int = 15, vocab: int = 60) -> tuple[Tensor, Tensor]:
    """Words in the upper half are good ones, and most words of a review agree with it."""
    y = even(n, 2)
    good = torch.rand(n, t) < 0.3 + 0.4 * y[:, None]
    return torch.randint(1, vocab // 2, (n, t)) + good * (vocab // 2), y


def padding(n: int, t: int, shortest: int = 5) -> Tensor:
    """Return which positions are padding."""
    return torch.arange(t) >= torch.randint(shortest, t + 1, (n,))[:, None]


def tagged_padded(n: int = 400, t: int = 14, k: int = 5, ignored: int = -100) -> tuple[Tensor, Tensor]:
    """Words padded by 0; a tag follows from the word and the one before."""
    words = torch.randint(1, 40, (n, t))
    tags = torch.where(words.roll(1, 1) % 2 == 0, words % k, (words + 1) % k)
    tags[:, 0] = words[:, 0] % k
    pad = padding(n, t)
    return words.masked_fill(pad, 0), tags.masked_fill(pad, ignored)


def chain(n: int = 400, t: int = 14, vocab: int = 30) -> Tensor:
    follows = torch.randint(1, vocab, (vocab, 3))
    x = torch.randint(1, vocab, (n, 1))
    for _ in range(t - 1):
        x = torch.cat([x, follows[x[:, -1], torch.randint(0, 3, (n,))][:, None]], 1)
    return x


def halved(data: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    m = len(data[0]) * 3 // 4
    return tuple(part[:m] for part in data), tuple(part[m:] for part in data)


def loader(data: tuple[Tensor, ...], size: int = 32, shuffle: bool = True) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*data), size, shuffle=shuffle)


class ReadRows(Dataset[Any]):
    """Rows, each through a function of its own position."""

    def __init__(self, x: Any, y: Any, read: Callable[[Any], Any] = lambda x: x) -> None:
        self.x, self.y, self.read = x, y, read

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[Any, Any]:
        return self.read(self.x[i]), self.y[i]


def spot_maps(n: int = 400, side: int = 12) -> tuple[Tensor, Tensor]:
    """A bright blob of 9 pixels somewhere, and the map of where."""
    y = torch.zeros(n, 1, side, side)
    row, column = torch.randint(1, side - 1, (2, n))
    for a in (-1, 0, 1):
        for b in (-1, 0, 1):
            y[torch.arange(n), 0, row + a, column + b] = 1
    x = y * 2.5 + torch.randn(n, 1, side, side)
    return (x - x.mean()) / x.std(), y


def full_batches(data: tuple[Tensor, ...], size: int = 32) -> Iterator[tuple[Tensor, ...]]:
    for rows in torch.randperm(len(data[0])).split(size):
        if len(rows) == size:
            yield tuple(part[rows] for part in data)


def product_signs(n: int = 800) -> tuple[Tensor, Tensor]:
    x = torch.randn(n, 8)
    return x, (x[:, 0] * x[:, 1] > 0).long()


Rows = tuple[Tensor, ...]


def norm(x: Tensor, dim: int | tuple[int, ...] = 0) -> Tensor:
    return (x - x.mean(dim, keepdim=True)) / x.std(dim, keepdim=True)


def even_blobs(k: int = 4, d: int = 10, n: int = 440) -> tuple[Tensor, Tensor]:
    y = even(n, k)
    return norm(torch.randn(k, d)[y] * 1.2 + torch.randn(n, d)), y


def yesno(d: int = 10, n: int = 440) -> tuple[Tensor, Tensor]:
    x, y = even_blobs(2, d, n)
    return x, y.float()


def curve(d: int = 8, out: int = 1, n: int = 440) -> tuple[Tensor, Tensor]:
    x = torch.randn(n, d)
    y = torch.sin(x @ torch.randn(d, out) / d**0.5 * 1.5) + 0.6 * torch.tanh(x @ torch.randn(d, out))
    return x, norm(y + 0.1 * torch.randn(n, out))


def multi(k: int = 5, d: int = 12, n: int = 440) -> tuple[Tensor, Tensor]:
    x = torch.randn(n, d)
    s = x @ torch.randn(d, k) + 0.5 * torch.randn(n, k)
    return x, (s > s.median(0).values).float()


def shape_pictures(k: int = 4, c: int = 3, s: int = 12, n: int = 440) -> tuple[Tensor, Tensor]:
    y = even(n, k)
    forms = F.interpolate(torch.randn(k, c, 4, 4), (s, s), mode="bicubic")
    blur = F.interpolate(torch.randn(n, c, s // 2, s // 2), (s, s), mode="bilinear")
    x = forms[y] * (0.7 + 0.6 * torch.rand(n, 1, 1, 1)) + 0.7 * blur + 0.1 * torch.randn(n, c, s, s)
    return norm(x, (0, 2, 3)), y


def byte_pictures(k: int = 4, c: int = 3, s: int = 12) -> tuple[Tensor, Tensor]:
    x, y = shape_pictures(k, c, s)
    return (x * 40 + 128).clamp(0, 255).to(torch.uint8), y


def discs(s: int = 16, n: int = 440) -> tuple[Tensor, Tensor]:
    at, size = torch.rand(n, 2) * (s - 8) + 4, 3.5 + 2.5 * torch.rand(n, 1, 1)
    i = torch.arange(s).float()
    far = ((i[None, :, None] - at[:, :1, None]) ** 2 + (i[None, None] - at[:, 1:, None]) ** 2).sqrt()
    mask = (far < size).long()
    return norm((mask + 0.4 * torch.randn(n, s, s)).unsqueeze(1), (0, 2, 3)), mask


def dots(s: int = 16, n: int = 440) -> tuple[Tensor, Tensor]:
    at = torch.rand(n, 2) * 2 - 1
    i = torch.linspace(-1, 1, s)
    x = torch.exp(-((i[None, :, None] - at[:, 1:, None]) ** 2 + (i[None, None] - at[:, :1, None]) ** 2) * 12)
    return norm((x + 0.1 * torch.randn(n, s, s)).unsqueeze(1), (0, 2, 3)), at


def class_words(k: int = 3, v: int = 30, t: int = 12, n: int = 440, is_padded: bool = False) -> tuple[Tensor, Tensor]:
    y = even(n, k)
    words = torch.randint(1, v // k, (n, t)) * k + torch.where(torch.rand(n, t) < 0.6, y[:, None], even(n, k)[:, None])
    if is_padded:
        words = words * (torch.arange(t) < torch.randint(t // 3, t + 1, (n, 1)))
    return words, y


def tagged(v: int = 20, t: int = 10, n: int = 440) -> tuple[Tensor, Tensor]:
    x = torch.randint(1, v, (n, t))
    return x, (x + x.roll(1, 1)) % 4


def successions(v: int = 16, t: int = 13, n: int = 440) -> Tensor:
    after, x = torch.randperm(v), torch.randint(0, v, (n, t))
    for i in range(1, t):
        x[:, i] = torch.where(torch.rand(n) < 0.75, after[x[:, i - 1]], x[:, i])
    return x


def sounds(k: int = 3, t: int = 64, n: int = 440) -> tuple[Tensor, Tensor]:
    y = even(n, k)
    at = torch.linspace(0, 2 * math.pi, t)
    x = torch.sin(at * (2.0 + 2 * y[:, None]) + 6.28 * torch.rand(n, 1)) + 0.4 * torch.randn(n, t)
    return norm(x.unsqueeze(1), (0, 2)), y


def windows(t: int = 12, n: int = 440) -> tuple[Tensor, Tensor]:
    at = torch.arange(t + 1.0) * (0.3 + 0.5 * torch.rand(n, 1)) + 6.28 * torch.rand(n, 1)
    x = norm(torch.sin(at) + 0.05 * torch.randn(n, t + 1), (0, 1))
    return x[:, :t, None], x[:, t:]


def graphs_by_median(m: int = 8, d: int = 5, n: int = 440) -> tuple[Tensor, Tensor, Tensor]:
    a = (torch.rand(n, m, m) < 0.3).float()
    a = ((a + a.transpose(1, 2) + torch.eye(m)) > 0).float()
    a, x = a / a.sum(2, keepdim=True), torch.randn(n, m, d)
    s = torch.relu(a @ x @ torch.randn(d, 6)).sum(1) @ torch.randn(6)
    return x, a, (s > s.median()).long()


def few_ratings(users: int = 40, items: int = 30, n: int = 440) -> tuple[Tensor, Tensor, Tensor]:
    pick = torch.randperm(users * items)[:n]
    u, i = pick // items, pick % items
    r = torch.randn(users)[u] + torch.randn(items)[i] + (torch.randn(users, 2)[u] * torch.randn(items, 2)[i]).sum(1)
    return u, i, norm(r)


def uneven_exactly(shares: tuple[int, ...] = (60, 30, 10), d: int = 10, n: int = 440) -> tuple[Tensor, Tensor]:
    y = torch.cat([torch.full((n * s // 100,), c) for c, s in enumerate(shares)])
    y = torch.cat([y, torch.zeros(n - len(y), dtype=torch.long)])[torch.randperm(n)]
    return norm(torch.randn(len(shares), d)[y] * 1.2 + torch.randn(n, d)), y


def rows(*columns: Tensor, n: int = 320) -> tuple[Rows, Rows]:
    return tuple(c[:n] for c in columns), tuple(c[n:] for c in columns)


def loaders(*columns: Tensor, size: int = 32, n: int = 320, **more: Any) -> tuple[DataLoader[Any], DataLoader[Any]]:
    train, valid = rows(*columns, n=n)
    return DataLoader(TensorDataset(*train), size, shuffle=True, **more), DataLoader(TensorDataset(*valid), 40)


def stream(*columns: Tensor, steps: int = 30, size: int = 32) -> Iterator[Rows]:
    for _ in range(steps):
        pick = torch.randperm(len(columns[0]))[:size]
        yield tuple(c[pick] for c in columns)


def mixed_table(k: int = 3, n: int = 440) -> tuple[Tensor, Tensor, Tensor]:
    y = even(n, k)
    numbers = norm(torch.randn(k, 6)[y] + torch.randn(n, 6))
    codes = torch.stack([(torch.randint(0, s, (n,)) + y * (torch.rand(n) < 0.4)) % s for s in (5, 7)], 1)
    return numbers, codes, y


def reversals(v: int = 12, t: int = 6, n: int = 440) -> tuple[Tensor, Tensor, Tensor]:
    x = torch.randint(2, v, (n, t))
    y = torch.cat([torch.ones(n, 1, dtype=torch.long), x.flip(1)], 1)
    return x, y[:, :-1], y[:, 1:]


class AsData(Dataset[Any]):
    """Rows of tensors, with a function over each when it is read."""

    def __init__(self, columns: Rows, change: Callable[..., Any] = lambda *row: row) -> None:
        self.columns, self.change = columns, change

    def __len__(self) -> int:
        return len(self.columns[0])

    def __getitem__(self, i: int) -> Any:
        return self.change(*(c[i] for c in self.columns))


def bags(n: int = 440, m: int = 7) -> tuple[Tensor, Tensor]:
    y = even(n, 2).float()
    x = torch.randn(n, m, 6)
    x[torch.arange(n), torch.randint(0, m, (n,)), :3] += 3.0 * y[:, None]
    return norm(x, (0, 1)), y[:, None]


TRAIN, TOTAL = 360, 504


def cut_at_360(*columns: Tensor) -> tuple[Rows, Rows]:
    return tuple(column[:TRAIN] for column in columns), tuple(column[TRAIN:] for column in columns)


def even_labels(classes: int, n: int = TOTAL) -> Tensor:
    return (torch.arange(n) % classes)[torch.randperm(n)]


def clusters_of_504(classes: int = 3, features: int = 12) -> tuple[Tensor, Tensor]:
    y = even_labels(classes)
    return standard(torch.randn(classes, features)[y] * 0.7 + torch.randn(TOTAL, features)), y


def curve_column(features: int = 8) -> tuple[Tensor, Tensor]:
    x = torch.randn(TOTAL, features)
    y = torch.sin(1.5 * x[:, 0] + x[:, 1]) + 0.6 * x[:, 2] * x[:, 3] + 0.5 * x[:, 4] + 0.1 * torch.randn(TOTAL)
    return x, standard(y)[:, None]


def patch_pictures(classes: int = 4, channels: int = 1, size: int = 12) -> tuple[Tensor, Tensor]:
    y = even_labels(classes)
    base = F.interpolate(torch.randn(classes, channels, 4, 4), size=size, mode="bilinear")
    smooth = F.interpolate(torch.randn(TOTAL, channels, 5, 5), size=size, mode="bilinear")
    x = base[y] + 0.8 * smooth + 0.1 * torch.randn(TOTAL, channels, size, size)
    return (x - x.mean()) / x.std(), y


def channel_waves(classes: int = 3, channels: int = 2, length: int = 32) -> tuple[Tensor, Tensor]:
    y = even_labels(classes)
    angle = 2 * math.pi * (1 + 1.5 * y[:, None, None]) * torch.arange(length) / length
    x = torch.sin(angle + 2 * math.pi * torch.rand(TOTAL, channels, 1)) + 0.4 * torch.randn(TOTAL, channels, length)
    return x / x.std(), y


def texts(classes: int = 3, vocab: int = 40, length: int = 14) -> tuple[Tensor, Tensor]:
    y = even_labels(classes)
    share = torch.softmax(torch.randn(classes, vocab - 1), 1)
    x = 1 + torch.multinomial(share[y], length, replacement=True)
    return torch.where(torch.arange(length) < torch.randint(7, length, (TOTAL, 1)), x, 0), y


def long_chains(vocab: int = 20, length: int = 14) -> Tensor:
    move = torch.softmax(2 * torch.randn(vocab, vocab), 1)
    steps = [torch.randint(vocab, (TOTAL,))]
    for _ in range(length):
        steps.append(torch.multinomial(move[steps[-1]], 1)[:, 0])
    return torch.stack(steps, 1)


def tags(vocab: int = 40, length: int = 12, kinds: int = 4, blank: int = -100) -> tuple[Tensor, Tensor]:
    x = torch.randint(1, vocab, (TOTAL, length))
    of_word = torch.arange(vocab) % kinds
    y = (of_word[x] + F.pad(x, (1, 0))[:, :-1] % 2) % kinds
    is_pad = torch.arange(length) >= torch.randint(6, length, (TOTAL, 1))
    return x.masked_fill(is_pad, 0), y.masked_fill(is_pad, blank)


def clicks() -> tuple[Tensor, Tensor, Tensor]:
    ids, dense = torch.randint(12, (TOTAL, 4)), torch.randn(TOTAL, 4)
    taste = torch.randn(4, 12)
    score = sum(taste[f][ids[:, f]] for f in range(4)) + dense[:, 0] * dense[:, 1] + dense[:, 2]
    assert isinstance(score, Tensor)
    return ids, dense, (score > score.median()).float()[torch.arange(TOTAL)]


def graphs_in_thirds(nodes: int = 8, features: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    x = torch.randn(TOTAL, nodes, features)
    edge = torch.triu((torch.rand(TOTAL, nodes, nodes) < 0.4).float(), 1)
    edge = edge + edge.transpose(1, 2) + torch.eye(nodes)
    near = edge / edge.sum(-1, keepdim=True)
    score = torch.relu(near @ x @ torch.randn(features, 4)).mean(1) @ torch.randn(4)
    return x, near, (score.argsort().argsort() * 3) // TOTAL


def clouds(points: int = 24) -> tuple[Tensor, Tensor]:
    y = even_labels(3)
    ball = F.normalize(torch.randn(TOTAL, points, 3), dim=-1)
    cube = torch.rand(TOTAL, points, 3) * 2 - 1
    sheet = torch.rand(TOTAL, points, 3) * 2 - 1
    sheet[..., 2] = 0.1 * torch.randn(TOTAL, points)
    x = torch.stack([ball, cube, sheet], 1)[torch.arange(TOTAL), y] + 0.05 * torch.randn(TOTAL, points, 3)
    return x / x.std(), y


def horizons(past: int = 24, ahead: int = 6) -> tuple[Tensor, Tensor]:
    t = torch.arange(past + ahead)
    wave = torch.sin(2 * math.pi * (t / (8 + 6 * torch.rand(TOTAL, 1)) + torch.rand(TOTAL, 1)))
    x = wave + 0.5 * torch.randn(TOTAL, 1) + 0.15 * torch.randn(TOTAL, past + ahead)
    x = x / x.std()
    return x[:, :past], x[:, past:]


def spot_places(size: int = 12) -> tuple[Tensor, Tensor]:
    place = torch.rand(TOTAL, 2) * 0.7 + 0.15
    grid = (torch.arange(size) + 0.5) / size
    far = (grid[None, :, None] - place[:, 1, None, None]) ** 2 + (grid[None, None, :] - place[:, 0, None, None]) ** 2
    x = torch.exp(-far / 0.02)[:, None] + 0.1 * torch.randn(TOTAL, 1, size, size)
    return (x - x.mean()) / x.std(), place * 2 - 1


def masks(size: int = 12) -> tuple[Tensor, Tensor]:
    field = F.interpolate(torch.randn(TOTAL, 1, 4, 4), size=size, mode="bilinear")
    y = (field > 0).float()
    x = field + 0.3 * torch.randn(TOTAL, 1, size, size)
    return (x - x.mean()) / x.std(), y


def loader_of_24(rows: Rows, size: int = 24, shuffle: bool = True) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*rows), batch_size=size, shuffle=shuffle)


def spell(words: Tensor) -> Tensor:
    return torch.stack([words % 7 + 1, words // 7 % 7 + 1, words % 3 + 1, words % 5 + 1, words % 2 + 1], -1)


def moves() -> tuple[Rows, Rows]:
    s, a = torch.randn(TOTAL, 6), even_labels(4)
    after = 0.8 * s + 0.3 * torch.randn(4, 6)[a] + 0.1 * torch.randn(TOTAL, 6)
    reward = torch.tanh(s[:, 0] + (torch.randn(4, 6)[a] * s).sum(1))
    return cut_at_360(s, a, after, (torch.rand(TOTAL) < 0.1).float(), reward)


def skewed(shares: tuple[int, ...] = (14, 5, 2)) -> tuple[Tensor, Tensor]:
    y = torch.repeat_interleave(torch.arange(len(shares)), torch.tensor(shares) * TOTAL // sum(shares))
    y = torch.cat([y, y.new_zeros(TOTAL - len(y))])[torch.randperm(TOTAL)]
    return standard(torch.randn(len(shares), 12)[y] + torch.randn(TOTAL, 12)), y


def moons() -> Tensor:
    angle = math.pi * torch.rand(TOTAL, 3)
    return standard(torch.cat([angle.cos(), angle.sin() + 0.3 * angle.cos()], 1) + 0.1 * torch.randn(TOTAL, 6))


class Samples(Dataset[Any]):
    """Rows with a function over each input; the base of the data sets below."""

    def __init__(self, x: Tensor, y: Tensor, change: Callable[[Tensor], Tensor] | None = None) -> None:
        self.x, self.y, self.change = x, y, change

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        x = self.x[i]
        return (x if self.change is None else self.change(x)), self.y[i]


def batched(data: Dataset[Any], shuffle: bool = True, size: int = 24) -> DataLoader[Any]:
    return DataLoader(data, batch_size=size, shuffle=shuffle)


def cut(*columns: Tensor) -> tuple[Rows, Rows]:
    """The first three quarters to train on, the rest to validate."""
    rows = len(columns[0]) * 3 // 4
    return tuple(column[:rows] for column in columns), tuple(column[rows:] for column in columns)


def table(rows: int = 480, width: int = 10, classes: int = 4) -> tuple[Tensor, Tensor]:
    labels = even(rows, classes)
    return standard(0.7 * torch.randn(classes, width)[labels] + torch.randn(rows, width)), labels


def curve_values(rows: int = 480, width: int = 8) -> tuple[Tensor, Tensor]:
    x = torch.randn(rows, width)
    y = torch.sin(1.5 * x[:, 0]) + 0.7 * x[:, 1] * x[:, 2] + 0.7 * x[:, 3] + 0.1 * torch.randn(rows)
    return x, standard(y)


def stripe_pictures(rows: int = 320, classes: int = 4, channels: int = 1, side: int = 12) -> tuple[Tensor, Tensor]:
    """Stripes, whose direction is the class."""
    labels = even(rows, classes)
    angle = labels[:, None, None] * math.pi / classes
    down, across = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    phase = 6.28 * torch.rand(rows, 1, 1)
    stripes = torch.cos(0.9 * (angle.cos() * across + angle.sin() * down) + phase)
    tint = 0.6 + 0.8 * torch.rand(rows, channels, 1, 1)
    return stripes[:, None] * tint + 0.2 * torch.randn(rows, channels, side, side), labels


def sentences(rows: int = 400, length: int = 12, words: int = 20, classes: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens from 1 on, padded with 0 at the end; their lengths; a class that prefers some of the words."""
    labels = even(rows, classes)
    taste = torch.softmax(1.3 * torch.randn(classes, words - 1), 1)
    tokens = torch.multinomial(taste[labels], length, replacement=True) + 1
    lengths = torch.randint(4, length + 1, (rows,))
    return tokens * (torch.arange(length) < lengths[:, None]), lengths, labels


def chains(rows: int = 300, length: int = 14, words: int = 12) -> Tensor:
    """Markov chains over the words from 1 on."""
    habit = torch.softmax(2 * torch.randn(words - 1, words - 1), 1)
    steps = [torch.randint(words - 1, (rows,))]
    for _ in range(length - 1):
        steps.append(torch.multinomial(habit[steps[-1]], 1)[:, 0])
    return torch.stack(steps, 1) + 1


def single_waves(rows: int = 400, length: int = 28) -> Tensor:
    time = torch.arange(length) * (0.3 + 0.4 * torch.rand(rows, 1)) + 6.28 * torch.rand(rows, 1)
    return torch.sin(time) * (0.7 + 0.6 * torch.rand(rows, 1)) + 0.1 * torch.randn(rows, length)


def ratings(rows: int = 800, users: int = 40, items: int = 30) -> tuple[Tensor, Tensor, Tensor]:
    chosen = torch.randperm(users * items)[:rows]
    user, item = chosen // items, chosen % items
    taste, kind, lean, fame = torch.randn(users, 2), torch.randn(items, 2), torch.randn(users), torch.randn(items)
    score = (taste[user] * kind[item]).sum(1) + lean[user] + fame[item]
    return user, item, standard(score + 0.2 * torch.randn(rows))


def graphs(rows: int = 320, nodes: int = 8, width: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    labels = even(rows, 2)
    edges = (torch.rand(rows, nodes, nodes) < 0.3).float()
    edges = ((edges + edges.mT + torch.eye(nodes)) > 0).float()
    features = torch.randn(rows, nodes, width) + 0.6 * torch.randn(2, 1, width)[labels]
    return features, edges / edges.sum(-1, keepdim=True), labels


def motions(rows: int = 360, length: int = 10, width: int = 6, classes: int = 3) -> tuple[Tensor, Tensor]:
    """Smooth multi-channel series; every class has its own levels."""
    labels = even(rows, classes)
    walk = 0.4 * torch.randn(rows, length, width).cumsum(1)
    return standard(walk + 0.9 * torch.randn(classes, 1, width)[labels]), labels


def rare(rows: int = 1600, share: float = 0.04, width: int = 8) -> Rows:
    y = (torch.arange(rows) < share * rows).long()[torch.randperm(rows)]
    return standard(torch.randn(rows, width) + 0.9 * y[:, None] * torch.randn(width)), y


def draws(rows: Rows, size: int, steps: int) -> Iterator[Rows]:
    for _ in range(steps):
        chosen = torch.randperm(len(rows[0]))[:size]
        yield tuple(column[chosen] for column in rows)


def segments(rows: int = 240, side: int = 12) -> tuple[Tensor, Tensor]:
    """Three bands of brightness; each pixel's band."""
    field = F.interpolate(torch.randn(rows, 1, 4, 4), side, mode="bilinear")
    return field + 0.1 * torch.randn(rows, 1, side, side), (field[:, 0] > -0.3).long() + (field[:, 0] > 0.3).long()


def spots(rows: int = 320, side: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    """A bright spot in half of the images; is it there, and where (as shares of the side)."""
    place = 0.15 + 0.7 * torch.rand(rows, 2)
    there = even(rows, 2).float()
    grid = torch.arange(side) / (side - 1)
    glow = torch.exp(-60 * ((grid[None, :, None] - place[:, 1, None, None]) ** 2 + (grid - place[:, :1, None]) ** 2))
    return (2 * glow * there[:, None, None] + 0.2 * torch.randn(rows, side, side))[:, None], there, place


def uneven(shares: list[float], rows: int = 600, width: int = 10) -> tuple[Tensor, Tensor]:
    labels = torch.multinomial(torch.tensor(shares), rows, replacement=True)
    return standard(0.9 * torch.randn(len(shares), width)[labels] + torch.randn(rows, width)), labels


Split = tuple[tuple[Tensor, ...], tuple[Tensor, ...]]


def split(*columns: Tensor, n_valid: int = 120) -> Split:
    return tuple(c[:-n_valid] for c in columns), tuple(c[-n_valid:] for c in columns)


def standardised(x: Tensor, n_valid: int = 120) -> Tensor:
    """Scale by the statistics of the training rows."""
    own = [0, *range(2, x.ndim)]
    return (x - x[:-n_valid].mean(own, keepdim=True)) / x[:-n_valid].std(own, keepdim=True)


def split_blobs(n: int = 520, d: int = 12, k: int = 4, spread: float = 1.2) -> Split:
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


def split_waves(n: int = 400, t: int = 20, d: int = 3, k: int = 3) -> Split:
    y = torch.randint(k, (n,))
    time = torch.linspace(0, 6.28, t)[None, :, None]
    x = torch.sin((1 + y)[:, None, None] * time + 2 * torch.rand(n, 1, d)) + 0.3 * torch.randn(n, t, d)
    return split(x, y)


def chain_sentences(n: int = 420, t: int = 16, vocab: int = 60) -> Split:
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


class SentenceDataset(Dataset[Any]):
    """Sentences of different lengths, without padding."""

    def __init__(self, ids: Tensor, lengths: Tensor, labels: Tensor) -> None:
        self.rows = [row[:n] for row, n in zip(ids, lengths.tolist(), strict=True)]
        self.labels = labels

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return self.rows[i], self.labels[i]
