# mypy: disable-error-code="assignment,no-untyped-call,arg-type,no-any-return,attr-defined,operator"
"""Mistakes as people reported them: PyTorch issues and forum questions, turned into programs (facts, not their code).

Each names its report. They were not used to make the rules.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim
from torch.utils.data import DataLoader

from tests.checks.pairs import (
    CE,
    MSE,
    Items,
    Loop,
    Maker,
    Net,
    adam,
    blobs,
    cnn,
    drop_net,
    line,
    looped,
    mlp,
    parts,
    pictures,
    waves,
    yes_no,
)  # fmt: skip
from tests.checks.program import Pair, Parts

FIELD: list[Pair] = []


def report(bug: str, name: str) -> Callable[[Maker], Maker]:
    def keep(make: Maker) -> Maker:
        def seeded(is_broken: bool, seed: int) -> Parts:
            torch.manual_seed(seed)
            return make(is_broken)

        FIELD.append(Pair(bug, name, seeded))
        return make

    return keep


@report("L03", "daisyRec#15-sigmoid-before-logits-loss")
def _(b: bool) -> Parts:
    """A factorisation machine ends in a sigmoid and is trained with BCEWithLogits."""
    users, items = torch.randint(0, 50, (500,)), torch.randint(0, 40, (500,))
    y = ((users + items) % 2).float()
    net = Net(
        lambda m, u, i: (torch.sigmoid if b else lambda v: v)((m.u(u) * m.i(i)).sum(-1) + m.bias),
        u=nn.Embedding(50, 8),
        i=nn.Embedding(40, 8),
        bias=nn.Parameter(torch.zeros(1)),
    )
    return Parts(
        net, (users[:400], items[:400], y[:400]), (users[400:], items[400:], y[400:]), nn.BCEWithLogitsLoss(), adam(net)
    )


@report("L07", "matchmaker#18-kl-of-scores")
def _(b: bool) -> Parts:
    """Distillation hands KLDivLoss the student's scores in place of log-probabilities."""
    x, _ = blobs()
    teacher = (x @ torch.randn(10, 4)).softmax(1)
    return parts(
        mlp(10, 32, 4),
        (x, teacher),
        lambda o, t: F.kl_div(o.softmax(-1) if b else o.log_softmax(-1), t, reduction="batchmean"),
    )


@report("L08", "KEQA#2-softmax-of-the-batch")
def _(b: bool) -> Parts:
    """Attention weights over words are normalised over questions."""

    def run(m: Any, x: Tensor) -> Any:
        h, _ = m.rnn(x)
        weights = nn.Softmax(dim=0 if b else 1)(torch.tanh(m.score(h)))
        return m.head((weights * h).sum(1))

    return parts(
        Net(
            run, rnn=nn.GRU(4, 16, batch_first=True, bidirectional=True), score=nn.Linear(32, 1), head=nn.Linear(32, 3)
        ),
        waves(),
        CE,
    )


@report("A01", "TabFormer#14-view-mixes-rows")
def _(b: bool) -> Parts:
    """Rows and fields are swapped by a view."""

    def run(m: Any, x: Tensor) -> Any:
        h = m.first(x)  # (N, T, 16)
        h = h.transpose(0, 1)
        h = h.contiguous().view(x.shape[0], -1) if b else h.transpose(0, 1).reshape(x.shape[0], -1)
        return m.head(F.relu(h))

    return parts(Net(run, first=nn.Linear(4, 16), head=nn.Linear(320, 3)), waves(), CE)


@report("A09", "pytorch#26338-functional-dropout")
def _(b: bool) -> Parts:
    """F.dropout has training=True by default, so eval() does not reach it."""

    def run(m: Any, x: Tensor) -> Any:
        x = F.max_pool2d(F.relu(m.conv(x)), 2).flatten(1)
        x = F.dropout(x) if b else F.dropout(x, training=m.training)
        return m.fc(x)

    return parts(Net(run, conv=nn.Conv2d(3, 8, 3), fc=nn.Linear(392, 3)), pictures(), CE)


@report("G04", "pytorch#715-layers-in-a-list")
def _(b: bool) -> Parts:
    """Parallel branches are kept in a Python list and missing from parameters()."""
    branches = [nn.Sequential(nn.Linear(10, 8), nn.Tanh()) for _ in range(3)]
    net = Net(
        lambda m, x: m.head(sum(f(x) for f in m.branches)),
        branches=branches if b else nn.ModuleList(branches),
        head=nn.Linear(8, 4),
    )
    return parts(net, blobs(), CE)


@report("G03", "HVPNeT#5-part-not-in-the-optimizer")
def _(b: bool) -> Parts:
    """Parameter groups are picked by name, and one part has none of the names."""
    net = nn.ModuleDict({"encoder": mlp(10, 32, 16), "gate": nn.Linear(16, 16), "head": nn.Linear(16, 4)})
    whole = Net(lambda m, x: m.net["head"](torch.sigmoid(m.net["gate"](F.relu(m.net["encoder"](x))))), net=net)
    names = ("encoder", "head") if b else ("encoder", "head", "gate")
    groups = [{"params": [p for n, p in whole.named_parameters() if name in n]} for name in names]
    return parts(whole, blobs(), CE, optim.AdamW(groups, 1e-3))


@report("O06", "SO#60335387-no-zero-grad")
def _(b: bool) -> Parts:
    """The loop never clears the gradients."""

    class Mine(Loop):
        def step(self, x: Tensor, y: Tensor) -> None:
            out = self.net(x)
            loss = self.criterion(out, y)
            loss.backward()
            self.optimizer.step()
            if not b:
                self.net.zero_grad()

    net = drop_net()
    return looped(Mine(net, blobs(), optim.SGD(net.parameters(), 0.02, momentum=0.9)))


@report("D08", "super-gradients#416-folder-in-order")
def _(b: bool) -> Parts:
    """The training loader of a class folder does not shuffle."""
    x, y = pictures()
    order = y.argsort()
    net = cnn()
    return Parts(net, DataLoader(Items(x[order], y[order]), batch_size=32, shuffle=not b), None, CE, adam(net))


@report("D15", "tanelp-numpy-generator-in-workers")
def _(b: bool) -> Parts:
    """An own generator is copied to each worker, and each draws the same augmentations."""
    import numpy as np

    x, y = blobs()

    class Augmented(Items):
        rng = None

        def __init__(self) -> None:
            super().__init__(x[:300], y[:300])
            if b:
                self.rng = np.random.default_rng(0)

        def __getitem__(self, i: int) -> Any:
            noise = torch.from_numpy(self.rng.standard_normal(10)).float() if self.rng is not None else torch.randn(10)
            return self.x[i] + 0.1 * noise, self.y[i]

    net = mlp(10, 32, 4)
    return Parts(
        net, DataLoader(Augmented(), batch_size=16, shuffle=True, num_workers=2), (x[300:], y[300:]), CE, adam(net)
    )


@report("E06", "yolov5#292-best-is-an-alias")
def _(b: bool) -> Parts:
    """The best weights are kept by reference."""

    class Mine(Loop):
        best: Any = None

        def end(self) -> None:
            if self.best is None or self.evaluate() > 2:
                state = self.net.state_dict()
                self.best = {"epoch": 0, "model": state if b else {k: v.clone() for k, v in state.items()}}

        def __call__(self) -> None:
            super().__call__()
            self.net.load_state_dict(self.best["model"])

    net = drop_net()
    return looped(Mine(net, blobs(), adam(net)))


@report("L05", "forum-regression-predicts-the-mean")
def _(b: bool) -> Parts:
    """Targets (N,) against outputs (N, 1) in MSELoss: the network learns the mean."""
    x, y = line()
    net = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 1))
    return parts(net, (x, y.squeeze() if b else y), MSE)


@report("L11", "forum-102473-classes-by-mse")
def _(b: bool) -> Parts:
    """A yes/no target is learnt by MSELoss on one output."""
    x, y = yes_no()
    return parts(mlp(10, 32, 1), (x, y[:, None]), MSE if b else nn.BCEWithLogitsLoss())


@report("E01", "tutorials#1602-evaluated-in-train-mode")
def _(b: bool) -> Parts:
    """The evaluation of a tutorial's loop has no eval()."""

    class Mine(Loop):
        def evaluate(self) -> float:
            if not b:
                self.net.eval()
            right = 0.0
            with torch.no_grad():
                for x, y in self.valid:
                    right += float((self.net(x).argmax(1) == y).sum())
            return right

    net = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 4))
    return looped(Mine(net, blobs(), adam(net)))
