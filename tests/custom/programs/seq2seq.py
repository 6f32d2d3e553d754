"""A GRU encoder and decoder with random teacher forcing (pytorch tutorials, seq2seq; bentrevett/pytorch-seq2seq)."""

import random
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence
from torch.utils.data import DataLoader, Dataset

import luthier
from tests.custom.programs import Outcome, seed_everything

PAD, START, END = 0, 1, 2


class Reversals(Dataset[tuple[Tensor, Tensor]]):
    """Words of letters 3 to 12 and their reversals."""

    def __init__(self, n: int) -> None:
        chance = random.Random(3)
        self.words = [[chance.randrange(3, 13) for _ in range(chance.randrange(3, 8))] for _ in range(n)]

    def __len__(self) -> int:
        return len(self.words)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        word = self.words[index]
        return torch.tensor([*word, END]), torch.tensor([*reversed(word), END])


def collate(pairs: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    sources, targets = zip(*pairs, strict=True)
    lengths = torch.tensor([len(source) for source in sources])
    return pad_sequence(list(sources), True, PAD), lengths, pad_sequence(list(targets), True, PAD)


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(13, 24, padding_idx=PAD)
        self.dropout, self.gru = nn.Dropout(0.1), nn.GRU(24, 32, batch_first=True)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        packed = pack_padded_sequence(self.dropout(self.embedding(x)), lengths, True, enforce_sorted=False)
        outputs, hidden = self.gru(packed)
        return pad_packed_sequence(outputs, True)[0], hidden


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.gru, self.out = nn.Embedding(13, 24), nn.GRU(56, 32, batch_first=True), nn.Linear(32, 13)

    def forward(self, token: Tensor, hidden: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        scores = memory @ hidden[-1][:, :, None]
        context = (scores.softmax(1) * memory).sum(1, keepdim=True)
        output, hidden = self.gru(torch.cat([self.embedding(token)[:, None], context], 2), hidden)
        return self.out(output[:, 0]), hidden


def plain() -> Outcome:
    torch.manual_seed(0)
    encoder, decoder = Encoder(), Decoder()
    optimizer_e, optimizer_d = (optim.Adam(net.parameters(), lr=5e-3) for net in (encoder, decoder))
    criterion = nn.CrossEntropyLoss(ignore_index=PAD)
    loader = DataLoader(Reversals(180), batch_size=16, shuffle=True, collate_fn=collate)
    seed_everything(0)
    rows = []

    for epoch in range(2):
        ratio = 1.0 - 0.25 * epoch
        total, tokens = 0.0, 0
        for source, lengths, target in loader:
            optimizer_e.zero_grad()
            optimizer_d.zero_grad()
            memory, hidden = encoder(source, lengths)
            token = torch.full((len(source),), START)
            logits = []
            for t in range(target.shape[1]):
                output, hidden = decoder(token, hidden, memory)
                logits.append(output)
                token = target[:, t] if random.random() < ratio else output.argmax(1)
            loss = criterion(torch.stack(logits, 2), target)
            loss.backward()
            nn.utils.clip_grad_norm_([*encoder.parameters(), *decoder.parameters()], 1.0)
            optimizer_e.step()
            optimizer_d.step()
            n = int((target != PAD).sum())
            total, tokens = total + loss.item() * n, tokens + n
        rows.append({"loss": total / tokens})
    return {"encoder": encoder.state_dict(), "decoder": decoder.state_dict()}, rows


def with_run(folder: Path, **settings: Any) -> Outcome:
    torch.manual_seed(0)
    encoder, decoder = Encoder(), Decoder()
    optimizer_e, optimizer_d = (optim.Adam(net.parameters(), lr=5e-3) for net in (encoder, decoder))
    criterion = nn.CrossEntropyLoss(ignore_index=PAD)
    loader = DataLoader(Reversals(180), batch_size=16, shuffle=True, collate_fn=collate)

    with luthier.run(
        folder, encoder=encoder, decoder=decoder, optimizer_e=optimizer_e, optimizer_d=optimizer_d, loader=loader,
        seed=0, **settings,
    ) as run:  # fmt: skip
        for epoch in run.epochs(2):
            ratio = 1.0 - 0.25 * epoch
            for source, lengths, target in run.batches(loader):
                optimizer_e.zero_grad()
                optimizer_d.zero_grad()
                memory, hidden = encoder(source, lengths)
                token = torch.full((len(source),), START)
                logits = []
                for t in range(target.shape[1]):
                    output, hidden = decoder(token, hidden, memory)
                    logits.append(output)
                    token = target[:, t] if random.random() < ratio else output.argmax(1)
                loss = criterion(torch.stack(logits, 2), target)
                loss.backward()
                nn.utils.clip_grad_norm_([*encoder.parameters(), *decoder.parameters()], 1.0)
                optimizer_e.step()
                optimizer_d.step()
                run.log(loss=loss, count=int((target != PAD).sum()))
    return {"encoder": encoder.state_dict(), "decoder": decoder.state_dict()}, run.record.epochs
