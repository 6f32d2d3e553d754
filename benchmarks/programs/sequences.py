"""Scripts on text, series, graphs, streams and episodes."""

import math
from collections.abc import Iterator
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau
from torch.utils.data import DataLoader, IterableDataset

import luthier
from benchmarks.programs.common import EXACT, Program, Rows, batches, pictures, singles, walk

Loader = Any


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.drop, self.embed = nn.Dropout(0.2), nn.Embedding(20, 16)
        self.lstm, self.out = nn.LSTM(16, 16, 2, dropout=0.2), nn.Linear(16, 20)

    def forward(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        h, state = self.lstm(self.drop(self.embed(tokens)), state)
        return F.log_softmax(self.out(self.drop(h)).flatten(0, 1), 1), state


def word_language_model() -> Program:
    def parts() -> tuple[Any, ...]:
        loaders: list[Loader] = []
        for seed, n in ((0, 500), (1, 200)):
            text = walk(n, 20, seed).view(5, -1).T
            cuts = [text[i : i + 8] for i in range(0, len(text) - 1, 7)]
            loaders.append(singles([(cut[:-1], cut[1:].flatten()) for cut in cuts if len(cut) > 1]))
        return Words(), *loaders

    def plain(net: nn.Module, train: Loader, valid: Loader) -> Rows:
        lr, best, rows = 5.0, math.inf, []
        for _ in range(4):
            net.train()
            total, n, state = 0.0, 0, None
            for x, y in train:
                net.zero_grad()
                if state is not None:
                    state = tuple(part.detach() for part in state)
                output, state = net(x, state)
                loss = F.nll_loss(output, y)
                loss.backward()
                nn.utils.clip_grad_norm_(net.parameters(), 0.25)
                for p in net.parameters():
                    p.data.add_(p.grad, alpha=-lr)  # type: ignore[arg-type]
                total, n = total + loss.item() * len(x), n + len(x)
            net.eval()
            test, tested, state = 0.0, 0, None
            with torch.no_grad():
                for x, y in valid:
                    output, state = net(x, state)
                    test += len(x) * F.nll_loss(output, y).item()
                    tested += len(x)
            rows.append({"train_loss": total / n, "valid_loss": test / tested, "lr": lr})
            if test / tested < best:
                best = test / tested
            else:
                lr /= 4
        return rows

    def ours(net: nn.Module, train: Loader, valid: Loader) -> luthier.Result:
        class Carry(luthier.Callback):
            state: Any = None

            def on_epoch_start(self, run: luthier.View) -> None:
                self.state = None

            on_validation_start = on_epoch_start

            def step(self, module: nn.Module, batch: Any) -> Any:
                x, y = batch
                state = None if self.state is None else tuple(part.detach() for part in self.state)
                output, self.state = module(x, state)
                return {"loss": F.nll_loss(output, y), "count": len(x)}

        carry, optimizer = Carry(), torch.optim.SGD(net.parameters(), lr=5.0)
        plateau = ReduceLROnPlateau(optimizer, factor=0.25, patience=0, threshold=0.0)
        return luthier.fit(
            net, train, valid, step=carry.step, callbacks=[carry], optimizer=optimizer, scheduler=plateau,
            clip_norm=0.25, epochs=4, **EXACT,
        )  # fmt: skip

    return Program("pytorch/examples, word_language_model/main.py", parts, plain, ours)


class Waves(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.out = nn.LSTMCell(1, 8), nn.LSTMCell(8, 8), nn.Linear(8, 1)

    def forward(self, x: Tensor, future: int = 0) -> Tensor:
        a: Any = None
        b: Any = None
        answers: list[Tensor] = []
        for t in range(x.shape[1] + future):
            a = self.one(x[:, t : t + 1] if t < x.shape[1] else answers[-1], a)
            b = self.two(a[0], b)
            answers.append(self.out(b[0]))
        return torch.cat(answers, 1)


def time_sequence_prediction() -> Program:
    def parts() -> tuple[Any, ...]:
        t = torch.arange(24, dtype=torch.float64) / 3 + torch.arange(10, dtype=torch.float64)[:, None]
        wave = torch.sin(t)
        return Waves().double(), (wave[3:, :-1], wave[3:, 1:]), (wave[:3, :-1], wave[:3, 1:])

    def plain(net: nn.Module, train: Any, valid: Any) -> Rows:
        optimizer = torch.optim.LBFGS(net.parameters(), lr=0.8, max_iter=8)
        rows = []
        for _ in range(3):

            def closure() -> Tensor:
                optimizer.zero_grad()
                loss = F.mse_loss(net(train[0]), train[1])
                loss.backward()
                return loss

            first = optimizer.step(closure)
            with torch.no_grad():
                test = F.mse_loss(net(valid[0], future=5)[:, :-5], valid[1])
            rows.append({"train_loss": float(first.detach()), "valid_loss": test.item()})
        return rows

    def ours(net: nn.Module, train: Any, valid: Any) -> luthier.Result:
        def step(module: nn.Module, batch: Any) -> Tensor:
            x, y = batch
            return F.mse_loss(module(x) if module.training else module(x, future=5)[:, :-5], y)

        return luthier.fit(
            net, train, valid, step=step, optimizer="LBFGS", lr=0.8, optimizer_args={"max_iter": 8},
            batch_size=len(train[0]), shuffle=False, epochs=3, **EXACT,
        )  # fmt: skip

    return Program("pytorch/examples, time_sequence_prediction/train.py", parts, plain, ours)


class Graph(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.drop = nn.Linear(12, 16, bias=False), nn.Linear(16, 3, bias=False), nn.Dropout(0.5)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        h = self.drop(F.relu(edges @ self.one(x)))
        return F.log_softmax(edges @ self.two(h), 1)


def gcn() -> Program:
    def parts() -> tuple[Any, ...]:
        x, y = pictures(60, 3, 12)
        near = (torch.rand(60, 60) < 0.05) | torch.eye(60, dtype=torch.bool)
        edges = (near / near.sum(1, keepdim=True)).to_sparse()
        order = torch.randperm(60)
        return Graph(), *(singles([(x, edges, y, rows)]) for rows in (order[:30], order[30:45]))

    def plain(net: nn.Module, train: Loader, valid: Loader) -> Rows:
        optimizer = torch.optim.Adam(net.parameters(), lr=0.01, weight_decay=5e-4)
        rows = []
        for _ in range(10):
            net.train()
            for x, edges, y, learned in train:
                optimizer.zero_grad()
                loss = F.nll_loss(net(x, edges)[learned], y[learned])
                loss.backward()
                optimizer.step()
            net.eval()
            with torch.no_grad():
                for x, edges, y, held_out in valid:
                    output = net(x, edges)[held_out]
                    row = {"train_loss": loss.item(), "valid_loss": F.nll_loss(output, y[held_out]).item()}
                    row["valid_accuracy"] = (output.argmax(1) == y[held_out]).sum().item() / len(held_out)
            rows.append(row)
        return rows

    def ours(net: nn.Module, train: Loader, valid: Loader) -> luthier.Result:
        def step(module: nn.Module, batch: Any) -> Any:
            x, edges, y, chosen = batch
            output = module(x, edges)[chosen]
            loss = F.nll_loss(output, y[chosen])
            return {"loss": loss, "outputs": output, "targets": y[chosen], "count": len(chosen)}

        return luthier.fit(
            net, train, valid, step=step, metrics=["accuracy"], epochs=10, **EXACT,
            optimizer="Adam", lr=0.01, weight_decay=5e-4,
        )  # fmt: skip

    return Program(
        "pytorch/examples, gcn/main.py", parts, plain, ours,
        "a graph is one batch: it needs a DataLoader of one item, in the plain loop too, as that draws a seed an epoch",
    )  # fmt: skip


class Powers(IterableDataset[Any]):
    """Batches without end, drawn from torch's generator."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        weights = torch.linspace(-5, 5, 4)
        while True:
            x = torch.randn(32)[:, None] ** torch.arange(1, 5)
            yield x, x @ weights[:, None] + 2.0


def regression() -> Program:
    def parts() -> tuple[Any, ...]:
        return nn.Linear(4, 1), singles(Powers())

    def plain(net: nn.Linear, train: Loader) -> Rows:
        total = 0.0
        for done, (x, y) in zip(count(1), train, strict=False):
            net.zero_grad()
            loss = F.smooth_l1_loss(net(x), y)
            loss.backward()
            for p in net.parameters():
                p.data.add_(p.grad, alpha=-0.1)  # type: ignore[arg-type]
            total += loss.item()
            if loss.item() < 0.5 or done == 300:
                break
        return [{"train_loss": total / done}]

    def ours(net: nn.Linear, train: Loader) -> luthier.Result:
        class Enough(luthier.Callback):
            loss = math.inf

            def on_forward_end(self, run: luthier.View) -> None:
                assert run.passed is not None
                self.loss = run.passed.loss.item()

            def on_step_end(self, run: luthier.View) -> luthier.Stop | None:
                return luthier.Stop("the loss is small") if self.loss < 0.5 else None

        return luthier.fit(
            net, train, criterion="SmoothL1Loss", optimizer="SGD", lr=0.1, max_steps=300, callbacks=[Enough()], **EXACT
        )

    return Program("pytorch/examples, regression/main.py", parts, plain, ours)


class Corridor:
    """Seven places in a row; the right end pays one and ends the episode, so does the 20th move."""

    def reset(self) -> Tensor:
        self.place, self.moves = 3, 0
        return self.seen()

    def seen(self) -> Tensor:
        return F.one_hot(torch.tensor(self.place), 7).float()

    def move(self, action: int) -> tuple[Tensor, float, bool]:
        self.place, self.moves = max(0, min(6, self.place + 2 * action - 1)), self.moves + 1
        return self.seen(), float(self.place == 6), self.place == 6 or self.moves == 20


def episode(policy: nn.Module, world: Corridor) -> tuple[Tensor, float]:
    """Play an episode; return the loss of REINFORCE and the rewards' sum."""
    seen, done, chances, rewards = world.reset(), False, list[Tensor](), list[float]()
    while not done:
        choice = torch.distributions.Categorical(policy(seen).softmax(0))
        action = choice.sample()
        seen, reward, done = world.move(int(action))
        chances.append(choice.log_prob(action))
        rewards.append(reward)
    worth, returns = 0.0, list[float]()
    for reward in reversed(rewards):
        worth = reward + 0.99 * worth
        returns.insert(0, worth)
    gains = torch.tensor(returns)
    gains = (gains - gains.mean()) / (gains.std() + 1e-8)
    return -(torch.stack(chances) * gains).sum(), sum(rewards)


def reinforce() -> Program:
    def parts() -> tuple[Any, ...]:
        return (
            nn.Sequential(nn.Linear(7, 16), nn.Dropout(0.2), nn.ReLU(), nn.Linear(16, 2)),
            Corridor(),
            singles(range(40)),
        )

    def plain(policy: nn.Module, world: Corridor, episodes: Loader) -> Rows:
        optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)
        running = 0.5
        for _ in episodes:
            loss, reward = episode(policy, world)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            running = 0.05 * reward + 0.95 * running
            if running > 0.9:
                break
        return [{"running": running}]

    def ours(policy: nn.Module, world: Corridor, episodes: Loader) -> luthier.Result:
        class Running(luthier.Callback):
            figures = ("running",)
            running, reward = 0.5, 0.0

            def step(self, module: nn.Module, batch: Any) -> Tensor:
                loss, self.reward = episode(module, world)
                return loss

            def on_step_end(self, run: luthier.View) -> luthier.Stop | None:
                self.running = 0.05 * self.reward + 0.95 * self.running
                return luthier.Stop("solved") if self.running > 0.9 else None

            def on_validation_end(self, run: luthier.View) -> dict[str, float]:
                return {"running": self.running}

        watch = Running()
        return luthier.fit(
            policy, episodes, step=watch.step, callbacks=[watch], epochs=1, optimizer="Adam", lr=1e-2, **EXACT
        )

    return Program(
        "pytorch/examples, reinforce/reinforce.py", parts, plain, ours,
        "the data is a count of episodes that step plays; the checks, which call step too, play some of their own",
    )  # fmt: skip


class GPT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.places, self.drop = nn.Embedding(20, 16), nn.Embedding(8, 16), nn.Dropout(0.1)
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True, norm_first=True)
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 20, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        h = self.drop(self.embed(tokens) + self.places(torch.arange(tokens.shape[1])))
        answer: Tensor = self.head(self.body(h, mask=mask, is_causal=True))
        return answer


class Cuts(IterableDataset[Any]):
    """Batches cut out of a text at random places: `times` of them, or without end."""

    def __init__(self, text: Tensor, times: int | None) -> None:
        self.text, self.times = text, times

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for _ in count() if self.times is None else range(self.times):
            starts = torch.randint(len(self.text) - 8, (6,))
            yield (
                torch.stack([self.text[i : i + 8] for i in starts]),
                torch.stack([self.text[i + 1 : i + 9] for i in starts]),
            )


def nanogpt() -> Program:
    def rate(step: int) -> float:
        """Rise for 5 steps, then fall as a cosine until step 20."""
        if step < 5:
            return 6e-3 * (step + 1) / 6
        return 6e-4 + 0.5 * (1 + math.cos(math.pi * min(1.0, (step - 5) / 15))) * 5.4e-3

    def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def groups(parameters: Any) -> list[dict[str, Any]]:
        parameters = list(parameters)
        return [
            {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": 0.1},
            {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
        ]

    def parts() -> tuple[Any, ...]:
        return GPT(), singles(Cuts(walk(400, 20), None)), singles(Cuts(walk(200, 20, seed=1), 3))

    def plain(net: nn.Module, train: Loader, valid: Loader) -> Rows:
        optimizer = torch.optim.AdamW(groups(net.parameters()), lr=1.0, betas=(0.9, 0.95))
        stream, rows, total, n = iter(train), [], 0.0, 0
        net.train()
        for step in range(20):
            for group in optimizer.param_groups:
                group["lr"] = rate(step)
            for _ in range(2):
                x, y = next(stream)
                loss = cross_entropy(net(x), y) / 2
                loss.backward()
                total, n = total + loss.item() * 2 * len(x), n + len(x)
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if (step + 1) % 5 == 0:
                net.eval()
                losses = []
                with torch.no_grad():
                    for x, y in valid:
                        losses.append(cross_entropy(net(x), y).item())
                rows.append({"train_loss": total / n, "valid_loss": sum(losses) / len(losses), "lr": rate(step)})
                net.train()
        return rows

    def ours(net: nn.Module, train: Loader, valid: Loader) -> luthier.Result:
        optimizer = torch.optim.AdamW(groups(net.parameters()), lr=1.0, betas=(0.9, 0.95))
        return luthier.fit(
            net, train, valid, criterion=cross_entropy, optimizer=optimizer, scheduler=LambdaLR(optimizer, rate),
            scheduler_interval="step", accumulate=2, clip_norm=1.0, max_steps=20, valid_every_steps=5, **EXACT,
        )  # fmt: skip

    return Program(
        "karpathy/nanoGPT, train.py", parts, plain, ours,
        "evaluation before the first update, and of the train split too, only by a callback",
    )  # fmt: skip


class Translator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(12, 16, padding_idx=0), nn.Embedding(12, 16, padding_idx=0)
        self.encoder, self.decoder = nn.GRU(16, 16, batch_first=True), nn.GRU(32, 16, batch_first=True)
        self.out = nn.Linear(16, 12)

    def forward(self, source: Tensor, given: Tensor) -> Tensor:
        state = self.encoder(self.source(source))[1]
        context = state[-1][:, None].expand(-1, given.shape[1], -1)
        answer: Tensor = self.out(self.decoder(torch.cat([self.target(given), context], 2), state)[0])
        return answer


def d2l_seq2seq() -> Program:
    def masked(logits: Tensor, targets: Tensor, lengths: Tensor) -> Tensor:
        losses = F.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
        return (losses * (torch.arange(targets.shape[1]) < lengths[:, None])).mean(1).sum()

    def parts() -> tuple[Any, ...]:
        g = torch.Generator().manual_seed(3)
        source, lengths = torch.randint(2, 12, (64, 6), generator=g), torch.randint(2, 7, (64,), generator=g)
        source = source.masked_fill(torch.arange(6) >= lengths[:, None], 0)
        return Translator(), batches(source, source.flip(1), lengths, shuffle=True)

    def plain(net: nn.Module, train: Loader) -> Rows:
        optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
        rows = []
        for _ in range(4):
            net.train()
            total, tokens = 0.0, 0
            for source, targets, lengths in train:
                optimizer.zero_grad()
                given = F.pad(targets[:, :-1], (1, 0), value=1)
                loss = masked(net(source, given), targets, lengths)
                loss.backward()
                nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                optimizer.step()
                total, tokens = total + loss.item(), tokens + int(lengths.sum())
            rows.append({"train_per_token": total / tokens})
        return rows

    def ours(net: nn.Module, train: Loader) -> luthier.Result:
        def step(module: nn.Module, batch: Any) -> Any:
            source, targets, lengths = batch
            loss = masked(module(source, F.pad(targets[:, :-1], (1, 0), value=1)), targets, lengths)
            tokens = int(lengths.sum())
            return {"loss": loss, "count": tokens, "log": {"per_token": loss.item() / tokens}}

        return luthier.fit(net, train, step=step, optimizer="Adam", lr=5e-3, clip_norm=1.0, epochs=4, **EXACT)

    return Program(
        "d2l-ai/d2l-en, chapter_recurrent-modern/seq2seq.md", parts, plain, ours,
        "the loss is a sum: its figure per token goes by log, and train_loss means nothing",
    )  # fmt: skip


def run_glue() -> Program:
    from transformers import BertConfig, BertForSequenceClassification, get_scheduler

    def collate(items: list[Any]) -> dict[str, Tensor]:
        longest = max(len(text) for text, _ in items)
        ids = torch.stack([F.pad(text, (0, longest - len(text))) for text, _ in items])
        labels = torch.tensor([label for _, label in items])
        return {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": labels}

    def parts() -> tuple[Any, ...]:
        net = BertForSequenceClassification(BertConfig(
            vocab_size=24, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
            max_position_embeddings=16, num_labels=2, initializer_range=0.14,  # as wide as at BERT's width
        ))  # fmt: skip
        loaders: list[Loader] = []
        for seed, n in ((0, 64), (1, 24)):
            text = walk(n * 12, 20, seed).view(n, 12) + 2
            items = [(row[: 5 + i % 8], int(row[1] > row[0])) for i, row in enumerate(text)]
            loaders.append(DataLoader(items, 8, shuffle=seed == 0, collate_fn=collate))  # type: ignore[arg-type]
        return net, *loaders

    def groups(net: nn.Module) -> list[dict[str, Any]]:
        bare = ("bias", "LayerNorm.weight")
        named = list(net.named_parameters())
        return [
            {"params": [p for n, p in named if not n.endswith(bare)], "weight_decay": 0.01},
            {"params": [p for n, p in named if n.endswith(bare)], "weight_decay": 0.0},
        ]

    def plain(net: Any, train: Loader, valid: Loader) -> Rows:
        optimizer = torch.optim.AdamW(groups(net), lr=2e-3)
        steps = 3 * math.ceil(len(train) / 2)
        scheduler = get_scheduler("linear", optimizer, num_warmup_steps=3, num_training_steps=steps)
        rows = []
        for _ in range(3):
            net.train()
            total, n = 0.0, 0
            for i, batch in enumerate(train):
                loss = net(**batch).loss
                total, n = total + loss.item() * len(batch["labels"]), n + len(batch["labels"])
                (loss / 2).backward()
                if (i + 1) % 2 == 0 or i == len(train) - 1:
                    optimizer.step()
                    scheduler.step()
                    optimizer.zero_grad()
            net.eval()
            correct, tested = 0, 0
            with torch.no_grad():
                for batch in valid:
                    correct += int((net(**batch).logits.argmax(-1) == batch["labels"]).sum())
                    tested += len(batch["labels"])
            rows.append({"train_loss": total / n, "valid_accuracy": correct / tested})
        return rows

    def ours(net: Any, train: Loader, valid: Loader) -> luthier.Result:
        optimizer = torch.optim.AdamW(groups(net), lr=2e-3)
        steps = 3 * math.ceil(len(train) / 2)
        return luthier.fit(
            net, train, valid, criterion="CrossEntropyLoss", metrics=["accuracy"], optimizer=optimizer,
            scheduler=get_scheduler("linear", optimizer, num_warmup_steps=3, num_training_steps=steps),
            accumulate=2, epochs=3, **EXACT,
        )  # fmt: skip

    return Program(
        "huggingface/transformers, examples/pytorch/text-classification/run_glue_no_trainer.py", parts, plain, ours
    )


def run_mlm() -> Program:
    from transformers import BertConfig, BertForMaskedLM, get_scheduler

    def collate(texts: list[Tensor]) -> dict[str, Tensor]:
        ids = torch.stack(texts)
        hidden = torch.rand(ids.shape) < 0.15
        hidden[:, 0] = True  # so that none is without
        return {"input_ids": ids.masked_fill(hidden, 1), "labels": ids.masked_fill(~hidden, -100)}

    def parts() -> tuple[Any, ...]:
        net = BertForMaskedLM(BertConfig(
            vocab_size=24, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
            max_position_embeddings=16, initializer_range=0.14,
        ))  # fmt: skip
        loaders: list[Loader] = []
        for seed, n in ((0, 64), (1, 24)):
            texts: Any = list(walk(n * 12, 20, seed).view(n, 12) + 2)
            loaders.append(DataLoader(texts, 8, shuffle=seed == 0, collate_fn=collate))
        return net, *loaders

    def plain(net: Any, train: Loader, valid: Loader) -> Rows:
        optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.0)
        scheduler = get_scheduler("linear", optimizer, num_warmup_steps=4, num_training_steps=3 * len(train))
        rows = []
        for _ in range(3):
            net.train()
            total = 0.0
            for batch in train:
                loss = net(**batch).loss
                total += loss.detach().item()
                loss.backward()
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
            net.eval()
            losses = []
            for batch in valid:
                with torch.no_grad():
                    losses.append(net(**batch).loss.repeat(len(batch["labels"])))
            mean = torch.cat(losses).double().mean().item()
            row = {"train_loss": total / len(train), "valid_loss": mean, "perplexity": math.exp(mean)}
            rows.append(row)
        return rows

    def ours(net: Any, train: Loader, valid: Loader) -> luthier.Result:
        class Perplexity(luthier.Callback):
            figures = ("perplexity",)

            def on_validation_end(self, run: luthier.View) -> dict[str, float]:
                return {"perplexity": math.exp(run.figures["valid_loss"])}

        def step(module: nn.Module, batch: Any) -> Any:
            return module(**batch).loss, len(batch["labels"])

        optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.0)
        return luthier.fit(
            net, train, valid, step=step, callbacks=[Perplexity()], optimizer=optimizer, epochs=3, **EXACT,
            scheduler=get_scheduler("linear", optimizer, num_warmup_steps=4, num_training_steps=3 * len(train)),
        )  # fmt: skip

    return Program(
        "huggingface/transformers, examples/pytorch/language-modeling/run_mlm_no_trainer.py", parts, plain, ours
    )


PROGRAMS = [
    word_language_model, time_sequence_prediction, gcn, regression, reinforce, nanogpt, d2l_seq2seq, run_glue, run_mlm,
]  # fmt: skip
