# mypy: disable-error-code="no-any-return"
"""Sound programs that draw on purpose: Bayesian layers, Monte Carlo dropout, stochastic depth, diffusion."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.checks.kit.data import batches, blobs, curve_values, cut, regression, split_blobs
from tests.checks.kit.networks import Mlp, Net, mlp
from tests.checks.kit.program import Parts, sound
from tests.checks.kit.training import CE, MSE, Loop, adam, fast_adam, of_loop, parts, split_parts, stepped_split


@sound("mc-dropout")
def _() -> Parts:
    net = Net(
        lambda m, x: m.head(F.dropout(F.relu(m.first(x)), 0.2, training=True)),
        first=nn.Linear(10, 64),
        head=nn.Linear(64, 4),
    )
    return parts(net, blobs(), CE)


class BayesLinear(nn.Module):
    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.mean, self.rho = nn.Parameter(torch.randn(b, a) / math.sqrt(a)), nn.Parameter(torch.full((b, a), -4.0))

    def forward(self, x: Tensor) -> Tensor:
        return x @ (self.mean + F.softplus(self.rho) * torch.randn_like(self.mean)).T


@sound("bayesian-layers")
def _() -> Parts:
    return parts(nn.Sequential(BayesLinear(10, 32), nn.ReLU(), BayesLinear(32, 4)), blobs(), CE)


class Stochastic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.blocks, self.head = (
            nn.Linear(10, 32),
            nn.ModuleList(mlp(32, 32, 32) for _ in range(3)),
            nn.Linear(32, 4),
        )

    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.first(x))
        for block in self.blocks:
            keep = (torch.rand(len(x), 1) < 0.8) / 0.8 if self.training else 1.0
            x = x + block(x) * keep
        return self.head(F.relu(x))


@sound("stochastic-depth")
def _() -> Parts:
    return parts(Stochastic(), blobs(), CE)


@sound("mc-dropout-evaluation-loop")
def _() -> Parts:
    class Mine(Loop):
        def evaluate(self) -> float:
            self.net.train()
            x, y = next(iter(self.valid))
            with torch.no_grad():
                mean = torch.stack([self.net(x).softmax(1) for _ in range(10)]).mean(0)
            return float((mean.argmax(1) == y).float().mean())

    net = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 4))
    return of_loop(Mine(net, blobs(), adam(net)))


@sound("dropout-that-stays-on")
def _() -> Parts:
    class MonteCarloDropout(nn.Dropout):
        """Drops when predicting too, so that repeated predictions tell how sure they are."""

        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(x, self.p, training=True)

    module = nn.Sequential(nn.Linear(8, 48), nn.ReLU(), MonteCarloDropout(0.1), nn.Linear(48, 1), nn.Flatten(0))
    return Parts(module, *cut(*curve_values()), nn.MSELoss(), fast_adam(module, 1e-2))


@sound("mc-dropout-loop")
def mc_dropout_loop() -> Parts:
    train, valid = split_blobs()
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
    return split_parts(McDropoutNet(), regression(), MSE)


class BayesLinearWithKl(nn.Module):
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
        self.fc1 = BayesLinearWithKl(d, 32)
        self.fc2 = BayesLinearWithKl(32, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.relu(self.fc1(x)))

    def kl(self) -> Tensor:
        return self.fc1.kl() + self.fc2.kl()


@sound("bayes-by-backprop")
def bayes_by_backprop() -> Parts:
    def step(module: BayesMlp, batch: Any) -> Tensor:
        x, y = batch
        return F.cross_entropy(module(x), y) + 0.1 * module.kl() / 400

    return stepped_split(BayesMlp(), split_blobs(), step)


ALPHAS = torch.cumprod(1 - torch.linspace(1e-3, 0.15, 50), dim=0)


def noised(x: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    a = ALPHAS[t].unsqueeze(1)
    return a.sqrt() * x + (1 - a).sqrt() * noise


class Denoiser(nn.Module):
    def __init__(self, d: int = 4, steps: int = 50, extra: int = 0) -> None:
        super().__init__()
        self.time = nn.Embedding(steps, 16)
        self.net = nn.Sequential(
            nn.Linear(d + extra + 16, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, d)
        )

    def forward(self, noisy: Tensor, t: Tensor) -> Tensor:
        return self.net(torch.cat([noisy, self.time(t)], dim=1))


@sound("diffusion-step")
def diffusion_step() -> Parts:
    def step(module: nn.Module, batch: Any) -> Tensor:
        x = batch[0]
        t = torch.randint(0, 50, (len(x),))
        noise = torch.randn_like(x)
        return F.mse_loss(module(noised(x, t, noise), t), noise)

    return stepped_split(Denoiser(), split_blobs(d=4, k=3, spread=0.3), step)


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

    return stepped_split(Ddpm(), split_blobs(d=4, k=3, spread=0.3), step)


class SelfConditioned(nn.Module):
    """Takes its own estimate of the clean row as a further input."""

    def __init__(self, d: int = 4) -> None:
        super().__init__()
        self.inner = Denoiser(d, extra=d)

    def forward(self, noisy: Tensor, estimate: Tensor, t: Tensor) -> Tensor:
        return self.inner(torch.cat([noisy, estimate], dim=1), t)


@sound("self-conditioning-loop")
def self_conditioning_loop() -> Parts:
    (train, _), (valid, _) = split_blobs(d=4, k=3, spread=0.3)
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
    return split_parts(StochasticDepthNet(), split_blobs())
