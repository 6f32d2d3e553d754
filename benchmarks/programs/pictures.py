"""Scripts on pictures: classes, pixels, boxes, and pictures made."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, ReduceLROnPlateau, SequentialLR, StepLR

import luthier
from benchmarks.programs.common import EXACT, Program, Rows, batches, pictures

Loader = Any


def small_convnet(k: int = 10) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.25), nn.Flatten(),
        nn.Linear(8 * 5 * 5, k),
    )  # fmt: skip


def digits() -> tuple[Loader, Loader]:
    return batches(*pictures(120, 10, 1, 12, 12), shuffle=True), batches(*pictures(50, 10, 1, 12, 12, seed=1), size=25)


def mnist() -> Program:
    def parts() -> tuple[Any, ...]:
        return nn.Sequential(small_convnet(), nn.LogSoftmax(1)), *digits()

    def plain(net: nn.Module, train: Loader, valid: Loader) -> Rows:
        optimizer = torch.optim.Adadelta(net.parameters(), lr=1.0)
        scheduler = StepLR(optimizer, step_size=1, gamma=0.7)
        rows = []
        for _ in range(3):
            net.train()
            total, n = 0.0, 0
            for x, y in train:
                optimizer.zero_grad()
                loss = F.nll_loss(net(x), y)
                loss.backward()
                optimizer.step()
                total, n = total + loss.item() * len(x), n + len(x)
            net.eval()
            test_loss, correct, tested = 0.0, 0, 0
            with torch.no_grad():
                for x, y in valid:
                    output = net(x)
                    test_loss += F.nll_loss(output, y).item() * len(x)
                    correct += int((output.argmax(1) == y).sum())
                    tested += len(x)
            scheduler.step()
            rows.append({"train_loss": total / n, "valid_loss": test_loss / tested, "valid_accuracy": correct / tested})
        return rows

    def ours(net: nn.Module, train: Loader, valid: Loader) -> luthier.Result:
        return luthier.fit(
            net, train, valid, criterion=F.nll_loss, metrics=["accuracy"], epochs=3, **EXACT,
            optimizer="Adadelta", lr=1.0, scheduler="StepLR", scheduler_args={"step_size": 1, "gamma": 0.7},
        )  # fmt: skip

    return Program("pytorch/examples, mnist/main.py", parts, plain, ours)


def imagenet() -> Program:
    def parts() -> tuple[Any, ...]:
        return small_convnet(), *digits()

    def plain(net: nn.Module, train: Loader, valid: Loader) -> Rows:
        criterion = nn.CrossEntropyLoss()
        optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)
        scheduler = StepLR(optimizer, step_size=2, gamma=0.1)
        rows = []
        for _ in range(4):
            net.train()
            sums = {"loss": 0.0, "top1": 0.0, "top5": 0.0}
            n = 0
            for x, y in train:
                output = net(x)
                loss = criterion(output, y)
                found = output.topk(5).indices == y[:, None]
                sums["loss"] += loss.item() * len(x)
                sums["top1"] += found[:, :1].sum().item()
                sums["top5"] += found.sum().item()
                n += len(x)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            row = {"train_loss": sums["loss"] / n}
            net.eval()
            sums, n = {"loss": 0.0, "top1": 0.0, "top5": 0.0}, 0
            with torch.no_grad():
                for x, y in valid:
                    output = net(x)
                    found = output.topk(5).indices == y[:, None]
                    sums["loss"] += criterion(output, y).item() * len(x)
                    sums["top1"] += found[:, :1].sum().item()
                    sums["top5"] += found.sum().item()
                    n += len(x)
            scheduler.step()
            rows.append(row | {"valid_loss": sums["loss"] / n, "valid_accuracy": sums["top1"] / n})
            rows[-1]["valid_top5"] = sums["top5"] / n
        return rows

    def ours(net: nn.Module, train: Loader, valid: Loader) -> luthier.Result:
        def top5(outputs: Tensor, targets: Tensor) -> float:
            return (outputs.topk(5).indices == targets[:, None]).sum().item() / len(targets)

        return luthier.fit(
            net, train, valid, criterion="CrossEntropyLoss", metrics=["accuracy", top5], epochs=4, **EXACT,
            optimizer="SGD", lr=0.1, momentum=0.9, weight_decay=1e-4,
            scheduler="StepLR", scheduler_args={"step_size": 2, "gamma": 0.1},
        )  # fmt: skip

    return Program(
        "pytorch/examples, imagenet/main.py", parts, plain, ours,
        "top-1 and top-5 of the training batches only by an own step with log",
    )  # fmt: skip


class Coder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.mean, self.log_variance = nn.Linear(144, 32), nn.Linear(32, 4), nn.Linear(32, 4)
        self.back = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 144), nn.Sigmoid())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = F.relu(self.body(x.flatten(1)))
        mean, log_variance = self.mean(h), self.log_variance(h)
        return self.back(mean + torch.randn_like(mean) * torch.exp(0.5 * log_variance)), mean, log_variance


def elbo(outputs: tuple[Tensor, Tensor, Tensor], x: Tensor) -> Tensor:
    again, mean, log_variance = outputs
    error = F.binary_cross_entropy(again, x.flatten(1), reduction="sum")
    return error - 0.5 * torch.sum(1 + log_variance - mean.pow(2) - log_variance.exp())


def vae() -> Program:
    def parts() -> tuple[Any, ...]:
        train, valid = (batches(pictures(n, 10, 1, 12, 12)[0].sigmoid(), torch.zeros(n)) for n in (120, 50))
        return Coder(), train, valid

    def plain(net: nn.Module, train: Loader, valid: Loader) -> Rows:
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
        rows = []
        for _ in range(3):
            net.train()
            total = 0.0
            for x, _ in train:
                optimizer.zero_grad()
                loss = elbo(net(x), x)
                loss.backward()
                total += loss.item()
                optimizer.step()
            net.eval()
            test = 0.0
            with torch.no_grad():
                for x, _ in valid:
                    test += elbo(net(x), x).item()
            row = {"train_per_sample": total / len(train.dataset), "valid_per_sample": test / len(valid.dataset)}
            rows.append(row)
        return rows

    def ours(net: nn.Module, train: Loader, valid: Loader) -> luthier.Result:
        def step(module: nn.Module, batch: Any) -> Any:
            x, _ = batch
            loss = elbo(module(x), x)
            return {"loss": loss, "count": len(x), "log": {"per_sample": loss.item() / len(x)}}

        return luthier.fit(net, train, valid, step=step, optimizer="Adam", lr=1e-3, epochs=3, **EXACT)

    return Program(
        "pytorch/examples, vae/main.py", parts, plain, ours,
        "the loss is a sum: its figure per sample goes by log, and train_loss means nothing",
    )  # fmt: skip


def dcgan() -> Program:
    def parts() -> tuple[Any, ...]:
        maker = nn.Sequential(nn.Linear(8, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 144), nn.Tanh())
        judge = nn.Sequential(nn.Linear(144, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1), nn.Flatten(0))
        pair = nn.ModuleDict({"maker": maker, "judge": judge})
        return pair, batches(pictures(96, 4, 144)[0].tanh(), torch.zeros(96), shuffle=True)

    def plain(pair: nn.ModuleDict, train: Loader) -> Rows:
        maker, judge = pair["maker"], pair["judge"]
        criterion = nn.BCEWithLogitsLoss()
        judges = torch.optim.Adam(judge.parameters(), 2e-3, betas=(0.5, 0.999))
        makers = torch.optim.Adam(maker.parameters(), 2e-3, betas=(0.5, 0.999))
        rows = []
        for _ in range(2):
            judge_total, n = 0.0, 0
            for x, _ in train:
                fake = maker(torch.randn(len(x), 8))
                judge.zero_grad()
                true_loss = criterion(judge(x), torch.ones(len(x)))
                false_loss = criterion(judge(fake.detach()), torch.zeros(len(x)))
                (true_loss + false_loss).backward()
                judges.step()
                maker.zero_grad()
                criterion(judge(fake), torch.ones(len(x))).backward()
                makers.step()
                judge_total += (true_loss + false_loss).item() * len(x)
                n += len(x)
            rows.append({"train_loss": judge_total / n})
        return rows

    def ours(pair: nn.ModuleDict, train: Loader) -> luthier.Result:
        criterion = nn.BCEWithLogitsLoss()
        state: dict[str, Any] = {"turn": "judge"}

        class Both(torch.optim.Optimizer):  # two optimizers in one: it asks for the loss once for each
            def __init__(self, parameters: Any) -> None:
                super().__init__(parameters, {"lr": 2e-3})
                self.of = {name: torch.optim.Adam(pair[name].parameters(), 2e-3, betas=(0.5, 0.999)) for name in pair}

            def step(self, closure: Any) -> Any:  # type: ignore[override]
                losses = []
                for turn in ("judge", "maker"):
                    state["turn"] = turn
                    losses.append(closure())
                    self.of[turn].step()
                state["turn"] = "judge"
                return losses[0]

        def step(module: Any, batch: Any) -> Any:
            x, _ = batch
            maker, judge = module["maker"], module["judge"]
            if state["turn"] == "judge":
                state["fake"] = maker(torch.randn(len(x), 8))
                true_loss = criterion(judge(x), torch.ones(len(x)))
                return true_loss + criterion(judge(state["fake"].detach()), torch.zeros(len(x)))
            return criterion(judge(state["fake"]), torch.ones(len(x)))

        return luthier.fit(pair, train, step=step, optimizer=Both, epochs=2, check=False, **EXACT)

    return Program(
        "pytorch/examples, dcgan/main.py", parts, plain, ours,
        "fit knows one optimizer: two go only by an own optimizer that asks for the loss twice (a detour)",
    )  # fmt: skip


def super_resolution() -> Program:
    def parts() -> tuple[Any, ...]:
        net = nn.Sequential(
            nn.Conv2d(1, 16, 5, padding=2), nn.ReLU(), nn.Conv2d(16, 4, 3, padding=1), nn.PixelShuffle(2)
        )
        fine = [F.interpolate(pictures(n, 4, 1, 4, 4)[0], size=(16, 16), mode="bilinear") for n in (64, 20)]
        return net, *(batches(F.avg_pool2d(y, 2), y, shuffle=i == 0) for i, y in enumerate(fine))

    def plain(net: nn.Module, train: Loader, valid: Loader) -> Rows:
        criterion = nn.MSELoss()
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
        rows = []
        for _ in range(3):
            total = 0.0
            for x, y in train:
                optimizer.zero_grad()
                loss = criterion(net(x), y)
                total += loss.item()
                loss.backward()
                optimizer.step()
            psnr = 0.0
            with torch.no_grad():
                for x, y in valid:
                    psnr += 10 * math.log10(1 / criterion(net(x), y).item())
            rows.append({"train_loss": total / len(train), "valid_psnr": psnr / len(valid)})
        return rows

    def ours(net: nn.Module, train: Loader, valid: Loader) -> luthier.Result:
        def step(module: nn.Module, batch: Any) -> Any:
            x, y = batch
            loss = F.mse_loss(module(x), y)
            return {"loss": loss, "count": 1, "log": {"psnr": 10 * math.log10(1 / loss.item())}}

        return luthier.fit(net, train, valid, step=step, optimizer="Adam", lr=1e-3, epochs=3, **EXACT)

    return Program(
        "pytorch/examples, super_resolution/main.py", parts, plain, ours,
        "the mean of each batch's PSNR goes by an own step; a metric is called on the whole split",
    )  # fmt: skip


class Twins(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.eye = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
        self.same = nn.Sequential(nn.Linear(400, 16), nn.ReLU(), nn.Linear(16, 1), nn.Sigmoid())

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        answer: Tensor = self.same(torch.cat([self.eye(one), self.eye(other)], 1)).squeeze(1)
        return answer


def siamese() -> Program:
    def parts() -> tuple[Any, ...]:
        loaders = []
        for seed, n in ((0, 96), (1, 32)):
            (x, a), (z, b) = pictures(n, 3, 1, 12, 12, seed=seed), pictures(n, 3, 1, 12, 12, seed=seed + 5)
            loaders.append(batches(x, z, (a == b).float(), shuffle=seed == 0))
        return Twins(), *loaders

    def plain(net: nn.Module, train: Loader, valid: Loader) -> Rows:
        criterion = nn.BCELoss()
        optimizer = torch.optim.Adadelta(net.parameters(), lr=1.0)
        scheduler = StepLR(optimizer, step_size=1, gamma=0.7)
        rows = []
        for _ in range(3):
            net.train()
            total, n = 0.0, 0
            for one, other, same in train:
                optimizer.zero_grad()
                loss = criterion(net(one, other), same)
                loss.backward()
                optimizer.step()
                total, n = total + loss.item() * len(same), n + len(same)
            net.eval()
            test, correct, tested = 0.0, 0, 0
            with torch.no_grad():
                for one, other, same in valid:
                    output = net(one, other)
                    test += criterion(output, same).item() * len(same)
                    correct += int(((output > 0.5) == same.bool()).sum())
                    tested += len(same)
            scheduler.step()
            rows.append({"train_loss": total / n, "valid_loss": test / tested, "valid_accuracy": correct / tested})
        return rows

    def ours(net: nn.Module, train: Loader, valid: Loader) -> luthier.Result:
        return luthier.fit(
            net, train, valid, criterion=nn.BCELoss(), metrics=["accuracy"], epochs=3, **EXACT,
            optimizer="Adadelta", lr=1.0, scheduler="StepLR", scheduler_args={"step_size": 1, "gamma": 0.7},
        )  # fmt: skip

    return Program("pytorch/examples, siamese_network/main.py", parts, plain, ours)


class Patches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cut = nn.Conv2d(1, 16, 4, stride=4)
        self.first, self.places = nn.Parameter(torch.zeros(1, 1, 16)), nn.Parameter(0.02 * torch.randn(1, 10, 16))
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True, norm_first=True)
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.cut(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.first.expand(len(x), -1, -1), tokens], 1) + self.places
        answer: Tensor = self.head(self.body(tokens)[:, 0])
        return answer


def vision_transformer() -> Program:
    def parts() -> tuple[Any, ...]:
        return Patches(), *digits()

    def plain(net: nn.Module, train: Loader, valid: Loader) -> Rows:
        criterion = nn.CrossEntropyLoss()
        optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
        rows = []
        for _ in range(3):
            net.train()
            total, n = 0.0, 0
            for x, y in train:
                optimizer.zero_grad()
                loss = criterion(net(x), y)
                loss.backward()
                optimizer.step()
                total, n = total + loss.item() * len(x), n + len(x)
            net.eval()
            correct, tested = 0, 0
            with torch.no_grad():
                for x, y in valid:
                    correct += int((net(x).argmax(1) == y).sum())
                    tested += len(x)
            rows.append({"train_loss": total / n, "valid_accuracy": correct / tested})
        return rows

    def ours(net: nn.Module, train: Loader, valid: Loader) -> luthier.Result:
        return luthier.fit(
            net, train, valid, criterion="CrossEntropyLoss", metrics=["accuracy"], epochs=3, **EXACT,
            optimizer="Adam", lr=3e-3,
        )  # fmt: skip

    return Program("pytorch/examples, vision_transformer/main.py", parts, plain, ours)


def d2l_train_ch6() -> Program:
    def parts() -> tuple[Any, ...]:
        net = nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1), nn.Sigmoid(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(216, 32),
            nn.Sigmoid(), nn.Linear(32, 10),
        )  # fmt: skip
        for layer in net:
            if isinstance(layer, nn.Linear | nn.Conv2d):
                nn.init.xavier_uniform_(layer.weight)
        return net, *digits()

    def plain(net: nn.Module, train: Loader, valid: Loader) -> Rows:
        optimizer = torch.optim.SGD(net.parameters(), lr=0.9)
        criterion = nn.CrossEntropyLoss()
        rows = []
        for _ in range(4):
            net.train()
            total, correct, n = 0.0, 0, 0
            for x, y in train:
                optimizer.zero_grad()
                output = net(x)
                loss = criterion(output, y)
                loss.backward()
                optimizer.step()
                with torch.no_grad():
                    total += loss.item() * len(x)
                    correct += int((output.argmax(1) == y).sum())
                    n += len(x)
            net.eval()
            right, tested = 0, 0
            with torch.no_grad():
                for x, y in valid:
                    right += int((net(x).argmax(1) == y).sum())
                    tested += len(x)
            rows.append({"train_loss": total / n, "train_accuracy": correct / n, "valid_accuracy": right / tested})
        return rows

    def ours(net: nn.Module, train: Loader, valid: Loader) -> luthier.Result:
        class TrainAccuracy(luthier.Callback):
            figures = ("train_accuracy",)

            def on_epoch_start(self, run: luthier.View) -> None:
                self.correct, self.n = 0, 0

            def on_forward_end(self, run: luthier.View) -> None:
                assert run.passed is not None
                self.correct += int((run.passed.outputs.argmax(1) == run.passed.targets).sum())
                self.n += len(run.passed.targets)

            def on_validation_end(self, run: luthier.View) -> dict[str, float]:
                return {"train_accuracy": self.correct / self.n}

        return luthier.fit(
            net, train, valid, criterion="CrossEntropyLoss", metrics=["accuracy"], callbacks=[TrainAccuracy()],
            optimizer="SGD", lr=0.9, epochs=4, **EXACT,
        )  # fmt: skip

    return Program(
        "d2l-ai/d2l-en, chapter_convolutional-neural-networks/lenet.md", parts, plain, ours,
        "accuracy of the training batches only by a callback (or an own step with log)",
    )  # fmt: skip


class Boxes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(4))
        self.kinds, self.shifts = nn.Conv2d(8, 3, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.body(x)
        return self.kinds(h).flatten(2).transpose(1, 2), self.shifts(h).flatten(1)


def ssd() -> Program:
    def parts() -> tuple[Any, ...]:
        x, _ = pictures(64, 2, 1, 12, 12)
        cells = F.max_pool2d(x[:, 0], 4).flatten(1)  # an anchor a cell: 0 is background
        kinds = (cells > 2).long() + (cells > 2.4).long()
        mask = (kinds > 0).float().repeat_interleave(4, 1)
        return Boxes(), batches(x, kinds, torch.randn(64, 36) * mask, mask, shuffle=True)

    def plain(net: nn.Module, train: Loader) -> Rows:
        optimizer = torch.optim.SGD(net.parameters(), lr=0.2, weight_decay=5e-4)
        rows = []
        for _ in range(3):
            net.train()
            sums, anchors, n = [0.0, 0.0], 0, 0
            for x, kinds, shifts, mask in train:
                optimizer.zero_grad()
                kind_logits, shifts_found = net(x)
                kind_loss = F.cross_entropy(kind_logits.flatten(0, 1), kinds.flatten(), reduction="none")
                shift_loss = F.l1_loss(shifts_found * mask, shifts * mask, reduction="none").mean(1)
                loss = (kind_loss.view(len(x), -1).mean(1) + shift_loss).mean()
                loss.backward()
                optimizer.step()
                sums[0] += int((kind_logits.argmax(-1) == kinds).sum())
                sums[1] += float((shifts - shifts_found.detach()).mul(mask).abs().mean()) * len(x)
                anchors, n = anchors + kinds.numel(), n + len(x)
            rows.append({"train_accuracy": sums[0] / anchors, "train_box_error": sums[1] / n})
        return rows

    def ours(net: nn.Module, train: Loader) -> luthier.Result:
        def step(module: nn.Module, batch: Any) -> Any:
            x, kinds, shifts, mask = batch
            kind_logits, shifts_found = module(x)
            kind_loss = F.cross_entropy(kind_logits.flatten(0, 1), kinds.flatten(), reduction="none")
            shift_loss = F.l1_loss(shifts_found * mask, shifts * mask, reduction="none").mean(1)
            right = (kind_logits.argmax(-1) == kinds).double().mean()
            log = {"accuracy": right, "box_error": (shifts - shifts_found.detach()).mul(mask).abs().mean()}
            return {"loss": (kind_loss.view(len(x), -1).mean(1) + shift_loss).mean(), "log": log}

        return luthier.fit(net, train, step=step, optimizer="SGD", lr=0.2, weight_decay=5e-4, epochs=3, **EXACT)

    return Program("d2l-ai/d2l-en, chapter_computer-vision/ssd.md", parts, plain, ours)


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.deep = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.up, self.out = nn.ConvTranspose2d(16, 8, 2, stride=2), nn.Conv2d(16, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.down(x)
        answer: Tensor = self.out(torch.cat([h, self.up(self.deep(h))], 1))
        return answer


def dice(outputs: Tensor, targets: Tensor) -> float:
    found, true = F.one_hot(outputs.argmax(1), 3), F.one_hot(targets, 3)
    both, all_ = (found * true).sum((0, 1, 2)), (found + true).sum((0, 1, 2))
    return float((2 * both / all_)[1:].mean())


def unet() -> Program:
    def parts() -> tuple[Any, ...]:
        loaders = []
        for seed, n in ((0, 48), (1, 16)):
            x, _ = pictures(n, 2, 1, 12, 12, seed=seed)
            smooth = F.avg_pool2d(x, 3, 1, 1)[:, 0]
            loaders.append(batches(x, (smooth > 0).long() + (smooth > 0.4).long(), size=16, shuffle=seed == 0))
        return UNet(), *loaders

    def plain(net: nn.Module, train: Loader, valid: Loader) -> Rows:
        criterion = nn.CrossEntropyLoss()
        optimizer = torch.optim.RMSprop(net.parameters(), lr=1e-3, weight_decay=1e-8, momentum=0.9)
        scheduler = ReduceLROnPlateau(optimizer, "max", patience=0)
        rows = []
        for _ in range(4):
            net.train()
            total, n = 0.0, 0
            for x, y in train:
                loss = criterion(net(x), y)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                optimizer.step()
                total, n = total + loss.item() * len(x), n + len(x)
            net.eval()
            with torch.no_grad():
                outputs, targets = zip(*((net(x), y) for x, y in valid), strict=True)
            score = dice(torch.cat(outputs), torch.cat(targets))
            rows.append({"train_loss": total / n, "valid_dice": score, "lr": optimizer.param_groups[0]["lr"]})
            scheduler.step(score)
        return rows

    def ours(net: nn.Module, train: Loader, valid: Loader) -> luthier.Result:
        optimizer = torch.optim.RMSprop(net.parameters(), lr=1e-3, weight_decay=1e-8, momentum=0.9)
        return luthier.fit(
            net, train, valid, criterion="CrossEntropyLoss", metrics=[dice, "accuracy"], monitor="valid_dice", epochs=4,
            optimizer=optimizer, scheduler=ReduceLROnPlateau(optimizer, "max", patience=0), clip_norm=1.0, **EXACT,
        )  # fmt: skip

    return Program("milesial/Pytorch-UNet, train.py", parts, plain, ours)


def simclr() -> Program:
    def nt_xent(a: Tensor, b: Tensor) -> Tensor:
        z = F.normalize(torch.cat([a, b]), dim=1)
        alike = (z @ z.T / 0.5).masked_fill(torch.eye(len(z), dtype=torch.bool), -math.inf)
        return F.cross_entropy(alike, torch.arange(len(z)).roll(len(a)))

    def parts() -> tuple[Any, ...]:
        net = nn.Sequential(nn.Flatten(), nn.Linear(144, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 8))
        x, _ = pictures(96, 10, 1, 12, 12)
        return net, batches(x + 0.1 * torch.randn_like(x), x.flip(3), shuffle=True)

    def plain(net: nn.Module, train: Loader) -> Rows:
        optimizer = torch.optim.Adam(net.parameters(), 3e-4, weight_decay=1e-4)
        scheduler = CosineAnnealingLR(optimizer, T_max=len(train))
        rows = []
        for epoch in range(4):
            total, n = 0.0, 0
            for a, b in train:
                loss = nt_xent(*net(torch.cat([a, b])).chunk(2))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total, n = total + loss.item() * len(a), n + len(a)
            rows.append({"train_loss": total / n, "lr": optimizer.param_groups[0]["lr"]})
            if epoch >= 1:  # the script keeps the first epochs at the full rate
                scheduler.step()
        return rows

    def ours(net: nn.Module, train: Loader) -> luthier.Result:
        def schedule(optimizer: torch.optim.Optimizer) -> SequentialLR:
            parts = [ConstantLR(optimizer, factor=1.0), CosineAnnealingLR(optimizer, T_max=len(train))]
            return SequentialLR(optimizer, parts, milestones=[1])

        def step(module: nn.Module, batch: Any) -> Tensor:
            return nt_xent(*module(torch.cat(batch)).chunk(2))

        return luthier.fit(
            net, train, step=step, optimizer="Adam", lr=3e-4, weight_decay=1e-4, epochs=4, **EXACT,
            scheduler=schedule, scheduler_interval="epoch",
        )  # fmt: skip

    return Program("sthalles/SimCLR, simclr.py", parts, plain, ours)


PROGRAMS = [
    mnist, imagenet, vae, dcgan, super_resolution, siamese, vision_transformer, d2l_train_ch6, ssd, unet, simclr,
]  # fmt: skip
