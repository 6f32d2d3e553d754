# mypy: disable-error-code="no-any-return"
# ruff: noqa: E731  (programs of a line or two read better in a row)
"""Sound programs over text and other tokens."""

import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence
from torch.optim import AdamW
from torch.utils.data import DataLoader, Dataset, Sampler, TensorDataset

from tests.checks.kit.data import (
    TOTAL,
    AsData,
    Items,
    Rows,
    SentenceDataset,
    Split,
    chain_sentences,
    chains,
    class_words,
    cut,
    cut_at_360,
    even_labels,
    halved,
    long_chains,
    padded,
    padded_rows,
    reversals,
    reviews,
    rows,
    sentences,
    successions,
    table,
    texts,
    tokens,
    waves,
    words,
)
from tests.checks.kit.networks import (
    Decoder,
    GruTagger,
    Lstm,
    MaskedDecoder,
    MaskedEncoder,
    Net,
    PackedReader,
    Sentence,
    SmallGpt,
    Speaker,
    TextEncoder,
    TiedDecoder,
    Transformer,
    TransformerReader,
    Translator,
    mlp,
)
from tests.checks.kit.program import Parts, sound
from tests.checks.kit.training import (
    BCE,
    CE,
    FLAT,
    adam,
    adam_of_all,
    adamw,
    brisk_adam,
    brisk_parts,
    by_position,
    by_token,
    cross_entropy,
    fast_adam,
    loaded,
    next_token,
    own,
    parts,
    plain,
    program,
    split_parts,
    token_loss,
)


@sound("decoder-tied")
def _() -> Parts:
    net = Decoder()
    nn.init.normal_(net.embed.weight, 0, 0.05)
    net.head.weight = net.embed.weight
    x = words()
    return parts(net, (x[:, :-1], x[:, 1:]), FLAT)


@sound("encoder-key-padding")
def _() -> Parts:
    return parts(MaskedEncoder("right"), padded_rows(), CE)


@sound("padded-collate")
def _() -> Parts:
    x, y = padded_rows()
    rows = [(a[a > 0], b) for a, b in zip(x, y, strict=True)]
    collate: Any = lambda rows: (
        nn.utils.rnn.pad_sequence([r[0] for r in rows], batch_first=True),
        torch.stack([r[1] for r in rows]),
    )

    class Ragged(Items):
        def __init__(self) -> None: ...

        def __len__(self) -> int:
            return len(rows)

        def __getitem__(self, i: int) -> Any:
            return rows[i]

    net = MaskedEncoder("right")
    return Parts(net, DataLoader(Ragged(), batch_size=16, shuffle=True, collate_fn=collate), None, CE, adam(net))


@sound("bert-mlm")
def _() -> Parts:
    x = words()
    hidden = torch.rand(x.shape) < 0.2
    hidden[:, 3] = True
    return parts(Decoder(41, causal=False), (x.masked_fill(hidden, 40), x.masked_fill(~hidden, -100)), FLAT)


@sound("tagger-ignore-index")
def _() -> Parts:
    return parts(GruTagger(), padded(), lambda o, t: F.cross_entropy(o.transpose(1, 2), t))


@sound("bilstm-tagger")
def _() -> Parts:
    x = torch.randint(1, 30, (300, 10))
    net = Net(
        lambda m, x: m.head(m.rnn(m.embed(x))[0]).transpose(1, 2),
        embed=nn.Embedding(30, 16),
        rnn=nn.LSTM(16, 16, batch_first=True, bidirectional=True),
        head=nn.Linear(32, 3),
    )
    return parts(net, (x, (x + x.roll(-1, 1)) % 3), CE)


@sound("lstm-classifier")
def _() -> Parts:
    return parts(Lstm(), waves(), CE, extra={})


@sound("seq2seq-teacher-forcing")
def _() -> Parts:
    class Seq2Seq(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(12, 24), nn.Linear(48, 12)
            self.encoder, self.decoder = nn.GRU(24, 48, batch_first=True), nn.GRU(24, 48, batch_first=True)

        def forward(self, source: Tensor, before: Tensor) -> Any:
            _, h = self.encoder(self.embed(source))
            return self.head(self.decoder(self.embed(before), h)[0])

    source = torch.randint(1, 12, (400, 4))
    target = source.flip(1)
    before = F.pad(target[:, :-1], (1, 0))  # 0 begins
    net = Seq2Seq()
    return brisk_parts(net, (source, before, target), by_position, brisk_adam(net, 1e-2))


@sound("rezero-transformer-with-relative-bias")
def _() -> Parts:
    class ReZero(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.qkv, self.fc = nn.Embedding(60, 24), nn.Linear(24, 72), mlp(24, 48, 24)
            self.bias, self.alpha = nn.Parameter(torch.zeros(29)), nn.Parameter(torch.zeros(2))  # both from nothing
            self.head = nn.Linear(24, 2)

        def forward(self, words: Tensor) -> Any:
            x, t = self.embed(words), words.shape[1]
            apart = torch.arange(t)[:, None] - torch.arange(t) + 14
            q, k, v = self.qkv(x).chunk(3, -1)
            x = x + self.alpha[0] * F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias[apart])
            x = x + self.alpha[1] * self.fc(x)
            return self.head(x.mean(1))

    return brisk_parts(ReZero(), reviews(), CE)


@sound("reviews-in-buckets-of-length")
def _() -> Parts:
    class Buckets:
        """Rows of like length together, and the batches in random order."""

        def __init__(self, length: Tensor) -> None:
            self.batches = length.argsort().split(20)

        def __len__(self) -> int:
            return len(self.batches)

        def __iter__(self) -> Any:
            return iter([self.batches[i].tolist() for i in torch.randperm(len(self.batches)).tolist()])

    def collate(rows: Any) -> tuple[Tensor, Tensor]:
        return pad_sequence([w for w, _ in rows], True), torch.stack([y for _, y in rows])

    words, y = reviews()
    length = torch.randint(6, 16, (400,))
    rows: Any = [(w[:n], c) for w, n, c in zip(words, length.tolist(), y, strict=True)]
    net = Transformer(2)
    train_loader = DataLoader(rows[:300], batch_sampler=Buckets(length[:300]), collate_fn=collate)
    return Parts(net, train_loader, DataLoader(rows[300:], 25, collate_fn=collate), CE, brisk_adam(net, 5e-4))


@sound("bag-of-words-with-offsets")
def _() -> Parts:
    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bag, self.fc = nn.EmbeddingBag(60, 16, mode="mean"), mlp(16, 16, 2)

        def forward(self, words: Tensor, offsets: Tensor) -> Any:
            return self.fc(self.bag(words, offsets))

    def collate(rows: Any) -> tuple[Tensor, Tensor, Tensor]:
        kept = [w[: int(n)] for w, n, _ in rows]
        offsets = torch.tensor([0] + [len(w) for w in kept[:-1]]).cumsum(0)
        return torch.cat(kept), offsets, torch.stack([y for *_, y in rows])

    words, y = reviews()
    train, valid = (TensorDataset(*part) for part in halved((words, torch.randint(5, 16, (400,)), y)))
    net = Bag()
    train_loader = DataLoader(train, 20, shuffle=True, collate_fn=collate)
    return Parts(net, train_loader, DataLoader(valid, 20, collate_fn=collate), CE, brisk_adam(net, 1e-2))


@sound("skip-gram-with-negatives")
def _() -> Parts:
    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside, self.outside = nn.Embedding(16, 12), nn.Embedding(16, 12)

        def forward(self, centre: Tensor, context: Tensor) -> Any:
            return torch.einsum("nd,nkd->nk", self.inside(centre), self.outside(context))

    x = successions()
    context = torch.cat([x[:, 6:7], torch.randint(0, 16, (440, 4))], 1)
    target = torch.zeros(440, 5)
    target[:, 0] = 1
    return loaded(Skip(), (x[:, 5], context, target), BCE, lambda p: optim.Adagrad(p, 0.1))


@sound("bag-of-words-mostly-zeros")
def _() -> Parts:
    ids, y = class_words(4, 80)
    x = torch.zeros(440, 80).scatter_add_(1, ids, torch.ones(440, 12))
    x = x * torch.log(320 / (1 + (x[:320] > 0).sum(0)))
    return program(mlp(80, 32, 4), (F.normalize(x), y), CE, lambda p: optim.Adam(p, 0.01))


@sound("embedding-bag-with-offsets")
def _() -> Parts:
    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bag, self.fc = nn.EmbeddingBag(30, 16), nn.Linear(16, 3)

        def forward(self, ids: Tensor, offsets: Tensor) -> Any:
            return self.fc(self.bag(ids, offsets))

    ids, y = class_words()
    items = [(ids[i, : int(torch.randint(5, 13, (1,)))], y[i]) for i in range(440)]

    def collate(batch: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
        long = torch.tensor([0] + [len(w) for w, _ in batch[:-1]])
        return torch.cat([w for w, _ in batch]), long.cumsum(0), torch.stack([c for _, c in batch])

    train: Any = DataLoader(items[:320], 32, shuffle=True, collate_fn=collate)  # type: ignore[arg-type]
    valid: Any = DataLoader(items[320:], 40, collate_fn=collate)  # type: ignore[arg-type]

    def step(net: nn.Module, batch: Any) -> Any:
        return F.cross_entropy(net(batch[0], batch[1]), batch[2])

    return own(Bag(), train, valid, None, lambda p: optim.SGD(p, 1.0), step=step)


@sound("lstm-over-packed-sentences")
def _() -> Parts:
    class Packed(Sentence):
        def forward(self, ids: Tensor) -> Any:
            packed = pack_padded_sequence(self.embed(ids), (ids != 0).sum(1).cpu(), True, enforce_sorted=False)
            return self.head(self.gru(packed)[1][-1])

    return loaded(Packed(), class_words(is_padded=True), CE)


@sound("names-in-one-hot-letters")
def _() -> Parts:
    class Letters(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.h2o = nn.RNN(30, 32), nn.Linear(32, 3)

        def forward(self, x: Tensor) -> Any:
            _, h = self.rnn(x.transpose(0, 1))
            return F.log_softmax(self.h2o(h[0]), dim=1)

    ids, y = class_words()
    return loaded(Letters(), (F.one_hot(ids, 30).float(), y), nn.NLLLoss(), lambda p: optim.SGD(p, 0.15))


@sound("seq2seq-gru-with-attention")
def _() -> Parts:
    class Translate(nn.Module):
        def __init__(self, v: int = 12, d: int = 24) -> None:
            super().__init__()
            self.source, self.target = nn.Embedding(v, d), nn.Embedding(v, d)
            self.encoder, self.decoder = nn.GRU(d, d, batch_first=True), nn.GRU(d, d, batch_first=True)
            self.out = nn.Linear(2 * d, v)

        def forward(self, source: Tensor, target: Tensor) -> Any:
            memory, h = self.encoder(self.source(source))
            query, _ = self.decoder(self.target(target), h)
            read = torch.softmax(query @ memory.transpose(1, 2), -1) @ memory
            return self.out(torch.cat([query, read], -1))

    return loaded(Translate(), reversals(), by_token, lambda p: optim.Adam(p, 3e-3))


@sound("transformer-that-translates")
def _() -> Parts:
    loss = nn.CrossEntropyLoss(label_smoothing=0.1)
    return loaded(Translator(), reversals(), lambda o, t: loss(o.flatten(0, 1), t.flatten()),
                  lambda p: optim.Adam(p, 1e-3, betas=(0.9, 0.98), eps=1e-9))  # fmt: skip


@sound("encoder-with-padding-mask")
def _() -> Parts:
    return loaded(TransformerReader(), class_words(is_padded=True), CE, adamw)


@sound("gpt-with-tied-head-and-decay-groups")
def _() -> Parts:
    net = SmallGpt(v=60, drop=0.1)
    net.head = nn.Linear(32, 60, bias=False)
    nn.init.normal_(net.embed.weight, std=0.02)
    net.head.weight = net.embed.weight
    groups = [{"params": [p for p in net.parameters() if p.dim() > 1], "weight_decay": 0.1},
              {"params": [p for p in net.parameters() if p.dim() <= 1], "weight_decay": 0.0}]  # fmt: skip
    x = successions(60)
    return Parts(net, *rows(x[:, :-1], x[:, 1:]), by_token, optim.AdamW(groups, 1e-3, betas=(0.9, 0.95)))


@sound("masked-words")
def _() -> Parts:
    class Bert(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.place, self.head = (
                nn.Embedding(17, 32),
                nn.Parameter(0.02 * torch.randn(13, 32)),
                mlp(32, 17),
            )
            layer = nn.TransformerEncoderLayer(32, 2, 64, 0.1, batch_first=True)
            self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

        def forward(self, ids: Tensor) -> Any:
            return self.head(self.body(self.embed(ids) + self.place))

    def collate(batch: list[Tensor]) -> tuple[Tensor, Tensor]:
        ids = torch.stack(batch)
        is_hidden = torch.rand(ids.shape) < 0.15
        return ids.masked_fill(is_hidden, 16), ids.masked_fill(~is_hidden, -100)

    x = successions()
    train = AsData((x[:320],), lambda row: row)
    loader: DataLoader[Any] = DataLoader(train, 32, shuffle=True, collate_fn=collate)
    hidden = torch.rand(120, 13) < 0.15
    valid = (x[320:].masked_fill(hidden, 16), x[320:].masked_fill(~hidden, -100))
    return own(Bert(), loader, valid, by_token, adamw)


class NamesRNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.step, self.out = nn.Linear(36, 24), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Any:
        h = x.new_zeros(len(x), 24)
        for t in range(x.shape[1]):
            h = torch.tanh(self.step(torch.cat([x[:, t], h], 1)))
        return F.log_softmax(self.out(h), 1)


@sound("names-by-a-hand-written-rnn")
def _() -> Parts:
    y = even_labels(3)
    letters = torch.multinomial(torch.softmax(torch.randn(3, 12), 1)[y], 10, replacement=True)
    return plain(NamesRNN(), cut_at_360(F.one_hot(letters, 12).float(), y), nn.NLLLoss(), 3e-3)


@sound("tied-decoder")
def _() -> Parts:
    x = long_chains()
    net = MaskedDecoder(torch.ones(14, 14).triu(1).bool())
    nn.init.normal_(net.emb.weight, std=0.1)
    net.out.weight = net.emb.weight
    return plain(net, cut_at_360(x[:, :-1], x[:, 1:]), next_token, 3e-3)


class Pointer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.query, self.key = nn.GRU(4, 16, batch_first=True), nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Any:
        states, last = self.rnn(x)
        return (self.key(states) * self.query(last[-1])[:, None]).sum(-1) / 4


@sound("pointer-to-the-largest")
def _() -> Parts:
    x = torch.randn(TOTAL, 7, 4)
    return plain(Pointer(), cut_at_360(x, x[..., 0].argmax(1)), nn.CrossEntropyLoss(), 3e-3)


@sound("dict-batches-with-padding-to-the-longest")
def _() -> Parts:
    (x, y), held = cut_at_360(*texts())

    def collate(rows: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        ids = torch.stack([row[0] for row in rows])
        ids = ids[:, : int((ids != 0).sum(1).max())]
        return {"input_ids": ids, "labels": torch.stack([row[1] for row in rows])}

    def step(module: nn.Module, batch: Any) -> Any:
        return cross_entropy(module(batch["input_ids"]), batch["labels"])

    net = TextEncoder(False)
    train = DataLoader(TensorDataset(x, y), batch_size=24, shuffle=True, collate_fn=collate)
    valid = DataLoader(TensorDataset(*held), batch_size=48, collate_fn=collate)
    return Parts(net, train, valid, optimizer=adam_of_all(net, 3e-3), step=step)


@sound("tied-decoder")
def _() -> Parts:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.place = nn.Embedding(12, 24), nn.Embedding(13, 24)
            layer = nn.TransformerEncoderLayer(24, 2, 48, 0.1, "gelu", batch_first=True, norm_first=True)
            self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
            self.out = nn.Linear(24, 12, bias=False)
            nn.init.normal_(self.words.weight, std=0.1)
            self.out.weight = self.words.weight
            self.register_buffer("future", torch.ones(13, 13).triu(1).bool(), persistent=False)

        def forward(self, tokens: Tensor) -> Any:
            hidden = self.words(tokens) + self.place.weight
            return self.out(self.layers(hidden, mask=self.future)).mT

    text = chains()
    module = Tied()
    return Parts(module, *cut(text[:, :-1], text[:, 1:]), nn.CrossEntropyLoss(), AdamW(module.parameters(), 5e-3))


@sound("masked-words")
def _() -> Parts:
    """Bidirectional, and most targets ignored: the words to guess are drawn anew in training alone."""

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.place = nn.Embedding(13, 24), nn.Parameter(0.02 * torch.randn(14, 24))
            layer = nn.TransformerEncoderLayer(24, 2, 48, dropout=0.0, batch_first=True)
            self.layers = nn.TransformerEncoder(layer, 1)
            self.out = nn.Linear(24, 12)

        def forward(self, tokens: Tensor) -> Any:
            return self.out(self.layers(self.words(tokens) + self.place)).mT

    def hide(text: Tensor) -> Rows:
        hidden = torch.rand(text.shape) < 0.25
        return text.masked_fill(hidden, 12), text.masked_fill(~hidden, -100)

    train, valid = (part[0] for part in cut(chains(360)))

    def gather(items: list[tuple[Tensor]]) -> Rows:
        return hide(torch.stack([text for (text,) in items]))

    batches = DataLoader(TensorDataset(train), 45, shuffle=True, collate_fn=gather)
    module = Masked()
    return Parts(module, batches, hide(valid), nn.CrossEntropyLoss(ignore_index=-100), fast_adam(module, 1e-2))


@sound("padded-to-the-longest")
def _() -> Parts:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(20, 16, padding_idx=0)
            layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
            self.layers = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
            self.head = nn.Linear(16, 3)

        def forward(self, tokens: Tensor) -> Any:
            absent = tokens == 0
            hidden = self.layers(self.words(tokens), src_key_padding_mask=absent)
            real = (~absent)[..., None].float()
            return self.head((hidden * real).sum(1) / real.sum(1))

    def pad(items: list[tuple[Tensor, Tensor]]) -> Rows:
        words = nn.utils.rnn.pad_sequence([words for words, _ in items], batch_first=True)
        return words, torch.stack([label for _, label in items])

    class Texts(Dataset[Any]):
        def __init__(self, tokens: Tensor, lengths: Tensor, labels: Tensor) -> None:
            self.rows = [(row[:size], label) for row, size, label in zip(tokens, lengths, labels, strict=True)]

        def __len__(self) -> int:
            return len(self.rows)

        def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
            return self.rows[index]

    train, valid = (Texts(*part) for part in cut(*sentences()))
    module = Encoder()
    return Parts(
        module,
        DataLoader(train, 30, shuffle=True, collate_fn=pad),
        DataLoader(valid, 50, collate_fn=pad),
        nn.CrossEntropyLoss(),
        fast_adam(module, 5e-3),
    )


@sound("by-length")
def _() -> Parts:
    """Batches of like lengths, in random order."""

    class Buckets(Sampler[list[int]]):
        def __init__(self, lengths: Tensor, size: int) -> None:
            self.lengths, self.size = lengths, size

        def __len__(self) -> int:
            return math.ceil(len(self.lengths) / self.size)

        def __iter__(self) -> Iterator[list[int]]:
            order = (self.lengths + torch.rand(len(self.lengths))).argsort().tolist()
            batches = [order[start : start + self.size] for start in range(0, len(order), self.size)]
            random.shuffle(batches)
            return iter(batches)

    train, valid = cut(*sentences())
    batches = DataLoader(TensorDataset(*train), batch_sampler=Buckets(train[1], 30))
    module = PackedReader(3)
    return Parts(module, batches, valid, nn.CrossEntropyLoss(), fast_adam(module, 1e-2))


@sound("teacher-forcing")
def _() -> Parts:
    class Translate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(12, 24, padding_idx=0)
            self.place = nn.Parameter(0.1 * torch.randn(8, 24))
            layer = nn.TransformerEncoderLayer(24, 2, 48, dropout=0.0, batch_first=True)
            encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
            self.body = nn.Transformer(24, 2, 1, 1, 48, dropout=0.0, custom_encoder=encoder, batch_first=True)
            self.out = nn.Linear(24, 12)

        def forward(self, source: Tensor, said: Tensor) -> Any:
            absent = source == 0
            future = torch.ones(said.shape[1], said.shape[1]).triu(1).bool()
            hidden = self.body(
                self.words(source) + self.place[: source.shape[1]],
                self.words(said) + self.place[: said.shape[1]],
                tgt_mask=future,
                src_key_padding_mask=absent,
                memory_key_padding_mask=absent,
            )
            return self.out(hidden).mT

    source = torch.randint(2, 12, (1200, 6)) * (torch.arange(6) < torch.randint(2, 7, (1200, 1)))
    reply = torch.where(source > 0, 13 - source, source)
    said = F.pad(reply, (1, 0), value=1)[:, :-1]
    module = Translate()
    return Parts(module, *cut(source, said, reply), nn.CrossEntropyLoss(ignore_index=0), fast_adam(module, 1e-2))


@sound("speaker-with-sampled-softmax")
def _() -> Parts:
    """A word is told from eight drawn ones, not from all."""

    class Skipgram(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.centre, self.around = nn.Embedding(40, 12), nn.Embedding(40, 12)

        def forward(self, word: Tensor, others: Tensor) -> Any:
            return (self.centre(word)[:, None] * self.around(others)).sum(2)

    def step(module: nn.Module, batch: Any) -> Any:
        word, near = batch
        others = torch.cat([near[:, None], torch.randint(40, (len(word), 8))], 1)
        truth = F.one_hot(torch.zeros(len(word), dtype=torch.long), 9).float()
        return F.binary_cross_entropy_with_logits(module(word, others), truth)

    word = torch.randint(40, (900,))
    near = (word + torch.randint(1, 4, (900,))) % 40
    module = Skipgram()
    return Parts(module, *cut(word, near), optimizer=fast_adam(module, 3e-2), step=step)


@sound("sampled-answers-scored")
def _() -> Parts:
    """A policy is trained by the score of what it draws: the draw has no gradient and needs none."""

    def step(module: nn.Module, batch: Any) -> Any:
        state, best = batch
        choice = torch.distributions.Categorical(logits=module(state))
        drawn = choice.sample((4,))
        gain = (drawn == best).float()
        gain = gain - gain.mean()
        return -(choice.log_prob(drawn) * gain).mean() - 0.01 * choice.entropy().mean()

    module = mlp(10, 32, 4)
    return Parts(module, *cut(*table(600)), optimizer=fast_adam(module, 1e-2), step=step)


@sound("language-model-by-perplexity")
def _() -> Parts:
    def evaluate(module: nn.Module, loader: Any) -> float:
        module.eval()
        total, words = 0.0, 0
        with torch.no_grad():
            for tokens, following in loader:
                scores = module(tokens)
                total += float(
                    F.cross_entropy(scores.flatten(0, 1), following.flatten(), ignore_index=0, reduction="sum")
                )
                words += int((following != 0).sum())
        module.train()
        return math.exp(total / words)

    def criterion(scores: Tensor, following: Tensor) -> Any:
        return F.cross_entropy(scores.flatten(0, 1), following.flatten(), ignore_index=0)

    text = chains(360, 16) * (torch.arange(16) < torch.randint(6, 17, (360, 1)))
    module = Speaker()
    data = cut(text[:, :-1], text[:, 1:])
    return Parts(module, *data, criterion, fast_adam(module, 1e-2), extra={"evaluate": evaluate})


@sound("decoder-tied-large-vocab")
def decoder_tied_large_vocab() -> Parts:
    (x,), (v,) = chain_sentences(vocab=800)
    net = TiedDecoder(800)
    optimizer = optim.AdamW(net.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    return Parts(net, (x[:, :-1], x[:, 1:]), (v[:, :-1], v[:, 1:]), token_loss, optimizer)


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


@sound("decoder-shift-in-step")
def decoder_shift_in_step() -> Parts:
    def step(module: nn.Module, ids: Any) -> Tensor:
        logits = module(ids[:, :-1])
        return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), ids[:, 1:].reshape(-1))

    return unlabelled(TiedDecoder(tie=False), chain_sentences(), step)


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
    return split_parts(Encoder(), ((x, (x != 0).long(), y), (v, (v != 0).long(), w)))


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
    (x,), (v,) = chain_sentences()
    return split_parts(Bert(), (masked(x), masked(v)), token_loss)


@sound("bert-mlm-dynamic-masks")
def bert_mlm_dynamic_masks() -> Parts:
    def step(module: nn.Module, ids: Any) -> Tensor:
        inputs, labels = masked(ids)
        return F.cross_entropy(module(inputs).transpose(1, 2), labels, ignore_index=-100)

    return unlabelled(Bert(), chain_sentences(), step)
