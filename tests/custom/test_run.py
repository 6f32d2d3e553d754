"""`luthier.run`: a loop of one's own goes on with the same bits, wherever it was cut off, and keeps a record."""

import contextlib
import json
import logging
import os
import random
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import luthier
from luthier.errors import DataError, LuthierError, RunError, SettingError, TrainingError

X = torch.randn(50, 4, generator=torch.Generator().manual_seed(1))
Y = X.sum(1, keepdim=True)


class Killed(Exception):
    """What ends a life in mid-body: nothing is saved then, as at a kill."""


class Life:
    """The parts of one life of a run, made anew, and a countdown to its end."""

    def __init__(self, folder: Path, left: int | None = None) -> None:
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Linear(8, 1))
        self.opt = torch.optim.Adam(self.net.parameters(), 0.01)
        self.folder, self.left = folder, left
        self.seen: list[Any] = []

    def update(self, x: Tensor, y: Tensor) -> Tensor:
        loss = nn.functional.mse_loss(self.net(x), y)
        self.opt.zero_grad()
        loss.backward()
        self.opt.step()
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise Killed
        return loss.detach()

    def start(self, **more: Any) -> luthier.CustomRun:
        given = {"seed": 0, "checkpoint_every_steps": 1, "verbose": False, "watched": False, **more}
        return luthier.run(self.folder, net=self.net, opt=self.opt, **given)

    def outcome(self, run: luthier.CustomRun) -> Any:
        rows = [{key: value for key, value in row.items() if key != "seconds"} for row in run.record]
        return {name: value.tolist() for name, value in self.net.state_dict().items()}, rows


def lives(script: Callable[[Life], luthier.CustomRun], folder: Path, *lefts: int) -> Any:
    """Run a script again and again, ended after so many updates each, and at last to its end."""
    for left in lefts:
        with pytest.raises(Killed):
            script(Life(folder, left))
    life = Life(folder)
    return life.outcome(script(life))


def plain(life: Life) -> luthier.CustomRun:
    data = (X, Y)
    with life.start(data=data) as run:
        for _ in run.epochs(3):
            for x, y in run.batches(data, batch_size=16):
                run.log(loss=life.update(x, y))
            run.validate(life.net, (X, Y), criterion="mse")
    return run


def two_loops(life: Life) -> luthier.CustomRun:
    data = (X, Y)
    with life.start(data=data) as run:
        for _ in run.epochs(2):
            for x, y in run.batches(data, batch_size=16):
                run.log(first=life.update(x, y))
        for group in life.opt.param_groups:
            group["lr"] *= 0.1
        run.validate(life.net, (X, Y), criterion="mse", name="between")
        for epoch in run.epochs(4):
            figures = run.validate(
                life.net, (X, Y), criterion="mse", metrics={"mae": lambda o, t: (o - t).abs().mean()}
            )
            for x, y in run.batches(data, batch_size=10, shuffle=False):
                run.log(second=life.update(x, y), count=1)
            for x, y in run.batches(data, batch_size=25, drop_last=True):
                run.log(third=life.update(x, y))
            if epoch == 2 and figures["loss"] < 1e9:
                break
    return run


class Drawing(Dataset[Any]):
    """Samples that draw."""

    def __len__(self) -> int:
        return 30

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return X[index] + torch.rand(()) + random.random() + np.random.rand(), Y[index]


def drawn(life: Life) -> luthier.CustomRun:
    data = Drawing()
    with life.start(data=data) as run:
        for _ in run.epochs(3):
            for x, y in run.batches(data, batch_size=8):
                run.log(loss=life.update(x.float(), y), draw=random.random() + np.random.rand())
    return run


def loader(life: Life) -> luthier.CustomRun:
    own = DataLoader(TensorDataset(X, Y), batch_size=16, shuffle=True, generator=torch.Generator().manual_seed(5))
    with life.start(data=own) as run:
        for _ in run.epochs(3):
            for x, y in run.batches(own):
                run.log(loss=life.update(x, y))
    return run


def streams(life: Life) -> luthier.CustomRun:
    data, kept = (X, Y), torch.zeros(())
    generator = np.random.default_rng(3)
    with life.start(data=data, kept=kept, generator=generator, history=[], scale=1.0) as run:
        first, second = run.stream(data, batch_size=16), run.stream(data, batch_size=7)
        for _ in run.steps(12):
            x, y = next(first)
            if run.global_step % 2:
                x, y = (torch.cat(pair) for pair in zip((x, y), next(second), strict=True))
            loss = life.update(x * run.scale, y)
            kept += loss
            run.scale *= 0.9 + 0.01 * generator.random()
            run.history.append(round(float(loss), 6))
        life.seen = [kept.item(), run.scale, run.history]
    return run


def collected(life: Life) -> luthier.CustomRun:
    """The data of each epoch depends on the weights, as what an agent collects."""
    with life.start() as run:
        for _ in run.epochs(4):
            with torch.no_grad():
                data = (X, life.net(X) * 0.5 + torch.randn(50, 1))
            for x, y in run.batches(data, batch_size=16):
                run.log(loss=life.update(x, y))
    return run


@pytest.mark.parametrize("script", [plain, two_loops, drawn, loader, streams, collected])
def test_a_life_that_ends_anywhere_is_gone_on_with(script: Callable[[Life], Any], tmp_path: Path) -> None:
    whole = lives(script, tmp_path / "whole")
    assert any(row["event"] in ("epoch", "end") for row in whole[1])
    assert lives(script, tmp_path / "whole") == whole  # it is over, and nothing is done again
    assert lives(script, tmp_path / "a", 0, 3, 1) == whole
    assert lives(script, tmp_path / "b", 5, 2) == whole
    assert lives(script, tmp_path / "c", 10) == whole


def test_it_equals_the_loop_by_hand(tmp_path: Path) -> None:
    life = Life(tmp_path / "a")
    plain(life)
    by_hand = Life(tmp_path / "b")
    torch.manual_seed(0)
    for epoch in range(3):
        for rows in luthier.order(50, 0, epoch).split(16):
            by_hand.update(X[rows], Y[rows])
    for name, value in by_hand.net.state_dict().items():
        assert torch.equal(value, life.net.state_dict()[name]), name


def test_means_are_over_samples_and_rows_hold_all_figures(tmp_path: Path) -> None:
    life, losses = Life(tmp_path), []
    with life.start(log_every_steps=2) as run:
        for _ in run.epochs(1):
            for x, y in run.batches((X, Y), batch_size=16):
                losses.append((float(life.update(x, y)), len(x)))
                run.log(loss=losses[-1][0], seen=torch.tensor([float(len(x))]))
            run.validate(lambda: {"half": torch.tensor(0.5)})
            run.log(once=3)
    (row,) = run.record.epochs
    assert row["loss"] == pytest.approx(sum(loss * n for loss, n in losses) / 50)
    assert (row["valid_half"], row["once"], row["step"]) == (0.5, 3.0, 4)
    steps = [row for row in run.record if row["event"] == "step"]
    assert [row["step"] for row in steps] == [2, 4]
    assert steps[0]["loss"] == pytest.approx(losses[1][0])
    kept = luthier.read_record(tmp_path / "record.jsonl")
    assert [row["event"] for row in kept] == ["start", "step", "step", "epoch", "end"]


def test_steps_without_epochs_and_epochs_without_steps_have_rows(tmp_path: Path) -> None:
    def steps(left: int | None, folder: Path) -> list[dict[str, Any]]:
        with luthier.run(folder, seed=0, verbose=False, checkpoint_every_steps=7) as run:
            for step in run.steps(250):
                run.log(value=float(step))
                if step == left:
                    raise Killed
        return [row for row in run.record if row["event"] == "step"]

    rows = steps(None, tmp_path / "a")
    assert [(row["step"], row["value"]) for row in rows] == [(100, 49.5), (200, 149.5)]
    with pytest.raises(Killed):
        steps(170, tmp_path / "b")
    assert steps(None, tmp_path / "b") == rows
    seen = []
    for left in (3, None):
        with (
            contextlib.suppress(Killed),
            luthier.run(tmp_path / "c", seed=0, verbose=False, checkpoint_every_steps=1) as run,
        ):
            for epoch in run.epochs(5):
                seen.append(epoch)
                if epoch == left:
                    raise Killed
    assert seen == [0, 1, 2, 3, 3, 4]
    assert run.global_step == 5


def test_an_epoch_that_is_left_by_break_has_its_row_and_one_cut_off_has_none(tmp_path: Path) -> None:
    life = Life(tmp_path / "a")
    with life.start() as run:
        for epoch in run.epochs(5):
            run.log(loss=1.0)
            if epoch == 1:
                break
    assert [row["epoch"] for row in run.record.epochs] == [0, 1]
    life = Life(tmp_path / "b", left=5)
    with pytest.raises(Killed):
        plain(life)
    assert [row["epoch"] for row in luthier.read_record(tmp_path / "b" / "record.jsonl").epochs] == [0]


def test_more_epochs_go_on_with_a_finished_run(tmp_path: Path) -> None:
    for epochs in (2, 4):
        life = Life(tmp_path)
        with life.start(data=X) as run:
            for _ in run.epochs(epochs):
                for x in run.batches(X, batch_size=25):
                    run.log(loss=life.update(x, x.sum(1, keepdim=True)))
    assert [row["epoch"] for row in run.record.epochs] == [0, 1, 2, 3]
    whole = Life(tmp_path / "whole")
    with whole.start(data=X) as run:
        for _ in run.epochs(4):
            for x in run.batches(X, batch_size=25):
                run.log(loss=whole.update(x, x.sum(1, keepdim=True)))
    assert whole.outcome(run)[0] == life.outcome(run)[0]


def test_the_best_weights_are_kept_over_lives(tmp_path: Path) -> None:
    figures = [3.0, 1.0, float("nan"), 2.0, 1.5]

    def script(life: Life) -> luthier.CustomRun:
        with life.start(data=X) as run:
            for epoch in run.epochs(5):
                for x in run.batches(X, batch_size=50):
                    life.update(x, x.sum(1, keepdim=True))
                life.seen.append(run.best.update(figures[epoch]))
            before = {name: value.clone() for name, value in life.net.state_dict().items()}
            run.best.restore()
            life.seen.append(any(not torch.equal(value, before[name]) for name, value in life.net.state_dict().items()))
        assert (run.best.value, run.best.epoch, run.best.step) == (1.0, 1, 2)
        return run

    life = Life(tmp_path / "a")
    whole = life.outcome(script(life))
    assert life.seen == [True, True, False, False, False, True]
    assert lives(script, tmp_path / "b", 3) == whole
    with Life(tmp_path / "c").start() as run, pytest.raises(RunError, match="no best weights"):
        run.best.restore()
    assert run.best.update(2.0)
    assert run.best.update(torch.tensor(3.0), higher_is_better=True)


def test_a_time_limit_leaves_the_body_and_the_run_goes_on(tmp_path: Path) -> None:
    count = 0
    while True:
        life = Life(tmp_path)
        with life.start(data=X, max_time_s=1e-9 if count < 3 else None) as run:
            for _ in run.epochs(2):
                for x in run.batches(X, batch_size=50):
                    life.update(x, x.sum(1, keepdim=True))
            assert count == 3
        if run.is_done:
            break
        assert run.stopped == "the time limit of 1e-09 s is reached"
        count += 1
    assert run.stopped is None
    assert run.global_step == 2


SCRIPT = """
import os, signal, sys, torch, luthier
torch.manual_seed(0)
net = torch.nn.Linear(4, 1)
x = torch.randn(64, 4)
with luthier.run("run", net=net, data=x, seed=0, verbose=False, watched=False) as run:
    for epoch in run.epochs(2):
        for batch in run.batches(x, batch_size=8):
            with torch.no_grad():
                net.weight += batch.mean(0)
            if run.global_step == 5 and len(sys.argv) > 1:
                os.kill(os.getpid(), getattr(signal, sys.argv[1]))
                if len(sys.argv) > 2:
                    os.kill(os.getpid(), getattr(signal, sys.argv[1]))
print(net.weight.tolist(), run.is_done)
"""


def test_signals_save_and_leave(tmp_path: Path) -> None:
    def call(place: Path, *more: str) -> subprocess.CompletedProcess[str]:
        place.mkdir(exist_ok=True)
        return subprocess.run(
            [sys.executable, "-c", SCRIPT, *more], cwd=place, capture_output=True, text=True, check=False
        )

    whole = call(tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    stopped = call(tmp_path / "a", "SIGTERM")
    assert stopped.returncode == 143
    assert "Traceback" not in stopped.stderr
    assert call(tmp_path / "a").stdout == whole.stdout
    assert "KeyboardInterrupt" in call(tmp_path / "b", "SIGINT").stderr
    assert call(tmp_path / "b").stdout == whole.stdout
    assert "KeyboardInterrupt" in call(tmp_path / "c", "SIGINT", "again").stderr
    assert call(tmp_path / "c").stdout == whole.stdout


def test_a_figure_that_is_not_finite_is_traced_when_the_script_is_started_again(tmp_path: Path) -> None:
    def script() -> None:
        torch.manual_seed(0)
        net = nn.Linear(2, 1)
        x = torch.ones(12, 2)
        x[7] = 0.0
        with luthier.run(tmp_path, net=net, data=x, seed=0, verbose=False) as run:
            for _ in run.epochs(2):
                for batch in run.batches(x, batch_size=4):
                    loss = (net(batch).sum(1) * batch.sum(1).log()).mean()
                    loss.backward()
                    run.log(loss=loss)

    with pytest.raises(TrainingError, match=r"loss is .*in epoch 1") as caught:
        script()
    assert "start the script again" in str(caught.value.hint)
    with pytest.raises(TrainingError, match="forward, log"):
        script()


def test_what_is_not_kept_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    teacher = nn.Linear(4, 1)
    count, total = 0, torch.zeros(())
    box = torch.zeros(2)

    def bump() -> None:
        box.add_(1)

    fixed, life = nn.Linear(4, 1), Life(tmp_path)
    with life.start(data=X) as run:
        for _ in run.epochs(2):
            for x in run.batches(X, batch_size=25):
                loss = life.update(x, x.sum(1, keepdim=True) + fixed(x).detach())
                count += 1
                total = total + loss
                bump()
                with torch.no_grad():
                    teacher.weight.lerp_(next(life.net.parameters())[:1], 0.1)
    words = " ".join(record.message for record in caplog.records)
    for name in ("count", "total", "teacher", "box of bump"):
        assert f"changes {name}," in words, name
    for name in ("fixed", "loss", "x,", "life"):
        assert f"changes {name}" not in words
    assert (count, float(total) > 0) == (4, True)


def test_what_each_round_makes_anew_is_not_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    life, data = Life(tmp_path), (X, Y)
    with life.start(data=data) as run:
        total = 0.0
        for epoch in run.epochs(3):
            noise, seen = 0.1 / (epoch + 1), epoch * 2.0
            for x, y in run.batches(data, batch_size=25):
                for _ in range(2):
                    loss = life.update(x + noise, y)
                seen += 1.0
                total += float(loss) * seen
    words = " ".join(record.message for record in caplog.records)
    assert "noise" not in words
    assert "loss," not in words
    assert "changes seen," in words
    assert "changes total," in words


def test_what_differs_from_the_checkpoint_is_named_at_a_resume(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for noise in (0.1, 0.2):
        life = Life(tmp_path, left=3 if noise == 0.1 else None)
        try:
            with life.start(data=X) as run:
                for _ in run.epochs(2):
                    for x in run.batches(X, batch_size=25):
                        life.update(x + noise, x.sum(1, keepdim=True))
        except Killed:
            continue
    assert run.is_done
    assert "not as in the checkpoint: noise" in caplog.text


def test_environments_come_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Wrapper:
        def __init__(self, env: Any) -> None:
            self.env, self.count, self.last = env, 0, deque([0.0], maxlen=3)

        def step(self) -> float:
            self.count += 1
            self.last.append(self.env.step() + self.count)
            return float(sum(self.last))

    class Vector:
        def __init__(self, envs: list[Any]) -> None:
            self.envs = tuple(envs)

        def step(self) -> float:
            return float(sum(env.step() for env in self.envs))

    class Env:
        def __init__(self) -> None:
            self.state, self.rng = np.zeros(2), np.random.default_rng(0)
            self.lazy: random.Random | None = None

        def step(self) -> float:
            self.lazy = self.lazy or random.Random(1)
            self.state = self.state + self.rng.normal(size=2) + self.lazy.random()
            return float(self.state.sum())

    def deep() -> Any:
        return Vector([Wrapper(Wrapper(Wrapper(Wrapper(Env())))), Wrapper(Env())])

    def script(left: int | None) -> list[float]:
        env = deep()
        seen: list[float] = []
        with luthier.run(
            tmp_path, env=env, seen=seen, seed=0, checkpoint_every_steps=1, verbose=False, watched=False
        ) as run:
            for step in run.steps(6):
                seen.append(env.step())
                if step == left:
                    raise Killed
        return seen

    with pytest.raises(Killed):
        script(3)
    found = script(None)
    again = deep()
    assert found == [again.step() for _ in range(6)]
    assert caplog.text == ""

    class Opaque:
        def __init__(self) -> None:
            self.handle = iter([1, 2])

    with luthier.run(tmp_path / "b", env=Opaque(), seed=0, verbose=False):
        pass
    assert "a checkpoint cannot save env.handle of env" in caplog.text


def wrong_parts(place: Path) -> Iterator[tuple[str, Callable[[], Any], type[LuthierError]]]:
    net = nn.Linear(4, 1)

    def started(**given: Any) -> Any:
        with luthier.run(place / "new", seed=0, verbose=False, **given) as run:
            return run

    yield "called 'best'", lambda: started(best=3), SettingError
    yield "called 'epochs'", lambda: started(epochs=3), SettingError
    yield "nets is a list of Linear", lambda: started(nets=[net]), SettingError
    yield "keeps, and cannot be replaced", lambda: setattr(started(net=net), "net", nn.Linear(4, 1)), SettingError
    yield "seed in the recipe", lambda: luthier.run(place / "new", seed="a"), SettingError  # type: ignore[arg-type]
    yield "max_time_s is -1", lambda: luthier.run(place / "new", max_time_s=-1), SettingError
    yield "has no part and no attribute 'nett'", lambda: started(net=net).nett, AttributeError  # type: ignore[misc]


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    for words, call, kind in wrong_parts(tmp_path):
        with pytest.raises(kind, match=words):
            call()
    life = Life(tmp_path / "a")
    with life.start(data=X) as run:
        with pytest.raises(SettingError, match="log takes one number"):
            run.log(loss=torch.zeros(2))
        with pytest.raises(SettingError, match="log takes one number"):
            run.log(loss="high")
        with pytest.raises(SettingError, match="nothing to measure"):
            run.validate(life.net, (X, Y))
        with pytest.raises(DataError, match="have 3 and 50 samples"):
            next(run.batches((X, Y[:3])))
        with pytest.raises(DataError, match="holds no sample"):
            next(run.batches(X[:0]))
        with pytest.raises(SettingError, match="batch_size would be ignored"):
            next(run.batches(DataLoader(TensorDataset(X)), batch_size=7))


@pytest.mark.parametrize(
    ("words", "change"),
    [
        ("net was module Sequential of 49 parameters and is module Linear", {"net": nn.Linear(4, 1)}),
        ("the data data has changed", {"data": X + 1}),
        ("seed was 0 and is 1", {"seed": 1}),
        ("extra was None and is value", {"extra": 2}),
    ],
)
def test_another_call_in_the_same_folder_is_refused(words: str, change: dict[str, Any], tmp_path: Path) -> None:
    plain(Life(tmp_path))
    life = Life(tmp_path)
    given = {"net": life.net, "opt": life.opt, "data": (X, Y), "seed": 0, "verbose": False, **change}
    if "data" in change:
        given["data"] = (X + 1, Y)
    with pytest.raises(RunError, match=words), luthier.run(tmp_path, **given):
        pass


def test_other_loops_and_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        plain(Life(tmp_path / "a", 5))
    life = Life(tmp_path / "a")
    with pytest.raises(RunError, match="epochs was in the place of steps"), life.start(data=(X, Y)) as run:
        next(run.steps(3))
    x = torch.randn(8, 4)
    luthier.fit(
        nn.Linear(4, 1), (x, x[:, :1]), criterion="mse", optimizer="SGD", epochs=1, run=tmp_path / "fit", seed=0,
        verbose=False,
    )  # fmt: skip
    with pytest.raises(RunError, match="is a run of fit"):
        plain(Life(tmp_path / "fit"))
    with Life(tmp_path / "b").start(data=(X, Y)), pytest.raises(RunError, match="another process is training"):
        plain(Life(tmp_path / "b"))


def test_a_run_goes_on_within_an_epoch_over_a_tensor_that_was_handed_over(tmp_path: Path) -> None:
    counts = []
    for left in (3, None):
        life = Life(tmp_path, left)
        inputs, count = X.clone(), 0
        with contextlib.suppress(Killed), life.start(inputs=inputs) as run:
            for _ in run.epochs(1):
                for x in run.batches(inputs, batch_size=10):
                    life.update(x, x.sum(1, keepdim=True))
                    count += 1
        counts.append(count)
    assert counts == [3, 2]


def test_a_tensor_or_array_that_the_loop_replaces_comes_back(tmp_path: Path) -> None:
    def script(left: int | None, folder: Path) -> list[float]:
        life = Life(folder, left)
        first, total, array = torch.zeros(1), torch.zeros(1), np.zeros(2, dtype=np.float32)
        with life.start(state=first, total=total, array=array) as run:
            for step in run.steps(6):
                loss = life.update(torch.cat([run.state, torch.ones(3)]), torch.ones(1) * float(run.array.sum()))
                run.state = loss.reshape(1)
                run.array = np.full(3 + step, float(loss), dtype=np.float32)
                run.total += loss
        assert first.item() == 0.0
        assert total is run.total
        return [run.state.item(), total.item(), *run.array.tolist()]

    with pytest.raises(Killed):
        script(4, tmp_path / "a")
    assert script(None, tmp_path / "a") == script(None, tmp_path / "b")


def test_tensors_in_dicts_and_tuples_come_back_or_are_data(tmp_path: Path) -> None:
    def script(left: int | None, folder: Path) -> list[list[float]]:
        life = Life(folder, left)
        average = {name: value.clone() for name, value in life.net.state_dict().items()}
        weight, hidden = average["2.weight"], (torch.zeros(1, 2), torch.zeros(1, 2))
        with life.start(average=average, hidden=hidden, inputs=(X,)) as run:
            for _ in run.epochs(2):
                for (x,) in run.batches(run.inputs, batch_size=10):
                    life.update(x, x.sum(1, keepdim=True) + run.hidden[0].sum() - run.hidden[1].sum())
                    for name, value in life.net.state_dict().items():
                        average[name].lerp_(value, 0.5)
                    run.hidden = (run.hidden[0] + x.mean(), run.hidden[1] * x.mean())
        assert weight is run.average["2.weight"]
        return [*(value.flatten().tolist() for value in (*average.values(), *run.hidden))]

    with pytest.raises(Killed):
        script(4, tmp_path / "a")
    assert script(None, tmp_path / "a") == script(None, tmp_path / "b")

    pair = (torch.zeros(2), torch.zeros(2))

    def changing() -> None:
        with Life(tmp_path / "c").start(pair=pair) as run:
            for _ in run.steps(2):
                pair[0].add_(1)

    with pytest.raises(SettingError, match="pair changes while the loop"):
        changing()


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path) -> None:
    whole = lives(plain, tmp_path / "whole")
    with pytest.raises(Killed):
        plain(Life(tmp_path / "a", 6))
    newest = max((tmp_path / "a" / "checkpoints").glob("*.safetensors"))
    newest.write_bytes(newest.read_bytes()[:-9])
    assert lives(plain, tmp_path / "a") == whole


def test_a_damaged_record_is_written_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = lives(plain, tmp_path / "whole")
    for text in ("{\n", "no json", ""):
        with pytest.raises(Killed):
            plain(Life(tmp_path / f"a{len(text)}", 6))
        (tmp_path / f"a{len(text)}" / "record.jsonl").write_text(text)
        assert lives(plain, tmp_path / f"a{len(text)}") == whole
    assert "is damaged" in caplog.text


def test_an_open_file_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with (tmp_path / "a.txt").open("w") as file, luthier.run(tmp_path / "run", file=file, seed=0, verbose=False):
        pass
    assert "a checkpoint cannot save file of file" in caplog.text


def test_several_processes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingError), Life(tmp_path).start():
        pass


def test_generators_of_the_caller_stay_as_they_were(tmp_path: Path) -> None:
    torch.manual_seed(9)
    expected = torch.rand(1)
    life = Life(tmp_path)
    torch.manual_seed(9)
    with life.start(data=X) as run:
        for _ in run.epochs(1):
            torch.rand(5)
    assert torch.equal(torch.rand(1), expected)


def test_watching_says_what_is_wrong_and_nothing_of_what_is_right(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain(Life(tmp_path / "a"))
    assert caplog.text == ""
    life = Life(tmp_path / "b")
    with life.start(watched=True, data=X) as run:
        for _ in run.epochs(4):
            for x in run.batches(X, batch_size=10):
                loss = nn.functional.mse_loss(life.net(x), x.sum(1, keepdim=True))
                loss.backward()  # and no zero_grad
                life.opt.step()
    assert "check-zero-grad" in [finding.code for finding in run.findings]


def test_a_forward_pass_whose_backward_an_error_cut_off_is_no_finding(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    life = Life(tmp_path)
    with contextlib.suppress(Killed), life.start(inputs=X, watched=True) as run:
        for _ in run.epochs(1):
            for x in run.batches(X, batch_size=10):
                life.update(x, x.sum(1, keepdim=True))
                if run.batch == 3:
                    life.net(x)
                    raise Killed
    assert "without a backward pass" not in caplog.text


def test_trackers_get_the_rows(tmp_path: Path) -> None:
    life = Life(tmp_path)
    with life.start(data=X, trackers=["csv"], width=8) as run:
        for _ in run.epochs(2):
            for x in run.batches(X, batch_size=25):
                run.log(loss=life.update(x, x.sum(1, keepdim=True)))
    lines = (tmp_path / "tracking.csv").read_text().splitlines()
    assert ",recipe.width,8" in lines
    assert sum(line.startswith(("2,loss,", "4,loss,")) for line in lines) == 3  # two epochs, and the last figures


def test_lines_are_printed_where_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    life = Life(tmp_path)
    with life.start(data=X, verbose=True) as run:
        for _ in run.epochs(2):
            run.log(loss_d=0.5)
            run.best.update(0.5)
    out = capsys.readouterr().out.splitlines()
    assert out[0].split()[:3] == ["epoch", "loss", "d"]
    assert out[1].split()[:2] == ["1", "0.5000"]
    assert out[1].endswith("*")
    assert len(out) == 3


def test_the_log_is_quiet_and_files_are_those_of_a_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    plain(Life(tmp_path / "a"))
    assert sorted(os.listdir(tmp_path / "a")) == ["checkpoints", "record.jsonl"]
    assert json.loads((tmp_path / "a" / "record.jsonl").read_text().splitlines()[0])["event"] == "start"
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert caplog.text == ""
