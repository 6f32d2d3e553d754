"""Scripts of a method: two passes a step, teachers, several tasks, averaged weights."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import luthier
from benchmarks.programs.common import EXACT, Program, Rows, batches, pictures

Loader = Any


def classifier(width: int = 32) -> nn.Sequential:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(144, width), nn.LayerNorm(width), nn.ReLU(), nn.Dropout(0.1), nn.Linear(width, 10)
    )


def digits() -> tuple[Loader, Loader]:
    return batches(*pictures(120, 10, 1, 12, 12), shuffle=True), batches(*pictures(50, 10, 1, 12, 12, seed=1), size=25)


def measure(net: nn.Module, loader: Loader) -> tuple[float, float]:
    """Return the cross-entropy and the accuracy of a network, as each script has it."""
    net.eval()
    total, correct, n = 0.0, 0, 0
    with torch.no_grad():
        for x, y in loader:
            output = net(x)
            total += F.cross_entropy(output, y).item() * len(x)
            correct += int((output.argmax(1) == y).sum())
            n += len(x)
    net.train()
    return total / n, correct / n


class SAM(torch.optim.Optimizer):
    """Step from the gradient at the worst near point. Source: Foret et al. 2021, algorithm 1."""

    def __init__(self, parameters: Any, lr: float, rho: float = 0.05, momentum: float = 0.0) -> None:
        super().__init__(parameters, {"lr": lr, "rho": rho, "momentum": momentum})
        self.base = torch.optim.SGD(self.param_groups, lr=lr, momentum=momentum)
        self.param_groups = self.base.param_groups

    def learned(self) -> list[nn.Parameter]:
        return [p for group in self.param_groups for p in group["params"] if p.grad is not None]

    @torch.no_grad()
    def first_step(self) -> None:
        norm = torch.stack([p.grad.norm() for p in self.learned() if p.grad is not None]).norm()
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["at"] = p.clone()
                p.add_(p.grad * (group["rho"] / (norm + 1e-12)))

    @torch.no_grad()
    def second_step(self) -> None:
        for p in self.learned():
            p.copy_(self.state[p]["at"])
        self.base.step()

    def step(self, closure: Any = None) -> Any:
        self.first_step()  # from gradients that are there
        closure()
        self.second_step()


def sam() -> Program:
    def parts() -> tuple[Any, ...]:
        return classifier(), *digits()

    def plain(net: nn.Module, train: Loader, valid: Loader) -> Rows:
        optimizer = SAM(net.parameters(), lr=0.1, momentum=0.9)
        rows = []
        for _ in range(3):
            net.train()
            total, n = 0.0, 0
            for x, y in train:
                loss = F.cross_entropy(net(x), y, label_smoothing=0.1)
                loss.backward()
                optimizer.first_step()
                optimizer.zero_grad()
                F.cross_entropy(net(x), y, label_smoothing=0.1).backward()
                optimizer.second_step()
                optimizer.zero_grad()
                total, n = total + loss.item() * len(x), n + len(x)
            rows.append({"train_loss": total / n, "valid_accuracy": measure(net, valid)[1]})
        return rows

    def ours(net: nn.Module, train: Loader, valid: Loader) -> luthier.Result:
        return luthier.fit(
            net, train, valid, criterion="CrossEntropyLoss", label_smoothing=0.1, metrics=["accuracy"], epochs=3,
            optimizer=SAM(net.parameters(), lr=0.1, momentum=0.9), **EXACT,
        )  # fmt: skip

    return Program(
        "davda54/sam, example/train.py", parts, plain, ours,
        "that BatchNorm counts only the first of the two passes: neither criterion nor step knows which one it is in",
    )  # fmt: skip


def mean_teacher() -> Program:
    def parts() -> tuple[Any, ...]:
        (x, y), valid = pictures(120, 10, 1, 12, 12), batches(*pictures(50, 10, 1, 12, 12, seed=1), size=25)
        student, teacher = classifier(), classifier().requires_grad_(False)
        teacher.load_state_dict(student.state_dict())
        noisy = x + 0.1 * torch.randn_like(x)
        return student, teacher, batches(x, noisy, y.masked_fill(torch.arange(120) % 3 > 0, -1), shuffle=True), valid

    def ramp(step: int) -> float:
        return math.exp(-5 * (1 - min(1.0, step / 12)) ** 2)

    def plain(student: nn.Module, teacher: nn.Module, train: Loader, valid: Loader) -> Rows:
        optimizer = torch.optim.SGD(student.parameters(), 0.05, momentum=0.9, nesterov=True)
        rows, step = [], 0
        for _ in range(3):
            student.train()
            total, n = 0.0, 0
            for x, noisy, y in train:
                output = student(x)
                with torch.no_grad():
                    wanted = teacher(noisy).softmax(1)
                loss = F.cross_entropy(output, y, ignore_index=-1)
                loss = loss + ramp(step) * F.mse_loss(output.softmax(1), wanted)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                step += 1
                with torch.no_grad():
                    for slow, fast in zip(teacher.parameters(), student.parameters(), strict=True):
                        slow.mul_(0.9).add_(fast, alpha=0.1)
                total, n = total + loss.item() * len(x), n + len(x)
            row = {"train_loss": total / n, "valid_accuracy": measure(student, valid)[1]}
            rows.append(row | {"teacher_accuracy": measure(teacher, valid)[1]})
        return rows

    def ours(student: nn.Module, teacher: nn.Module, train: Loader, valid: Loader) -> luthier.Result:
        class Teacher(luthier.Callback):
            figures = ("teacher_accuracy",)
            done = 0

            def step(self, module: nn.Module, batch: Any) -> Any:
                if not module.training:
                    x, y = batch
                    output = module(x)
                    return {"loss": F.cross_entropy(output, y), "outputs": output, "targets": y}
                x, noisy, y = batch
                output = module(x)
                with torch.no_grad():
                    wanted = teacher(noisy).softmax(1)
                loss = F.cross_entropy(output, y, ignore_index=-1)
                return loss + ramp(self.done) * F.mse_loss(output.softmax(1), wanted), len(x)

            def on_step_end(self, run: luthier.View) -> None:
                self.done = run.global_step
                with torch.no_grad():
                    for slow, fast in zip(teacher.parameters(), student.parameters(), strict=True):
                        slow.mul_(0.9).add_(fast, alpha=0.1)

            def on_validation_end(self, run: luthier.View) -> dict[str, float]:
                return {"teacher_accuracy": measure(teacher, valid)[1]}

        watch = Teacher()
        return luthier.fit(
            student, train, valid, step=watch.step, metrics=["accuracy"], callbacks=[watch], epochs=3, **EXACT,
            optimizer="SGD", lr=0.05, momentum=0.9, nesterov=True,
        )  # fmt: skip

    return Program(
        "CuriousAI/mean-teacher, pytorch/main.py", parts, plain, ours,
        "the teacher is updated and measured by an own callback, in whose state_dict it would have to go for a resume",
    )  # fmt: skip


def distillation() -> Program:
    def parts() -> tuple[Any, ...]:
        return classifier(8), classifier(64).eval().requires_grad_(False), *digits()

    def plain(student: nn.Module, teacher: nn.Module, train: Loader, valid: Loader) -> Rows:
        optimizer = torch.optim.Adam(student.parameters(), lr=5e-3)
        rows = []
        for _ in range(3):
            student.train()
            total, n = 0.0, 0
            for x, y in train:
                optimizer.zero_grad()
                with torch.no_grad():
                    wanted = teacher(x)
                output = student(x)
                soft = F.kl_div((output / 4).log_softmax(1), (wanted / 4).softmax(1), reduction="batchmean")
                loss = 0.9 * 16 * soft + 0.1 * F.cross_entropy(output, y)
                loss.backward()
                optimizer.step()
                total, n = total + loss.item() * len(x), n + len(x)
            valid_loss, accuracy = measure(student, valid)
            rows.append({"train_loss": total / n, "valid_loss": valid_loss, "valid_accuracy": accuracy})
        return rows

    def ours(student: nn.Module, teacher: nn.Module, train: Loader, valid: Loader) -> luthier.Result:
        def step(module: nn.Module, batch: Any) -> Any:
            x, y = batch
            output = module(x)
            loss = F.cross_entropy(output, y)
            if module.training:
                with torch.no_grad():
                    wanted = teacher(x)
                soft = F.kl_div((output / 4).log_softmax(1), (wanted / 4).softmax(1), reduction="batchmean")
                loss = 0.9 * 16 * soft + 0.1 * loss
            return {"loss": loss, "outputs": output, "targets": y}

        return luthier.fit(
            student, train, valid, step=step, metrics=["accuracy"], epochs=3, optimizer="Adam", lr=5e-3, **EXACT
        )

    return Program("haitongli/knowledge-distillation-pytorch, train.py", parts, plain, ours)


class Tasks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(144, 32), nn.ReLU())
        self.kind, self.size = nn.Linear(32, 10), nn.Linear(32, 1)
        self.log_variances = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = self.body(x)
        return {"kind": self.kind(h), "size": self.size(h).squeeze(1)}


def multi_task() -> Program:
    def parts() -> tuple[Any, ...]:
        loaders: list[Loader] = []
        for seed, n in ((0, 120), (1, 50)):
            x, y = pictures(n, 10, 1, 12, 12, seed=seed)
            items = [(x[i], {"kind": y[i], "size": x[i].mean() * 12}) for i in range(n)]
            loaders.append(torch.utils.data.DataLoader(items, 16, shuffle=seed == 0))  # type: ignore[arg-type]
        return Tasks(), *loaders

    def plain(net: Tasks, train: Loader, valid: Loader) -> Rows:
        optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
        rows = []
        for _ in range(3):
            net.train()
            total, n = 0.0, 0
            for x, y in train:
                optimizer.zero_grad()
                output = net(x)
                losses = [F.cross_entropy(output["kind"], y["kind"]), F.mse_loss(output["size"], y["size"])]
                loss = (torch.stack(losses) * torch.exp(-net.log_variances) + net.log_variances).sum()
                loss.backward()
                optimizer.step()
                total, n = total + loss.item() * len(x), n + len(x)
            net.eval()
            correct, tested = 0, 0
            errors = []
            with torch.no_grad():
                for x, y in valid:
                    output = net(x)
                    correct += int((output["kind"].argmax(1) == y["kind"]).sum())
                    errors.append(output["size"] - y["size"])
                    tested += len(x)
            error = torch.cat(errors).double().square().sum().item()
            row = {"train_loss": total / n, "valid_kind": correct / tested}
            rows.append(row | {"valid_size": math.sqrt(error / tested)})
        return rows

    def ours(net: Tasks, train: Loader, valid: Loader) -> luthier.Result:
        def criterion(output: dict[str, Tensor], y: dict[str, Tensor]) -> Tensor:
            losses = [F.cross_entropy(output["kind"], y["kind"]), F.mse_loss(output["size"], y["size"])]
            return (torch.stack(losses) * torch.exp(-net.log_variances) + net.log_variances).sum()

        def kind(output: dict[str, Tensor], y: dict[str, Tensor]) -> float:
            return (output["kind"].argmax(1) == y["kind"]).sum().item() / len(y["kind"])

        def size(output: dict[str, Tensor], y: dict[str, Tensor]) -> float:
            return math.sqrt((output["size"] - y["size"]).double().square().sum().item() / len(y["size"]))

        return luthier.fit(
            net, train, valid, criterion=criterion, metrics=[kind, size], epochs=3, optimizer="Adam", lr=5e-3, **EXACT
        )

    return Program(
        "yaringal/multi-task-learning-example, multi-task-learning-example-pytorch.ipynb", parts, plain, ours,
        "metrics by name work on one part of the outputs: each task needs a function of its own",
    )  # fmt: skip


def timm_train() -> Program:
    import timm
    import timm.optim
    from timm.data.mixup import Mixup
    from timm.loss import SoftTargetCrossEntropy
    from timm.scheduler.cosine_lr import CosineLRScheduler
    from timm.utils.model_ema import ModelEmaV3

    def parts() -> tuple[Any, ...]:
        import numpy as np

        np.random.seed(0)  # Mixup draws from NumPy
        train, valid = pictures(64, 4, 3, 64, 64), pictures(32, 4, 3, 64, 64, seed=1)
        net = timm.create_model("test_vit2", num_classes=4, img_size=64)
        return net, batches(*train, shuffle=True), batches(*valid)

    def make(net: Any) -> tuple[Any, Any, Any, Any]:
        optimizer = timm.optim.create_optimizer_v2(net, "adamw", lr=3e-3, weight_decay=0.05)
        scheduler = CosineLRScheduler(optimizer, t_initial=3, warmup_t=1, warmup_lr_init=1e-4, lr_min=1e-5)
        mix = Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, label_smoothing=0.1, num_classes=4)
        return optimizer, scheduler, mix, ModelEmaV3(net, decay=0.9)

    def plain(net: nn.Module, train: Loader, valid: Loader) -> Rows:
        optimizer, scheduler, mix, ema = make(net)
        criterion, rows = SoftTargetCrossEntropy(), []
        for epoch in range(3):
            net.train()
            total, n = 0.0, 0
            for x, y in train:
                mixed, soft = mix(x, y)
                loss = criterion(net(mixed), soft)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                ema.update(net)
                total, n = total + loss.item() * len(x), n + len(x)
            valid_loss, accuracy = measure(net, valid)
            row = {"train_loss": total / n, "valid_loss": valid_loss, "valid_accuracy": accuracy}
            rows.append(row | {"ema_accuracy": measure(ema.module, valid)[1], "lr": optimizer.param_groups[0]["lr"]})
            scheduler.step(epoch + 1)
        return rows

    def ours(net: nn.Module, train: Loader, valid: Loader) -> luthier.Result:
        optimizer, scheduler, mix, ema = make(net)
        criterion = SoftTargetCrossEntropy()

        class Timm(luthier.Callback):
            figures = ("ema_accuracy",)

            def on_step_end(self, run: luthier.View) -> None:
                ema.update(run.module)

            def on_validation_end(self, run: luthier.View) -> dict[str, float]:
                return {"ema_accuracy": measure(ema.module, valid)[1]}

        def step(module: nn.Module, batch: Any) -> Any:
            x, y = batch
            if module.training:
                mixed, soft = mix(x, y)
                return criterion(module(mixed), soft), len(x)
            output = module(x)
            return {"loss": F.cross_entropy(output, y), "outputs": output, "targets": y}

        return luthier.fit(
            net, train, valid, step=step, metrics=["accuracy"], callbacks=[Timm()], epochs=3, **EXACT,
            optimizer=optimizer, scheduler=scheduler,
        )  # fmt: skip

    return Program(
        "huggingface/pytorch-image-models, train.py", parts, plain, ours,
        "both weights measured: fit's ema= measures the average alone, so timm's own goes by a callback",
    )  # fmt: skip


def schedule_free() -> Program:
    from schedulefree import AdamWScheduleFree

    def parts() -> tuple[Any, ...]:
        return classifier(), *digits()

    def plain(net: nn.Module, train: Loader, valid: Loader) -> Rows:
        optimizer = AdamWScheduleFree(net.parameters(), lr=5e-3, warmup_steps=4)
        rows = []
        for _ in range(3):
            net.train()
            optimizer.train()
            total, n = 0.0, 0
            for x, y in train:
                optimizer.zero_grad()
                loss = F.cross_entropy(net(x), y)
                loss.backward()
                optimizer.step()
                total, n = total + loss.item() * len(x), n + len(x)
            optimizer.eval()
            valid_loss, accuracy = measure(net, valid)
            rows.append({"train_loss": total / n, "valid_loss": valid_loss, "valid_accuracy": accuracy})
        return rows

    def ours(net: nn.Module, train: Loader, valid: Loader) -> luthier.Result:
        return luthier.fit(
            net, train, valid, criterion="CrossEntropyLoss", metrics=["accuracy"], epochs=3, **EXACT,
            optimizer=AdamWScheduleFree(net.parameters(), lr=5e-3, warmup_steps=4),
        )  # fmt: skip

    return Program("facebookresearch/schedule_free, examples/mnist/main.py", parts, plain, ours)


PROGRAMS = [sam, mean_teacher, distillation, multi_task, timm_train, schedule_free]
