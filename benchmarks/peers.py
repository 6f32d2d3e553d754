"""Other libraries' loops for benchmarks.speed, with their defaults, over the works of benchmarks.loops.

They are imported where they are called, from an environment of their own (`benchmarks.speed --peers PYTHON`), and get
the data as their documentation does: a DataLoader for those that take one, arrays for the others.
"""

import os
import tempfile
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.loops import Loop, Work


def loaders(work: Work) -> tuple[DataLoader[Any], DataLoader[Any]]:
    train = DataLoader(TensorDataset(*work.train), batch_size=work.batch_size, shuffle=True)
    return train, DataLoader(TensorDataset(*work.valid), batch_size=work.batch_size)


def lightning(work: Work, net: nn.Module, epochs: int) -> None:
    """All defaults on: logger, checkpoint, bar, summary, sanity check; losses by `self.log`."""
    import lightning as L

    class Module(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.criterion = net, nn.CrossEntropyLoss()

        def training_step(self, batch: Any, _: int) -> Any:
            loss = self.criterion(self.net(batch[0]), batch[1])
            self.log("train_loss", loss)
            return loss

        def validation_step(self, batch: Any, _: int) -> None:
            self.log("valid_loss", self.criterion(self.net(batch[0]), batch[1]), prog_bar=True)

        def configure_optimizers(self) -> Any:
            return work.new_optimizer(self)

    with tempfile.TemporaryDirectory() as place:
        trainer = L.Trainer(max_epochs=epochs, default_root_dir=place, accelerator="cpu")
        trainer.fit(Module(), *loaders(work))


def ignite(work: Work, net: nn.Module, epochs: int) -> None:
    """Its supervised trainer and evaluator, with running and validation loss."""
    from ignite.engine import Events, create_supervised_evaluator, create_supervised_trainer
    from ignite.metrics import Loss, RunningAverage

    train, valid = loaders(work)
    criterion = nn.CrossEntropyLoss()
    trainer = create_supervised_trainer(net, work.new_optimizer(net), criterion)
    RunningAverage(output_transform=lambda loss: loss).attach(trainer, "loss")
    evaluator = create_supervised_evaluator(net, metrics={"loss": Loss(criterion)})
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda _: evaluator.run(valid))
    trainer.run(train, max_epochs=epochs)


def accelerate(work: Work, net: nn.Module, epochs: int) -> None:
    """The loop of its documentation."""
    from accelerate import Accelerator

    helper = Accelerator(cpu=True)
    train, valid = loaders(work)
    net, optimizer, train, valid = helper.prepare(net, work.new_optimizer(net), train, valid)
    criterion = nn.CrossEntropyLoss()
    for _ in range(epochs):
        net.train()
        for x, y in train:
            optimizer.zero_grad()
            loss = criterion(net(x), y)
            helper.backward(loss)
            optimizer.step()
        net.eval()
        with torch.no_grad():
            for x, y in valid:
                outputs, targets = helper.gather_for_metrics((net(x), y))
                criterion(outputs, targets).item()


def skorch(work: Work, net: nn.Module, epochs: int) -> None:
    """`NeuralNetClassifier` over arrays, validated on the work's own rows."""
    import numpy as np
    import skorch as sk
    from skorch.dataset import Dataset
    from skorch.helper import predefined_split

    x, y = (part.numpy() for part in work.train)
    valid = Dataset(*(part.numpy() for part in work.valid))
    settings = {f"optimizer__{name}": value for name, value in work.settings.items() if name != "lr"}
    classifier = sk.NeuralNetClassifier(
        net, criterion=nn.CrossEntropyLoss, optimizer=getattr(torch.optim, work.optimizer), lr=work.settings["lr"],
        max_epochs=epochs, batch_size=work.batch_size, iterator_train__shuffle=True,
        train_split=predefined_split(valid), **settings,
    )  # fmt: skip
    classifier.fit(x, y.astype(np.int64))


def fastai(work: Work, net: nn.Module, epochs: int) -> None:
    """A `Learner` with its Recorder and accuracy, and its own optimizer of the same name."""
    from fastai.basics import DataLoaders, Learner, accuracy
    from fastai.data.load import DataLoader as FastLoader
    from fastai.optimizer import SGD, Adam

    train, valid = (
        FastLoader(TensorDataset(*data), bs=work.batch_size, shuffle=shuffle, num_workers=0)
        for data, shuffle in ((work.train, True), (work.valid, False))
    )
    chosen: Any = SGD if work.optimizer == "SGD" else Adam
    learner = Learner(
        DataLoaders(train, valid), net, loss_func=nn.CrossEntropyLoss(), opt_func=chosen, lr=work.settings["lr"],
        metrics=accuracy,
    )  # fmt: skip
    learner.fit(epochs)


def keras(work: Work, net: nn.Module, epochs: int) -> None:
    """Its own layers of the same sizes, on its torch backend, with `fit` on arrays."""
    os.environ["KERAS_BACKEND"] = "torch"
    import keras as k

    layers: list[Any] = []
    if work.name.startswith("MLP"):
        layers = [k.layers.Dense(128, activation="relu"), k.layers.Dense(128, activation="relu"), k.layers.Dense(10)]
    elif work.name.startswith("CNN"):
        for width in (32, 64):
            layers += [k.layers.Conv2D(width, 3, padding="same", data_format="channels_first")]
            layers += [k.layers.BatchNormalization(axis=1), k.layers.ReLU()]
            layers += [k.layers.MaxPooling2D(2, data_format="channels_first")]
        layers += [k.layers.Flatten(), k.layers.Dropout(0.25), k.layers.Dense(128, activation="relu")]
        layers += [k.layers.Dense(10)]
    elif work.name.startswith("LSTM"):
        layers = [k.layers.LSTM(64), k.layers.Dense(4)]
    else:
        layers = [k.layers.Dense(4)]
    lr, momentum = work.settings["lr"], work.settings.get("momentum", 0.0)
    optimizer = k.optimizers.SGD(lr, momentum=momentum) if work.optimizer == "SGD" else k.optimizers.Adam(lr)
    model = k.Sequential([k.Input(work.train[0].shape[1:]), *layers])
    model.compile(optimizer, k.losses.SparseCategoricalCrossentropy(from_logits=True))
    x, y = (part.numpy() for part in work.train)
    valid = tuple(part.numpy() for part in work.valid)
    model.fit(x, y, batch_size=work.batch_size, epochs=epochs, validation_data=valid)


def sklearn(work: Work, net: nn.Module, epochs: int) -> None:
    """`MLPClassifier`, its gradient written by hand; for rows of numbers alone."""
    from sklearn.neural_network import MLPClassifier

    if not work.name.startswith(("MLP", "Linear")):
        raise SystemExit("scikit-learn has no such network")
    name = {"Adam": "adam", "SGD": "sgd"}[work.optimizer]
    classifier = MLPClassifier(
        (128, 128) if work.name.startswith("MLP") else (), solver=name, batch_size=work.batch_size,
        learning_rate_init=work.settings["lr"], max_iter=epochs, alpha=0.0, momentum=0.0, tol=0.0,
    )  # fmt: skip
    x, y = (part.numpy() for part in work.train)
    classifier.fit(x, y)
    for _ in range(epochs):
        classifier.predict_proba(work.valid[0].numpy())


PEERS: dict[str, Loop] = {
    "lightning": lightning, "keras (torch)": keras, "fastai": fastai, "skorch": skorch, "ignite": ignite,
    "accelerate": accelerate, "scikit-learn": sklearn,
}  # fmt: skip
