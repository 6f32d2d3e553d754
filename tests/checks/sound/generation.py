# mypy: disable-error-code="no-any-return"
# ruff: noqa: E731  (programs of a line or two read better in a row)
"""Sound programs that reconstruct or generate: autoencoders, adversaries, flows, diffusion, codes."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim
from torch.nn.utils import parametrizations
from torch.optim import Adam

from tests.checks.kit.data import (
    batches,
    blobs,
    byte_pictures,
    clusters_of_504,
    curve,
    cut,
    cut_at_360,
    draws,
    even_blobs,
    horizons,
    images,
    loader_of_24,
    moons,
    norm,
    pictures,
    shape_pictures,
    split_blobs,
    standard,
    yesno,
)
from tests.checks.kit.networks import Game, Net, dense, mlp
from tests.checks.kit.program import Parts, sound
from tests.checks.kit.training import (
    CE,
    MSE,
    Loop,
    adam,
    adam_of_all,
    adam_over,
    adamw,
    fast_adam,
    loaded,
    of_loop,
    parts,
    plain,
    program,
    split_parts,
    stepped,
    stepped_split,
)


@sound("autoencoder")
def _() -> Parts:
    x, _ = blobs()
    return parts(mlp(10, 32, 4, 32, 10), (x, x.clone()), MSE)


@sound("denoising-autoencoder")
def _() -> Parts:
    x, _ = pictures()
    net = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 3, 3, padding=1))
    return parts(net, (x + 0.3 * torch.randn_like(x), x), MSE)


class Vae(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode, self.mean, self.spread, self.decode = (
            mlp(10, 32, 16, tail=(nn.ReLU(),)),
            nn.Linear(16, 3),
            nn.Linear(16, 3),
            mlp(3, 32, 10),
        )

    def forward(self, x: Tensor) -> Any:
        h = self.encode(x)
        mean, log_var = self.mean(h), self.spread(h)
        z = mean + torch.randn_like(mean) * (0.5 * log_var).exp()
        return self.decode(z), mean, log_var


def elbo(out: Any, x: Tensor) -> Tensor:
    again, mean, log_var = out
    return F.mse_loss(again, x, reduction="sum") - 0.5 * (1 + log_var - mean.pow(2) - log_var.exp()).sum()


@sound("vae")
def _() -> Parts:
    x, _ = blobs()
    return parts(Vae(), (x, x.clone()), elbo)


@sound("vae-step")
def _() -> Parts:
    x, y = blobs()
    net = Vae()
    return Parts(net, (x, y), None, None, adam(net), step=lambda m, b: elbo(m(b[0]), b[0]))


@sound("gan-loop")
def _() -> Parts:
    real = torch.randn(256, 4) @ torch.randn(4, 4)
    g, d = mlp(8, 32, 4), mlp(4, 32, 1)
    og, od = optim.Adam(g.parameters(), 1e-3, betas=(0.0, 0.9)), optim.Adam(d.parameters(), 1e-3, betas=(0.0, 0.9))

    def loop() -> None:
        for i in range(40):
            x = real[torch.randint(0, 256, (32,))]
            fake = g(torch.randn(32, 8))
            od.zero_grad()
            (
                F.binary_cross_entropy_with_logits(d(x), torch.ones(32, 1))
                + F.binary_cross_entropy_with_logits(d(fake.detach()), torch.zeros(32, 1))
            ).backward()
            od.step()
            if i % 2:
                og.zero_grad()
                F.binary_cross_entropy_with_logits(d(g(torch.randn(32, 8))), torch.ones(32, 1)).backward()
                og.step()

    return Parts(g, None, optimizer=og, loop=loop)


@sound("gan-discriminator-two-backwards")
def _() -> Parts:
    real = torch.randn(256, 4) @ torch.randn(4, 4)
    g, d = mlp(8, 32, 4), mlp(4, 32, 1)
    og, od = optim.Adam(g.parameters(), 1e-3, betas=(0.5, 0.9)), optim.Adam(d.parameters(), 1e-3, betas=(0.5, 0.9))

    def loop() -> None:
        for _ in range(40):
            fake = g(torch.randn(32, 8))
            od.zero_grad()
            F.binary_cross_entropy_with_logits(d(real[:32]), torch.ones(32, 1)).backward()
            F.binary_cross_entropy_with_logits(d(fake.detach()), torch.zeros(32, 1)).backward()
            od.step()
            og.zero_grad()
            F.binary_cross_entropy_with_logits(d(fake), torch.ones(32, 1)).backward()
            og.step()

    return Parts(d, None, optimizer=od, loop=loop)


@sound("diffusion-step")
def _() -> Parts:
    x, y = blobs()
    net = Net(lambda m, x, t: m.body(torch.cat([x, t[:, None]], 1)), body=mlp(11, 64, 10))

    def step(m: nn.Module, batch: Any) -> Any:
        x = batch[0]
        t, noise = torch.rand(len(x)), torch.randn_like(x)
        return F.mse_loss(m((1 - t[:, None]).sqrt() * x + t[:, None].sqrt() * noise, t), noise)

    return Parts(net, (x, y), None, None, adam(net), step=step)


class Diffusion(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = mlp(11, 64, 10)

    def forward(self, x: Tensor) -> Any:
        t, noise = torch.rand(len(x), 1), torch.randn_like(x)
        return self.body(torch.cat([(1 - t).sqrt() * x + t.sqrt() * noise, t], 1)), noise


@sound("diffusion-in-forward")
def _() -> Parts:
    x, y = blobs()
    return parts(Diffusion(), (x, y), lambda o, _: F.mse_loss(o[0], o[1]))


@sound("self-conditioning-loop")
def _() -> Parts:
    class Mine(Loop):
        def step(self, x: Tensor, y: Tensor) -> None:
            before = torch.zeros(len(x), 4)
            if torch.rand(()) < 0.5:
                with torch.no_grad():
                    before = self.net(torch.cat([x, before], 1)).softmax(1)
            self.optimizer.zero_grad()
            self.criterion(self.net(torch.cat([x, before], 1)), y).backward()
            self.optimizer.step()

        def evaluate(self) -> float:
            self.net.eval()
            with torch.no_grad():
                return sum(float(self.net(torch.cat([x, torch.zeros(len(x), 4)], 1)).sum()) for x, _ in self.valid)

    net = nn.Sequential(nn.Linear(14, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 4))
    return of_loop(Mine(net, blobs(), adam(net)))


class Quantiser(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode, self.codes = mlp(10, 32, 4), mlp(4, 32, 10), nn.Parameter(torch.randn(32, 4))

    def forward(self, x: Tensor) -> Any:
        z = self.encode(x)
        q = self.codes[torch.cdist(z, self.codes).argmin(1)]
        return self.decode(z + (q - z).detach()), z, q


@sound("vq-vae")
def _() -> Parts:
    x, _ = blobs()
    criterion: Any = lambda o, x: (
        F.mse_loss(o[0], x) + F.mse_loss(o[2], o[1].detach()) + 0.25 * F.mse_loss(o[1], o[2].detach())
    )
    return parts(Quantiser(), (x, x.clone()), criterion)


@sound("straight-through")
def _() -> Parts:
    def run(m: Any, x: Tensor) -> Any:
        h = torch.sigmoid(m.first(x))
        return m.head((h > 0.5).float() + h - h.detach())

    return parts(Net(run, first=nn.Linear(10, 32), head=nn.Linear(32, 4)), blobs(), CE)


@sound("gumbel-softmax")
def _() -> Parts:
    net = Net(lambda m, x: m.head(F.gumbel_softmax(m.first(x), hard=True)), first=mlp(10, 32, 8), head=mlp(8, 16, 4))
    return parts(net, blobs(), CE)


@sound("spectral-norm-and-hinge")
def _() -> Parts:
    norm_of = parametrizations.spectral_norm
    net = nn.Sequential(norm_of(nn.Linear(10, 32)), nn.LeakyReLU(0.2), norm_of(nn.Linear(32, 32)), nn.LeakyReLU(0.2),
                        norm_of(nn.Linear(32, 1)))  # fmt: skip
    x, y = yesno()
    return program(net, (x, y[:, None]), lambda o, t: F.relu(1 - o * (2 * t - 1)).mean(), adam_over)


@sound("autoencoder-of-pictures")
def _() -> Parts:
    x = byte_pictures(c=1)[0].float() / 255
    net = nn.Sequential(nn.Conv2d(1, 12, 3, 2, 1), nn.ReLU(), nn.Conv2d(12, 8, 3, 2, 1), nn.ReLU(),
                        nn.ConvTranspose2d(8, 12, 2, 2), nn.ReLU(), nn.ConvTranspose2d(12, 1, 2, 2),
                        nn.Sigmoid())  # fmt: skip
    return loaded(net, (x, x), MSE, adam_over)


@sound("linear-autoencoder-with-tied-weights")
def _() -> Parts:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.b = nn.Parameter(0.2 * torch.randn(4, 16)), nn.Parameter(torch.zeros(16))

        def forward(self, x: Tensor) -> Any:
            return F.linear(F.linear(x, self.w), self.w.t(), self.b)

    x = norm(torch.randn(440, 4) @ torch.randn(4, 16))
    return program(Tied(), (x, x), MSE, lambda p: optim.Adam(p, 0.01))


@sound("denoiser-with-noise-in-training-alone")
def _() -> Parts:
    class Denoiser(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = mlp(16, 32, 6, 32, 16)

        def forward(self, x: Tensor) -> Any:
            return self.body(x + 0.3 * torch.randn_like(x) if self.training else x)

    x = norm(torch.randn(440, 4) @ torch.randn(4, 16))
    return loaded(Denoiser(), (x, x), MSE)


class ImageVae(nn.Module):
    def __init__(self, d: int = 144, z: int = 6) -> None:
        super().__init__()
        self.encode, self.mean, self.log_var = mlp(d, 64, last=nn.ReLU()), nn.Linear(64, z), nn.Linear(64, z)
        self.decode = mlp(z, 64, d)

    def forward(self, x: Tensor) -> Any:
        h = self.encode(x.flatten(1))
        m, v = self.mean(h), self.log_var(h)
        return self.decode(m + torch.randn_like(m) * (0.5 * v).exp()), m, v


@sound("vae-summed-as-in-the-example")
def _() -> Parts:
    def loss(o: Any, x: Tensor) -> Any:
        out, m, v = o
        rebuilt = F.binary_cross_entropy_with_logits(out, x.flatten(1), reduction="sum")
        return rebuilt - 0.5 * (1 + v - m**2 - v.exp()).sum()

    x = byte_pictures(c=1)[0].float() / 255
    return loaded(ImageVae(), (x, x), loss, adam_over)


@sound("vae-step-per-row")
def _() -> Parts:
    def step(net: nn.Module, batch: Any) -> Any:
        (x,) = batch
        out, m, v = net(x)
        return ((out - x) ** 2).sum(1).mean() - 0.5 * (1 + v - m**2 - v.exp()).sum(1).mean()

    x = norm(torch.randn(440, 3) @ torch.randn(3, 20))
    return loaded(ImageVae(20, 3), (x,), None, adam_over, step=step)


@sound("codebook-with-straight-through")
def _() -> Parts:
    class Codes(nn.Module):
        def __init__(self, some: Tensor) -> None:
            super().__init__()
            self.encode, self.decode, self.book = mlp(16, 32, 8), mlp(8, 32, 16), nn.Embedding(24, 8)
            with torch.no_grad():
                self.book.weight.copy_(self.encode(some))

        def forward(self, x: Tensor) -> Any:
            z = self.encode(x)
            q = self.book(torch.cdist(z, self.book.weight).argmin(1))
            extra = F.mse_loss(q, z.detach()) + 0.25 * F.mse_loss(z, q.detach())
            return self.decode(z + (q - z).detach()), extra

    x, _ = even_blobs(6, 16)
    return loaded(Codes(x[:24]), (x, x), lambda o, t: F.mse_loss(o[0], t) + o[1])


@sound("gumbel-choice")
def _() -> Parts:
    class Choice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.choose, self.experts = nn.Linear(8, 3), nn.ModuleList(mlp(8, 24, 1) for _ in range(3))

        def forward(self, x: Tensor) -> Any:
            s = self.choose(x)
            hard = F.one_hot(s.argmax(1), 3).float()
            share = F.gumbel_softmax(s, 0.7, hard=True) if self.training else hard
            return (torch.cat([e(x) for e in self.experts], 1) * share).sum(1, keepdim=True)

    return program(Choice(), curve(), MSE)


@sound("diffusion-step")
def _() -> Parts:
    class Denoise(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.time, self.body = nn.Embedding(50, 8), mlp(10, 64, 64, 2, act=nn.SiLU)

        def forward(self, x: Tensor, t: Tensor) -> Any:
            return self.body(torch.cat([x, self.time(t)], 1))

    keep = torch.cumprod(1 - torch.linspace(1e-3, 0.1, 50), 0)

    def step(net: nn.Module, batch: Any) -> Any:
        (x,) = batch
        t, noise = torch.randint(0, 50, (len(x),)), torch.randn_like(x)
        a = keep[t][:, None]
        return F.mse_loss(net(a.sqrt() * x + (1 - a).sqrt() * noise, t), noise)

    turn = 6.28 * torch.rand(440)
    return loaded(Denoise(), (norm(torch.stack([turn.cos(), turn.sin()], 1)),), None, adamw, step=step)


@sound("coupling-flow")
def _() -> Parts:
    class Flow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.nets = nn.ModuleList(mlp(2, 32, 4, act=nn.Tanh) for _ in range(4))
            for n in self.nets:
                nn.init.zeros_(n.get_parameter("2.weight"))
                nn.init.zeros_(n.get_parameter("2.bias"))

        def forward(self, x: Tensor) -> Any:
            a, b, total = x[:, :2], x[:, 2:], x.new_zeros(len(x))
            for n in self.nets:
                shift, scale = n(a).chunk(2, 1)
                scale = torch.tanh(scale)
                a, b, total = b * scale.exp() + shift, a, total + scale.sum(1)
            return torch.cat([a, b], 1), total

    def step(net: nn.Module, batch: Any) -> Any:
        z, change = net(batch[0])
        return (0.5 * (z**2).sum(1) - change).mean()

    x = torch.randn(440, 4)
    return loaded(Flow(), (norm(x + 0.8 * x.roll(1, 1) ** 2),), None, adam_over, step=step)


@sound("pictures-with-patches-hidden")
def _() -> Parts:
    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.place, self.out = (
                nn.Linear(48, 32),
                nn.Parameter(0.02 * torch.randn(9, 32)),
                nn.Linear(32, 48),
            )
            self.blank = nn.Parameter(torch.zeros(32))
            self.layer = nn.TransformerEncoderLayer(32, 2, 64, 0.0, batch_first=True)

        def forward(self, patches: Tensor, is_hidden: Tensor) -> Any:
            h = torch.where(is_hidden[..., None], self.blank, self.enter(patches))
            return self.out(self.layer(h + self.place))

    def step(net: nn.Module, batch: Any) -> Any:
        p = F.unfold(batch[0], 4, stride=4).transpose(1, 2)
        is_hidden = torch.rand(p.shape[:2]) < 0.6
        return ((net(p, is_hidden) - p) ** 2).mean(2)[is_hidden].mean()

    return loaded(Hidden(), (shape_pictures()[0],), None, adamw, step=step)


class VAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = dense(24, 32, 8), dense(4, 32, 24)

    def forward(self, x: Tensor) -> Any:
        mean, spread = self.encoder(x).chunk(2, 1)
        return self.decoder(mean + torch.randn_like(mean) * torch.exp(spread / 2)), mean, spread


@sound("vae-with-a-summed-bound")
def _() -> Parts:
    def step(module: nn.Module, batch: Any) -> Any:
        out, mean, spread = module(batch[0])
        return F.mse_loss(out, batch[0], reduction="sum") - 0.5 * (1 + spread - mean**2 - spread.exp()).sum()

    past, _ = horizons()
    return stepped(VAE(), cut_at_360(past, past), step)


@sound("denoising-autoencoder")
def _() -> Parts:
    past, _ = horizons()
    net = dense(24, 32, 8, 32, 24)

    def step(module: nn.Module, batch: Any) -> Any:
        return F.mse_loss(module(batch[0] + 0.3 * torch.randn_like(batch[0])), batch[1])

    return stepped(net, cut_at_360(past, past), step)


class TimedDenoiser(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.time, self.net = nn.Embedding(50, 16), dense(22, 64, 6)

    def forward(self, x: Tensor, t: Tensor) -> Any:
        return self.net(torch.cat([x, self.time(t)], 1))


@sound("diffusion-noise-predictor")
def _() -> Parts:
    level = torch.cumprod(1 - torch.linspace(1e-3, 0.1, 50), 0)

    def step(module: nn.Module, batch: Any) -> Any:
        x = batch[0]
        t, noise = torch.randint(50, (len(x),)), torch.randn_like(x)
        a = level[t][:, None]
        return F.mse_loss(module(a.sqrt() * x + (1 - a).sqrt() * noise, t), noise)

    x = moons()
    return stepped(TimedDenoiser(), cut_at_360(x, x), step)


@sound("gan-loop-with-two-optimizers")
def _() -> Parts:
    train, _valid = cut_at_360(moons())
    net = Game()
    makes, judges = adam_of_all(net.maker, 2e-4), adam_of_all(net.critic, 2e-4)

    def loop() -> None:
        for _ in range(2):
            for (real,) in loader_of_24(train):
                fake = net.maker(torch.randn(len(real), 4))
                judges.zero_grad()
                (F.relu(1 - net.critic(real)).mean() + F.relu(1 + net.critic(fake.detach())).mean()).backward()
                judges.step()
                makes.zero_grad()
                (-net.critic(fake).mean()).backward()
                makes.step()

    return Parts(net, train, optimizer=[makes, judges], loop=loop)


class HardSign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.where(x >= 0, 1.0, -1.0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return grad * (x.abs() <= 1)


class Binary(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lift, self.norm, self.out = nn.Linear(12, 48), nn.BatchNorm1d(48), nn.Linear(48, 3)

    def forward(self, x: Tensor) -> Any:
        return self.out(HardSign.apply(self.norm(self.lift(x))))  # type: ignore[no-untyped-call]


@sound("sign-units-straight-through")
def _() -> Parts:
    return plain(Binary(), cut_at_360(*clusters_of_504()), nn.CrossEntropyLoss())


class VQ(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder, self.codes = (
            dense(24, 32, 8),
            dense(8, 32, 24),
            nn.Parameter(torch.randn(16, 8) / 3),
        )

    def forward(self, x: Tensor) -> Any:
        z = self.encoder(x)
        code = self.codes[torch.cdist(z, self.codes).argmin(1)]
        cost = F.mse_loss(code, z.detach()) + 0.25 * F.mse_loss(z, code.detach())
        return self.decoder(z + (code - z).detach()), cost


@sound("vector-quantised-autoencoder")
def _() -> Parts:
    def step(module: nn.Module, batch: Any) -> Any:
        out, cost = module(batch[0])
        return F.mse_loss(out, batch[0]) + cost

    past, _ = horizons()
    return stepped(VQ(), cut_at_360(past, past), step)


class Discrete(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = dense(12, 32, 6), dense(6, 32, 12)

    def forward(self, x: Tensor) -> Any:
        logits = self.encoder(x)
        code = F.gumbel_softmax(logits, 1.0) if self.training else torch.softmax(logits, 1)
        return self.decoder(code)


@sound("gumbel-code-autoencoder")
def _() -> Parts:
    x, _y = clusters_of_504(5)
    return plain(Discrete(), cut_at_360(x, x), nn.MSELoss())


def cloud(rows: int = 480, width: int = 12) -> Tensor:
    return standard(torch.randn(rows, 3) @ torch.randn(3, width) + 0.1 * torch.randn(rows, width))


@sound("variational")
def _() -> Parts:
    class Variational(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = mlp(12, 32, 6), mlp(3, 32, 12)

        def forward(self, x: Tensor) -> Any:
            mean, doubt = self.encoder(x).chunk(2, 1)
            return self.decoder(mean + torch.randn_like(mean) * (doubt / 2).exp()), mean, doubt

    def step(module: nn.Module, batch: Any) -> Any:
        x, goal = batch
        out, mean, doubt = module(x)
        apart = -0.5 * (1 + doubt - mean**2 - doubt.exp()).sum()
        return F.mse_loss(out, goal, reduction="sum") + 0.1 * apart

    module = Variational()
    x = cloud()
    return Parts(module, *cut(x, x), optimizer=fast_adam(module, 5e-3), step=step)


@sound("denoising")
def _() -> Parts:
    class Noise(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return x + 0.3 * torch.randn_like(x) if self.training else x

    module = nn.Sequential(Noise(), nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 4), nn.Linear(4, 24), nn.ReLU())
    module.append(nn.Linear(24, 12))
    x = cloud()
    return Parts(module, *cut(x, x), nn.MSELoss(), fast_adam(module, 1e-2))


@sound("adversaries")
def _() -> Parts:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.make = nn.Sequential(nn.Linear(4, 32), nn.LeakyReLU(0.2), nn.Linear(32, 12))
            self.judge = nn.Sequential(nn.Linear(12, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))

        def forward(self, noise: Tensor) -> Any:
            return self.make(noise)

    train, valid = cut(cloud())
    module = Pair()
    makes = Adam(module.make.parameters(), 2e-3, betas=(0.0, 0.9))
    judges = Adam(module.judge.parameters(), 2e-3, betas=(0.0, 0.9))

    def loop() -> None:
        for (real,) in draws(train, 48, 25):
            fake = module(torch.randn(48, 4))
            judges.zero_grad()
            (F.relu(1 - module.judge(real)).mean() + F.relu(1 + module.judge(fake.detach())).mean()).backward()
            judges.step()
            makes.zero_grad()
            (-module.judge(fake).mean()).backward()
            makes.step()

    return Parts(module, train, valid, optimizer=[makes, judges], loop=loop)


@sound("critic-with-penalty")
def _() -> Parts:
    """A critic alone, kept smooth by a penalty on the gradient of its output by its input."""
    train, valid = cut(cloud())
    module = nn.Sequential(nn.Linear(12, 32), nn.SiLU(), nn.Linear(32, 1))
    optimizer = Adam(module.parameters(), 5e-3, betas=(0.0, 0.9))

    def loop() -> None:
        for (real,) in draws(train, 48, 30):
            fake = torch.randn_like(real)
            between = torch.lerp(real, fake, torch.rand(48, 1)).requires_grad_()
            (slope,) = torch.autograd.grad(module(between).sum(), between, create_graph=True)
            penalty = (slope.square().sum(1).add(1e-12).sqrt() - 1).square().mean()
            optimizer.zero_grad()
            (module(fake).mean() - module(real).mean() + 10 * penalty).backward()
            optimizer.step()

    return Parts(module, train, valid, optimizer=optimizer, loop=loop)


@sound("coupling-flow")
def _() -> Parts:
    class Coupling(nn.Module):
        def __init__(self, is_even: bool) -> None:
            super().__init__()
            self.is_even, self.net = is_even, mlp(6, 24, 12)
            last = self.net[-1]
            assert isinstance(last, nn.Linear)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            kept, moved = x.chunk(2, 1) if self.is_even else reversed(x.chunk(2, 1))
            scale, shift = self.net(kept).chunk(2, 1)
            scale = torch.tanh(scale)
            moved = moved * scale.exp() + shift
            return torch.cat([kept, moved] if self.is_even else [moved, kept], 1), scale.sum(1)

    class Flow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([Coupling(number % 2 == 0) for number in range(4)])

        def forward(self, x: Tensor) -> Any:
            volume = x.new_zeros(len(x))
            for layer in self.layers:
                x, more = layer(x)
                volume = volume + more
            return -0.5 * (x**2 + math.log(2 * math.pi)).sum(1) + volume

    def step(module: nn.Module, batch: Any) -> Any:
        return -module(batch[0]).mean() / 12

    module = Flow()
    return Parts(module, *cut(cloud()), optimizer=fast_adam(module, 1e-2), step=step)


@sound("diffusion")
def _() -> Parts:
    class Denoise(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.time, self.body = nn.Embedding(20, 16), mlp(28, 48, 12)

        def forward(self, noisy: Tensor, time: Tensor) -> Any:
            return self.body(torch.cat([noisy, self.time(time)], 1))

    kept = torch.linspace(0.98, 0.05, 20)

    def step(module: nn.Module, batch: Any) -> Any:
        x = batch[0]
        time, noise = torch.randint(20, (len(x),)), torch.randn_like(x)
        share = kept[time][:, None]
        return F.mse_loss(module(share.sqrt() * x + (1 - share).sqrt() * noise, time), noise)

    module = Denoise()
    return Parts(module, *cut(cloud()), optimizer=fast_adam(module, 1e-2), step=step)


@sound("codebook-straight-through")
def _() -> Parts:
    class Codes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = mlp(12, 24, 3), mlp(3, 24, 12)
            self.codes = nn.Embedding(24, 3)
            nn.init.uniform_(self.codes.weight, -0.8, 0.8)

        def forward(self, x: Tensor) -> Any:
            hidden = torch.tanh(self.encoder(x))
            code = self.codes(torch.cdist(hidden, self.codes.weight).argmin(1))
            return self.decoder(hidden + (code - hidden).detach()), hidden, code

    def step(module: nn.Module, batch: Any) -> Any:
        out, hidden, code = module(batch[0])
        return F.mse_loss(out, batch[1]) + F.mse_loss(code, hidden.detach()) + 0.25 * F.mse_loss(hidden, code.detach())

    module = Codes()
    x = cloud()
    return Parts(module, *cut(x, x), optimizer=fast_adam(module, 1e-2), step=step)


@sound("kinds-by-gumbel")
def _() -> Parts:
    class Kinds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.kinds = mlp(12, 24, 8), nn.Linear(8, 24)
            self.decoder = nn.Linear(24, 12)

        def forward(self, x: Tensor) -> Any:
            scores = self.encoder(x)
            if self.training:
                chosen = F.gumbel_softmax(scores, tau=1.0, hard=True)
            else:
                chosen = F.one_hot(scores.argmax(1), 8).float()
            return self.decoder(F.relu(self.kinds(chosen)))

    centres = torch.randn(5, 12)
    x = standard(centres[torch.randint(5, (480,))] + 0.3 * torch.randn(480, 12))
    module = Kinds()
    return Parts(module, *cut(x, x), nn.MSELoss(), fast_adam(module, 2e-2))


class Autoencoder(nn.Module):
    def __init__(self, d: int = 12, code: int = 4) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(d, 32), nn.ReLU(), nn.Linear(32, code))
        self.decoder = nn.Sequential(nn.Linear(code, 32), nn.ReLU(), nn.Linear(32, d))

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))


@sound("autoencoder")
def autoencoder() -> Parts:
    (x, _), (v, _) = split_blobs()
    return split_parts(Autoencoder(), ((x, x), (v, v)), MSE)


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
    return split_parts(ConvAutoencoder(), ((noisy, x), (also, v)), MSE)


@sound("denoising-autoencoder-noise-in-step")
def denoising_autoencoder_noise_in_step() -> Parts:
    def step(module: nn.Module, batch: Any) -> Tensor:
        clean = batch[0]
        return F.mse_loss(module(clean + 0.3 * torch.randn_like(clean)), clean)

    return stepped_split(Autoencoder(), split_blobs(), step)


def vae_loss(recon: Tensor, x: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    kl = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
    return F.mse_loss(recon, x, reduction="sum") + kl


class TableVae(nn.Module):
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


@sound("vae-sum-elbo")
def vae_sum_elbo() -> Parts:
    def step(module: nn.Module, batch: Any) -> Tensor:
        recon, mu, logvar = module(batch[0])
        return vae_loss(recon, batch[0], mu, logvar)

    return stepped_split(TableVae(), split_blobs(), step)


def points() -> tuple[Tensor, ...]:
    return (split_blobs(d=4, k=3, spread=0.4)[0][0],)


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
    return split_parts(BinarySte(), split_blobs())


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
    return stepped_split(net, split_blobs(spread=0.4), step, adam(net, 2e-3))


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
    return split_parts(net, split_blobs(spread=0.8), CE, adam(net, 3e-3))
