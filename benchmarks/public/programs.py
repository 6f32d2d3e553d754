# ruff: noqa: E501  (rows of a table)
# mypy: disable-error-code="no-any-return,no-untyped-call"
"""Adapters: each takes a public program as far as its loop, and hands over what that would train."""

import types
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from tests.checks.kit.program import Parts
from torch import Tensor, nn, optim
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.public.loading import Sources, cancer, characters, digits, english, halves, loaders, series, words

Maker = Callable[[Sources], Parts]
PROGRAMS: dict[str, Maker] = {}


def public(name: str) -> Callable[[Maker], Maker]:
    """Add a program by its name."""

    def keep(make: Maker) -> Maker:
        PROGRAMS[name] = make
        return make

    return keep


def whole(model: nn.Module, step: Any, optimizer: Any, *columns: Any) -> Parts:
    """A program that trains on one batch, all there is, by its own step."""
    return Parts(model, columns, None, optimizer=optimizer, step=step)


def by(criterion: Any, read: Callable[[Any], Any] = lambda out: out) -> Any:
    """A step of a model over inputs, whose (read) answer a criterion compares with the last of a batch."""

    def step(model: nn.Module, batch: Any) -> Any:
        return criterion(read(model(*batch[:-1])), batch[-1])

    return step


def flat(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1))


# graykode/nlp-tutorial: a model a file, over a few sentences

NLP = "graykode/nlp-tutorial"


def tutorial(sources: Sources, path: str, until: str = "for epoch in range", **put: str) -> Any:
    return sources.script(NLP, path, until=until, put=put)


@public("nlp-nnlm")
def _(sources: Sources) -> Parts:
    p = tutorial(sources, "1-1.NNLM/NNLM.py")
    return Parts(p.model, (p.input_batch, p.target_batch), None, p.criterion, p.optimizer)


@public("nlp-word2vec")
def _(sources: Sources) -> Parts:
    p = tutorial(sources, "1-2.Word2Vec/Word2Vec-Skipgram(Softmax).py")
    pairs = torch.tensor(p.skip_grams)
    return Parts(p.model, (F.one_hot(pairs[:, 0], p.voc_size).float(), pairs[:, 1]), None, p.criterion, p.optimizer)


@public("nlp-textcnn")
def _(sources: Sources) -> Parts:
    p = tutorial(sources, "2-1.TextCNN/TextCNN.py")
    return Parts(p.model, (p.inputs, p.targets), None, p.criterion, p.optimizer)


@public("nlp-textrnn")
def _(sources: Sources) -> Parts:
    p = tutorial(sources, "3-1.TextRNN/TextRNN.py")

    def step(model: nn.Module, batch: Any) -> Tensor:
        return p.criterion(model(torch.zeros(1, len(batch[0]), p.n_hidden), batch[0]), batch[1])

    return whole(p.model, step, p.optimizer, p.input_batch, p.target_batch)


@public("nlp-textlstm")
def _(sources: Sources) -> Parts:
    p = tutorial(sources, "3-2.TextLSTM/TextLSTM.py")
    return Parts(p.model, (p.input_batch, p.target_batch), None, p.criterion, p.optimizer)


@public("nlp-bilstm")
def _(sources: Sources) -> Parts:
    p = tutorial(sources, "3-3.Bi-LSTM/Bi-LSTM.py")
    return Parts(p.model, (p.input_batch, p.target_batch), None, p.criterion, p.optimizer)


@public("nlp-seq2seq")
def _(sources: Sources) -> Parts:
    p = tutorial(sources, "4-1.Seq2Seq/Seq2Seq.py")

    def step(model: nn.Module, batch: Any) -> Tensor:
        source, target_in, target = batch
        out = model(source, torch.zeros(1, len(source), p.n_hidden), target_in).transpose(0, 1)
        return sum((p.criterion(out[i], target[i]) for i in range(len(target))), torch.zeros(()))

    return whole(p.model, step, p.optimizer, p.input_batch, p.output_batch, p.target_batch)


@public("nlp-bilstm-attention")
def _(sources: Sources) -> Parts:
    p = tutorial(sources, "4-3.Bi-LSTM(Attention)/Bi-LSTM(Attention).py")
    return Parts(p.model, (p.inputs, p.targets), None, lambda out, y: p.criterion(out[0], y), p.optimizer)


@public("nlp-transformer")
def _(sources: Sources) -> Parts:
    p = tutorial(sources, "5-1.Transformer/Transformer.py", **{"n_layers = 6": "n_layers = 2"})
    return Parts(p.model, (p.enc_inputs, p.dec_inputs, p.target_batch), None,
                 lambda out, y: p.criterion(out[0], y.contiguous().view(-1)), p.optimizer)  # fmt: skip


@public("nlp-bert")
def _(sources: Sources) -> Parts:
    p = tutorial(sources, "5-2.BERT/BERT.py", **{"n_layers = 6": "n_layers = 2"})

    def step(model: nn.Module, batch: Any) -> Tensor:
        ids, segments, tokens, places, is_next = batch
        words_out, next_out = model(ids, segments, places)
        return p.criterion(words_out.transpose(1, 2), tokens).float().mean() + p.criterion(next_out, is_next)

    columns = (p.input_ids, p.segment_ids, p.masked_tokens, p.masked_pos, p.isNext)
    return whole(p.model, step, p.optimizer, *columns)


# hunkim/PyTorchZeroToAll

ZERO = "hunkim/PyTorchZeroToAll"
NO_FILE = {"np.loadtxt('./data/diabetes.csv.gz', delimiter=',', dtype=np.float32)": "TABLE()"}


@public("zero-linear-regression")
def _(sources: Sources) -> Parts:
    p = sources.script(ZERO, "05_linear_regression.py", until="for epoch")
    return Parts(p.model, (p.x_data, p.y_data), None, p.criterion, p.optimizer)


@public("zero-logistic-regression")
def _(sources: Sources) -> Parts:
    p = sources.script(ZERO, "06_logistic_regression.py", until="for epoch")
    return Parts(p.model, (p.x_data, p.y_data), None, p.criterion, p.optimizer)


@public("zero-deep-logistic")
def _(sources: Sources) -> Parts:
    put = {
        "xy = np.loadtxt('./data/diabetes.csv.gz', delimiter=',', dtype=np.float32)": "from benchmarks.public.loading import cancer; x, y = cancer(); xy = np.concatenate([x[:, :8].clamp(-3, 3) / 3, y[:, None]], 1).astype(np.float32)"
    }
    p = sources.script(ZERO, "07_diabets_logistic.py", until="for epoch", put=put)
    return Parts(p.model, (p.x_data, p.y_data), None, p.criterion, p.optimizer)


@public("zero-hello-rnn-embedding")
def _(sources: Sources) -> Parts:
    p = sources.script(ZERO, "12_4_hello_rnn_emb.py", until="for epoch")
    return whole(p.model, lambda m, batch: p.criterion(m(batch[0]), batch[1].flatten()), p.optimizer, p.inputs,
                 p.labels[None])  # fmt: skip


@public("zero-mnist-cnn")
def _(sources: Sources) -> Parts:
    p = sources.script(ZERO, "10_1_cnn_mnist.py", until="def train(")
    return Parts(p.model, p.train_loader, p.test_loader, F.nll_loss, p.optimizer)


@public("zero-mnist-softmax")
def _(sources: Sources) -> Parts:
    p = sources.script(ZERO, "09_2_softmax_mnist.py", until="def train(")
    return Parts(p.model, p.train_loader, p.test_loader, p.criterion, p.optimizer)


@public("zero-mnist-inception")
def _(sources: Sources) -> Parts:
    p = sources.script(ZERO, "11_1_toy_inception_mnist.py", until="def train(")
    return Parts(p.model, p.train_loader, p.test_loader, F.nll_loss, p.optimizer)


# MorvanZhou/PyTorch-Tutorial

MOFAN, CONTENTS = "MorvanZhou/PyTorch-Tutorial", "tutorial-contents/"


@public("mofan-regression")
def _(sources: Sources) -> Parts:
    p = sources.script(MOFAN, CONTENTS + "301_regression.py", until="plt.ion()")
    return Parts(p.net, (p.x, p.y), None, p.loss_func, p.optimizer)


@public("mofan-classification")
def _(sources: Sources) -> Parts:
    p = sources.script(MOFAN, CONTENTS + "302_classification.py", until="plt.ion()")
    return Parts(p.net, (p.x, p.y), None, p.loss_func, p.optimizer)


@public("mofan-cnn")
def _(sources: Sources) -> Parts:
    p = sources.script(MOFAN, CONTENTS + "401_CNN.py", until="# following function")
    valid = (p.test_x, p.test_y)
    return Parts(p.cnn, p.train_loader, valid, lambda out, y: p.loss_func(out[0], y), p.optimizer)


@public("mofan-rnn-classifier")
def _(sources: Sources) -> Parts:
    p = sources.script(MOFAN, CONTENTS + "402_RNN_classifier.py", until="# training and testing")

    def step(model: nn.Module, batch: Any) -> Tensor:
        return p.loss_func(model(batch[0].view(-1, 28, 28)), batch[1])

    return Parts(p.rnn, p.train_loader, None, optimizer=p.optimizer, step=step)


@public("mofan-autoencoder")
def _(sources: Sources) -> Parts:
    p = sources.script(MOFAN, CONTENTS + "404_autoencoder.py", until="# initialize figure")

    def step(model: nn.Module, batch: Any) -> Tensor:
        x = batch[0].view(-1, 28 * 28)
        return p.loss_func(model(x)[1], x)

    return Parts(p.autoencoder, p.train_loader, None, optimizer=p.optimizer, step=step)


@public("mofan-dropout")
def _(sources: Sources) -> Parts:
    p = sources.script(MOFAN, CONTENTS + "503_dropout.py", until="plt.ion()")
    return Parts(p.net_dropped, (p.x, p.y), (p.test_x, p.test_y), p.loss_func, p.optimizer_drop)


@public("mofan-batch-normalization")
def _(sources: Sources) -> Parts:
    p = sources.script(MOFAN, CONTENTS + "504_batch_normalization.py", until="def plot_histogram")
    return Parts(
        p.nets[1], p.train_dataset.tensors, (p.test_x, p.test_y), lambda out, y: p.loss_func(out[0], y), p.opts[1]
    )


@public("mofan-gan")
def _(sources: Sources) -> Parts:
    p = sources.script(MOFAN, CONTENTS + "406_GAN.py", until="plt.ion()")

    def loop() -> None:
        for _ in range(40):
            real, fake = p.artist_works(), p.G(torch.randn(p.BATCH_SIZE, p.N_IDEAS, requires_grad=True))
            loss = torch.mean(torch.log(1.0 - p.D(fake)))
            p.opt_G.zero_grad()
            loss.backward()
            p.opt_G.step()
            loss = -torch.mean(torch.log(p.D(real)) + torch.log(1.0 - p.D(fake.detach())))
            p.opt_D.zero_grad()
            loss.backward(retain_graph=True)
            p.opt_D.step()

    return Parts(p.D, None, None, optimizer=[p.opt_D, p.opt_G], loop=loop)


# yunjey/pytorch-tutorial

YUNJEY = "yunjey/pytorch-tutorial"


@public("yunjey-linear-regression")
def _(sources: Sources) -> Parts:
    p = sources.script(YUNJEY, "tutorials/01-basics/linear_regression/main.py", until="for epoch")
    data = (torch.from_numpy(p.x_train), torch.from_numpy(p.y_train))
    return Parts(p.model, data, None, p.criterion, p.optimizer)


@public("yunjey-logistic-regression")
def _(sources: Sources) -> Parts:
    p = sources.script(YUNJEY, "tutorials/01-basics/logistic_regression/main.py", until="# Train the model")

    def step(model: nn.Module, batch: Any) -> Tensor:
        return p.criterion(model(batch[0].reshape(-1, p.input_size)), batch[1])

    return Parts(p.model, p.train_loader, p.test_loader, optimizer=p.optimizer, step=step)


@public("yunjey-feedforward")
def _(sources: Sources) -> Parts:
    p = sources.script(YUNJEY, "tutorials/01-basics/feedforward_neural_network/main.py", until="# Train the model")

    def step(model: nn.Module, batch: Any) -> Tensor:
        return p.criterion(model(batch[0].reshape(-1, 28 * 28)), batch[1])

    return Parts(p.model, p.train_loader, p.test_loader, optimizer=p.optimizer, step=step)


@public("yunjey-convnet")
def _(sources: Sources) -> Parts:
    path = "tutorials/02-intermediate/convolutional_neural_network/main.py"
    p = sources.script(YUNJEY, path, until="# Train the model")
    return Parts(p.model, p.train_loader, p.test_loader, p.criterion, p.optimizer)


@public("yunjey-resnet")
def _(sources: Sources) -> Parts:
    path = "tutorials/02-intermediate/deep_residual_network/main.py"
    p = sources.script(YUNJEY, path, until="# For updating learning rate")
    return Parts(p.model, p.train_loader, p.test_loader, p.criterion, p.optimizer)


@public("yunjey-rnn")
def _(sources: Sources) -> Parts:
    p = sources.script(YUNJEY, "tutorials/02-intermediate/recurrent_neural_network/main.py", until="# Train the model")

    def step(model: nn.Module, batch: Any) -> Tensor:
        return p.criterion(model(batch[0].reshape(-1, 28, 28)), batch[1])

    return Parts(p.model, p.train_loader, p.test_loader, optimizer=p.optimizer, step=step)


@public("yunjey-bidirectional-rnn")
def _(sources: Sources) -> Parts:
    path = "tutorials/02-intermediate/bidirectional_recurrent_neural_network/main.py"
    p = sources.script(YUNJEY, path, until="# Train the model")
    x, y = digits()
    return Parts(p.model, *loaders(x[:, 0], y, size=p.batch_size), p.criterion, p.optimizer)


@public("yunjey-language-model")
def _(sources: Sources) -> Parts:
    put = {
        "corpus = Corpus()": "from benchmarks.public.loading import words; ids, kinds = words(4000)",
        "ids = corpus.get_data('data/train.txt', batch_size)": "ids = ids[:len(ids) // 20 * 20].view(20, -1)",
        "vocab_size = len(corpus.dictionary)": "vocab_size = len(kinds) + 1",
        "hidden_size = 1024": "hidden_size = 256",
        "from data_utils import Dictionary, Corpus": "",
    }
    p = sources.script(YUNJEY, "tutorials/02-intermediate/language_model/main.py", until="# Train the model", put=put)
    starts = range(0, p.ids.size(1) - p.seq_length, p.seq_length)
    x = torch.cat([p.ids[:, i : i + p.seq_length] for i in starts])
    y = torch.cat([p.ids[:, i + 1 : i + 1 + p.seq_length] for i in starts])

    def step(model: nn.Module, batch: Any) -> Tensor:
        states = tuple(torch.zeros(1, len(batch[0]), p.hidden_size) for _ in range(2))
        return p.criterion(model(batch[0], states)[0], batch[1].reshape(-1))

    return Parts(p.model, *halves(x, y), optimizer=p.optimizer, step=step)


@public("yunjey-vae")
def _(sources: Sources) -> Parts:
    put = {"if not os.path.exists(sample_dir):": "if False:"}
    path = "tutorials/03-advanced/variational_autoencoder/main.py"
    p = sources.script(YUNJEY, path, until="# Start training", put=put)

    def step(model: nn.Module, batch: Any) -> Tensor:
        x = batch[0].view(-1, 784)
        out, mean, spread = model(x)
        loss = F.binary_cross_entropy(out, x, reduction="sum")
        return loss - 0.5 * torch.sum(1 + spread - mean.pow(2) - spread.exp())

    return Parts(p.model, p.data_loader, None, optimizer=p.optimizer, step=step)


# jcjohnson/pytorch-examples

JCJ = "jcjohnson/pytorch-examples"


@public("jcjohnson-module")
def _(sources: Sources) -> Parts:
    p = sources.script(JCJ, "nn/two_layer_net_module.py", until="for t in")
    return Parts(p.model, (p.x, p.y), None, p.loss_fn, p.optimizer)


@public("jcjohnson-optim")
def _(sources: Sources) -> Parts:
    p = sources.script(JCJ, "nn/two_layer_net_optim.py", until="for t in")
    return Parts(p.model, (p.x, p.y), None, p.loss_fn, p.optimizer)


@public("jcjohnson-dynamic-net")
def _(sources: Sources) -> Parts:
    p = sources.script(JCJ, "nn/dynamic_net.py", until="for t in")
    return Parts(p.model, (p.x, p.y), None, p.criterion, p.optimizer)


# karpathy


@public("lecture-bigram")
def _(sources: Sources) -> Parts:
    put = {"with open('input.txt', 'r', encoding='utf-8') as f:\n    text = f.read()":
           "from benchmarks.public.loading import english; text = english()"}  # fmt: skip
    p = sources.script("karpathy/ng-video-lecture", "bigram.py", until="for iter in", put=put)
    x, y = (torch.cat(part) for part in zip(*(p.get_batch("train") for _ in range(10)), strict=True))
    return Parts(p.model, (x, y), p.get_batch("val"), optimizer=p.optimizer, step=lambda m, batch: m(*batch)[1])


@public("lecture-gpt")
def _(sources: Sources) -> Parts:
    put = {"with open('input.txt', 'r', encoding='utf-8') as f:\n    text = f.read()":
           "from benchmarks.public.loading import english; text = english()",
           "block_size = 256": "block_size = 64", "n_embd = 384": "n_embd = 96"}  # fmt: skip
    p = sources.script("karpathy/ng-video-lecture", "gpt.py", until="for iter in", put=put)
    x, y = (torch.cat(part) for part in zip(*(p.get_batch("train") for _ in range(4)), strict=True))
    return Parts(p.model, (x, y), p.get_batch("val"), optimizer=p.optimizer, step=lambda m, batch: m(*batch)[1])


def makemore(kind: str) -> Maker:
    def make(sources: Sources) -> Parts:
        m = sources.module("karpathy/makemore", "makemore.py")
        names = sorted({w.lower() for w in english(200_000).split() if w.isalpha() and 2 < len(w) < 13})
        chars = sorted(set("".join(names)))
        rng = np.random.default_rng(0)
        rng.shuffle(names)
        longest = max(map(len, names))
        train, valid = (m.CharDataset(part, chars, longest) for part in (names[:-200], names[-200:]))
        config = m.ModelConfig(vocab_size=train.get_vocab_size(), block_size=train.get_output_length())
        model = {
            "transformer": m.Transformer, "bigram": m.Bigram, "mlp": m.MLP, "bow": m.BoW,
            "rnn": lambda c: m.RNN(c, cell_type="rnn"), "gru": lambda c: m.RNN(c, cell_type="gru"),
        }[kind](config)  # fmt: skip
        optimizer = optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.01, betas=(0.9, 0.99), eps=1e-8)
        return Parts(model, DataLoader(train, 32, shuffle=True), DataLoader(valid, 32), optimizer=optimizer,
                     step=lambda net, batch: net(*batch)[1])  # fmt: skip

    return make


for kind in ("transformer", "bigram", "mlp", "bow", "rnn", "gru"):
    public(f"makemore-{kind}")(makemore(kind))


@public("mingpt-characters")
def _(sources: Sources) -> Parts:
    gpt = sources.module("karpathy/minGPT", "mingpt/model.py", package="mingpt.model").GPT
    x, y, size = characters(64)
    config = gpt.get_default_config()
    config.model_type, config.vocab_size, config.block_size = "gpt-nano", size, 64
    model = gpt(config)
    given = types.SimpleNamespace(learning_rate=5e-4, weight_decay=0.1, betas=(0.9, 0.95))
    return Parts(model, *halves(x, y), optimizer=model.configure_optimizers(given), step=lambda m, b: m(*b)[1])


@public("mingpt-sort")
def _(sources: Sources) -> Parts:
    """The repository's demo: sort six digits; -1 where the input is read."""
    gpt = sources.module("karpathy/minGPT", "mingpt/model.py", package="mingpt.model").GPT
    digits_in = torch.randint(3, (600, 6))
    both = torch.cat([digits_in, digits_in.sort(1).values], 1)
    x, y = both[:, :-1].clone(), both[:, 1:].clone()
    y[:, :5] = -1
    config = gpt.get_default_config()
    config.model_type, config.vocab_size, config.block_size = "gpt-nano", 3, 11
    model = gpt(config)
    given = types.SimpleNamespace(learning_rate=5e-4, weight_decay=0.1, betas=(0.9, 0.95))
    return Parts(model, *halves(x, y), optimizer=model.configure_optimizers(given), step=lambda m, b: m(*b)[1])


# L1aoXingyu/pytorch-beginner

BEGINNER = "L1aoXingyu/pytorch-beginner"


@public("beginner-logistic")
def _(sources: Sources) -> Parts:
    p = sources.script(BEGINNER, "02-Logistic Regression/Logistic_Regression.py", until="for epoch in")
    x, y = digits()
    return Parts(p.model, *loaders(x.flatten(1), y, size=p.batch_size), p.criterion, p.optimizer)


@public("beginner-simple-autoencoder")
def _(sources: Sources) -> Parts:
    put = {".cuda()": "", "if not os.path.exists('./mlp_img'):": "if False:"}
    p = sources.script(BEGINNER, "08-AutoEncoder/simple_autoencoder.py", until="for epoch in", put=put)
    x = digits()[0].flatten(1) * 2 - 1
    return Parts(p.model, *halves(x, x), p.criterion, p.optimizer)


@public("beginner-conv-autoencoder")
def _(sources: Sources) -> Parts:
    put = {".cuda()": "", "if not os.path.exists('./dc_img'):": "if False:"}
    p = sources.script(BEGINNER, "08-AutoEncoder/conv_autoencoder.py", until="for epoch in", put=put)
    x = digits()[0] * 2 - 1
    return Parts(p.model, *halves(x, x), p.criterion, p.optimizer)


# kuangliu/pytorch-cifar, weiaicunzai/pytorch-cifar100: one file a network


def cifar(repository: str, name: str, make: Callable[[Any], nn.Module], side: int = 32) -> Maker:
    def load(sources: Sources) -> Parts:
        m = sources.module(repository, f"models/{name}.py")
        model = make(m)
        x, y = digits(side, 3, 400)
        x = (x - torch.tensor([0.4914, 0.4822, 0.4465])[:, None, None]) / torch.tensor([0.2023, 0.1994, 0.2010])[
            :, None, None
        ]
        optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
        if "100" in repository:  # its train.py warms up for an epoch
            warm = sources.module(repository, "utils.py", package="utils").WarmUpLR(optimizer, 391)
            model.__dict__["_held"] = warm
        return Parts(model, *loaders(x, y, size=128), nn.CrossEntropyLoss(), optimizer)

    return load


CIFAR: dict[str, tuple[str, Callable[[Any], nn.Module]]] = {
    "lenet": ("lenet", lambda m: m.LeNet()), "resnet18": ("resnet", lambda m: m.ResNet18()),
    "mobilenet": ("mobilenet", lambda m: m.MobileNet()), "mobilenetv2": ("mobilenetv2", lambda m: m.MobileNetV2()),
    "vgg11": ("vgg", lambda m: m.VGG("VGG11")),
    "shufflenetv2": ("shufflenetv2", lambda m: m.ShuffleNetV2(0.5)),
    "efficientnet": ("efficientnet", lambda m: m.EfficientNetB0()), "senet": ("senet", lambda m: m.SENet18()),
    "preact-resnet": ("preact_resnet", lambda m: m.PreActResNet18()),
    "regnet": ("regnet", lambda m: m.RegNetX_200MF()),
}  # fmt: skip
for name, (file, make) in CIFAR.items():
    public(f"cifar-{name}")(cifar("kuangliu/pytorch-cifar", file, make))
for name, (file, make) in {
    "squeezenet": ("squeezenet", lambda m: m.SqueezeNet(class_num=10)),
    "mobilenet": ("mobilenet", lambda m: m.MobileNet(1, class_num=10)),
    "attention": ("attention", lambda m: m.Attention([1, 1, 1], class_num=10)),
    "stochasticdepth": ("stochasticdepth", lambda m: m.StochasticDepthResNet(m.StochasticDepthBasicBlock, [2, 2, 2, 2], num_classes=10)),
}.items():  # fmt: skip
    public(f"cifar100-{name}")(cifar("weiaicunzai/pytorch-cifar100", file, make))


# rixwew/pytorch-fm: recommenders by sparse fields

FIELDS = np.array([40, 30, 12, 7])
FM: dict[str, tuple[str, str, dict[str, Any]]] = {
    "lr": ("lr", "LogisticRegressionModel", {}),
    "fm": ("fm", "FactorizationMachineModel", {"embed_dim": 16}),
    "hofm": ("hofm", "HighOrderFactorizationMachineModel", {"order": 3, "embed_dim": 16}),
    "ffm": ("ffm", "FieldAwareFactorizationMachineModel", {"embed_dim": 4}),
    "fnn": ("fnn", "FactorizationSupportedNeuralNetworkModel", {"embed_dim": 16, "mlp_dims": (16, 16), "dropout": 0.2}),
    "wd": ("wd", "WideAndDeepModel", {"embed_dim": 16, "mlp_dims": (16, 16), "dropout": 0.2}),
    "ipnn": ("pnn", "ProductNeuralNetworkModel",
             {"embed_dim": 16, "mlp_dims": (16,), "method": "inner", "dropout": 0.2}),
    "opnn": ("pnn", "ProductNeuralNetworkModel",
             {"embed_dim": 16, "mlp_dims": (16,), "method": "outer", "dropout": 0.2}),
    "dcn": ("dcn", "DeepCrossNetworkModel", {"embed_dim": 16, "num_layers": 3, "mlp_dims": (16, 16), "dropout": 0.2}),
    "nfm": ("nfm", "NeuralFactorizationMachineModel", {"embed_dim": 64, "mlp_dims": (64,), "dropouts": (0.2, 0.2)}),
    "fnfm": ("fnfm", "FieldAwareNeuralFactorizationMachineModel",
             {"embed_dim": 4, "mlp_dims": (64,), "dropouts": (0.2, 0.2)}),
    "dfm": ("dfm", "DeepFactorizationMachineModel", {"embed_dim": 16, "mlp_dims": (16, 16), "dropout": 0.2}),
    "xdfm": ("xdfm", "ExtremeDeepFactorizationMachineModel",
             {"embed_dim": 16, "cross_layer_sizes": (16, 16), "split_half": False, "mlp_dims": (16, 16), "dropout": 0.2}),
    "afm": ("afm", "AttentionalFactorizationMachineModel", {"embed_dim": 16, "attn_size": 16, "dropouts": (0.2, 0.2)}),
    "afi": ("afi", "AutomaticFeatureInteractionModel",
            {"embed_dim": 16, "atten_embed_dim": 64, "num_heads": 2, "num_layers": 3, "mlp_dims": (400, 400),
             "dropouts": (0, 0, 0)}),
    "ncf": ("ncf", "NeuralCollaborativeFiltering",
            {"embed_dim": 16, "mlp_dims": (16, 16), "dropout": 0.2, "user_field_idx": np.array([0]),
             "item_field_idx": np.array([1])}),
}  # fmt: skip


def recommender(name: str) -> Maker:
    def make(sources: Sources) -> Parts:
        file, cls, settings = FM[name]
        found = sources.module("rixwew/pytorch-fm", f"torchfm/model/{file}.py", package=f"torchfm.model.{file}")
        model = getattr(found, cls)(FIELDS, **settings)
        x = torch.stack([torch.randint(int(size), (1200,)) for size in FIELDS], 1)
        score = sum(torch.randn(int(size))[x[:, i]] for i, size in enumerate(FIELDS))
        y = (score + torch.randn(1200) > 0).long()
        optimizer = optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-6)
        return Parts(model, *halves(x, y), lambda out, t: F.binary_cross_entropy(out, t.float()), optimizer)

    return make


for name in FM:
    public(f"fm-{name}")(recommender(name))


# AntixK/PyTorch-VAE

VAES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "vanilla": ("vanilla_vae", "VanillaVAE", {"latent_dim": 16}),
    "beta": ("beta_vae", "BetaVAE", {"latent_dim": 16, "loss_type": "B", "gamma": 10.0}),
    "wae": ("wae_mmd", "WAE_MMD", {"latent_dim": 16, "reg_weight": 100}),
    "info": ("info_vae", "InfoVAE", {"latent_dim": 16, "reg_weight": 110, "alpha": -9.0, "beta": 10.5}),
    "logcosh": ("logcosh_vae", "LogCoshVAE", {"latent_dim": 16, "alpha": 10.0, "beta": 1.0}),
    "dip": ("dip_vae", "DIPVAE", {"latent_dim": 16, "lambda_diag": 0.05, "lambda_offdiag": 0.1}),
    "swae": ("swae", "SWAE", {"latent_dim": 16, "reg_weight": 100, "num_projections": 50}),
    "vq": ("vq_vae", "VQVAE", {"embedding_dim": 16, "num_embeddings": 64, "img_size": 64}),
}


def vae(name: str) -> Maker:
    def make(sources: Sources) -> Parts:
        file, cls, settings = VAES[name]
        found = sources.module("AntixK/PyTorch-VAE", f"models/{file}.py", package=f"models.{file}")
        model = getattr(found, cls)(in_channels=3, **settings)
        x = digits(64, 3, 200)[0] * 2 - 1

        def step(module: Any, batch: Any) -> Tensor:
            return module.loss_function(*module(batch[0]), M_N=0.00025, optimizer_idx=0, batch_idx=0)["loss"]

        return Parts(model, *halves(x, x), optimizer=optim.Adam(model.parameters(), lr=0.005), step=step)

    return make


for name in VAES:
    public(f"vae-{name}")(vae(name))


# locuslab/TCN, cure-lab/LTSF-Linear: series


@public("tcn-adding")
def _(sources: Sources) -> Parts:
    tcn = sources.module("locuslab/TCN", "TCN/adding_problem/model.py", package="TCN.adding_problem.model").TCN
    data = sources.module("locuslab/TCN", "TCN/adding_problem/utils.py").data_generator
    model = tcn(2, 1, [30] * 5, kernel_size=7, dropout=0.0)
    return Parts(model, data(400, 100), data(100, 100), F.mse_loss, optim.Adam(model.parameters(), lr=4e-3))


@public("tcn-copy-memory")
def _(sources: Sources) -> Parts:
    tcn = sources.module("locuslab/TCN", "TCN/copy_memory/model.py", package="TCN.copy_memory.model").TCN
    data = sources.module("locuslab/TCN", "TCN/copy_memory/utils.py").data_generator
    model = tcn(1, 10, [10] * 5, 8, dropout=0.0)

    def step(module: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(module(batch[0].unsqueeze(1).contiguous()).view(-1, 10), batch[1].view(-1))

    return Parts(
        model, data(40, 10, 400), data(40, 10, 100), optimizer=optim.RMSprop(model.parameters(), lr=5e-4), step=step
    )


def forecaster(name: str, individual: bool) -> Maker:
    def make(sources: Sources) -> Parts:
        model_of = sources.module("cure-lab/LTSF-Linear", f"models/{name}.py").Model
        model = model_of(types.SimpleNamespace(seq_len=48, pred_len=24, individual=individual, enc_in=3))
        return Parts(model, *halves(*series()), nn.MSELoss(), optim.Adam(model.parameters(), lr=1e-3))

    return make


for name in ("Linear", "NLinear", "DLinear"):
    public(f"ltsf-{name.lower()}")(forecaster(name, False))
public("ltsf-dlinear-individual")(forecaster("DLinear", True))


# Graphs, points, pairs, text


@public("pygcn-one-graph")
def _(sources: Sources) -> Parts:
    gcn = sources.module("tkipf/pygcn", "pygcn/models.py", package="pygcn.models").GCN
    y = (torch.arange(200) % 4)[torch.randperm(200)]
    near = (torch.rand(200, 200) < torch.where(y[:, None] == y, 0.08, 0.01)).float()
    near = ((near + near.T + torch.eye(200)) > 0).float()
    near = near / near.sum(1, keepdim=True)
    x = ((torch.rand(200, 60) < 0.05) | ((torch.arange(60) % 4 == y[:, None]) & (torch.rand(200, 60) < 0.1))).float()
    x = x / x.sum(1, keepdim=True).clamp(min=1)
    model = gcn(nfeat=60, nhid=16, nclass=4, dropout=0.5)
    optimizer = optim.Adam(model.parameters(), lr=0.01, weight_decay=5e-4)
    train = torch.arange(200) < 80

    def loop() -> None:
        for _ in range(30):
            model.train()
            optimizer.zero_grad()
            F.nll_loss(model(x, near)[train], y[train]).backward()
            optimizer.step()
            model.eval()
            F.nll_loss(model(x, near)[~train], y[~train])

    return Parts(model, None, None, optimizer=optimizer, loop=loop)


@public("pygat-one-graph")
def _(sources: Sources) -> Parts:
    gat = sources.module("Diego999/pyGAT", "models.py", package="models").GAT
    y = (torch.arange(120) % 3)[torch.randperm(120)]
    near = (torch.rand(120, 120) < torch.where(y[:, None] == y, 0.1, 0.01)).float()
    near = ((near + near.T + torch.eye(120)) > 0).float()
    x = ((torch.arange(40) % 3 == y[:, None]) & (torch.rand(120, 40) < 0.3)).float() + 0.1 * torch.rand(120, 40)
    model = gat(nfeat=40, nhid=8, nclass=3, dropout=0.6, alpha=0.2, nheads=8)
    optimizer = optim.Adam(model.parameters(), lr=0.005, weight_decay=5e-4)
    train = torch.arange(120) < 60

    def loop() -> None:
        for _ in range(30):
            model.train()
            optimizer.zero_grad()
            F.nll_loss(model(x, near)[train], y[train]).backward()
            optimizer.step()
            model.eval()
            F.nll_loss(model(x, near)[~train], y[~train])

    return Parts(model, None, None, optimizer=optimizer, loop=loop)


def clouds(n: int = 240, points: int = 128) -> tuple[Tensor, Tensor]:
    y = torch.arange(n) % 3
    at = F.normalize(torch.randn(n, points, 3), dim=2)
    cube = at / at.abs().amax(2, keepdim=True)
    ring = F.normalize(torch.randn(n, points, 3) * torch.tensor([1, 1, 0.05]), dim=2)
    x = torch.where((y == 0)[:, None, None], at, torch.where((y == 1)[:, None, None], cube, ring))
    x = x - x.mean(1, keepdim=True)
    return (x / x.norm(dim=2).amax(1)[:, None, None]).transpose(1, 2).contiguous(), y


@public("pointnet-classes")
def _(sources: Sources) -> Parts:
    m = sources.module("fxia22/pointnet.pytorch", "pointnet/model.py", package="pointnet.model")
    model = m.PointNetCls(k=3, feature_transform=True)

    def loss(out: Any, y: Tensor) -> Tensor:
        return F.nll_loss(out[0], y) + m.feature_transform_regularizer(out[2]) * 0.001

    return Parts(model, *halves(*clouds()), loss, optim.Adam(model.parameters(), lr=0.001, betas=(0.9, 0.999)))


@public("siamese-contrastive")
def _(sources: Sources) -> Parts:
    nets = sources.module("adambielski/siamese-triplet", "networks.py")
    losses = sources.module("adambielski/siamese-triplet", "losses.py", package="losses")
    x, y = digits(28, 1, 600)
    other = torch.randperm(600)
    model, criterion = nets.SiameseNet(nets.EmbeddingNet()), losses.ContrastiveLoss(1.0)

    def loss(out: Any, same: Tensor) -> Tensor:
        return criterion(*out, same)

    data = (x, x[other], (y == y[other]).long())
    return Parts(model, *halves(*data), loss, optim.Adam(model.parameters(), lr=1e-3))


@public("siamese-triplet")
def _(sources: Sources) -> Parts:
    nets = sources.module("adambielski/siamese-triplet", "networks.py")
    losses = sources.module("adambielski/siamese-triplet", "losses.py", package="losses")
    x, y = digits(28, 1, 600)
    like = torch.tensor([int(torch.nonzero(y == c)[i % 20]) for i, c in enumerate(y.tolist())])
    unlike = torch.tensor([int(torch.nonzero(y != c)[i % 200]) for i, c in enumerate(y.tolist())])
    model, criterion = nets.TripletNet(nets.EmbeddingNet()), losses.TripletLoss(1.0)
    step = lambda module, batch: criterion(*module(*batch[:3]))  # noqa: E731
    return Parts(model, *halves(x, x[like], x[unlike], y), optimizer=optim.Adam(model.parameters(), lr=1e-3), step=step)


@public("siamese-classifier")
def _(sources: Sources) -> Parts:
    nets = sources.module("adambielski/siamese-triplet", "networks.py")
    x, y = digits(28, 1, 600)
    model = nets.ClassificationNet(nets.EmbeddingNet(), 10)
    return Parts(model, *loaders(x, y, size=128), nn.NLLLoss(), optim.Adam(model.parameters(), lr=1e-2))


@public("kim-cnn-text")
def _(sources: Sources) -> Parts:
    cnn = sources.module("Shawn1993/cnn-text-classification-pytorch", "model.py").CNN_Text
    ids, kinds = words(6000)
    x = ids[:5600].view(400, 14)
    y = (x == 1).float().mean(1).gt((x == 1).float().mean()).long()
    args = types.SimpleNamespace(embed_num=len(kinds) + 2, embed_dim=128, class_num=2, kernel_num=100,
                                 kernel_sizes=[3, 4, 5], dropout=0.5, static=False)  # fmt: skip
    model = cnn(args)
    return Parts(model, *loaders(x, y, size=64), F.cross_entropy, optim.Adam(model.parameters(), lr=0.001))


def reversed_words(n: int = 400) -> tuple[Tensor, Tensor]:
    """Return sentences padded by 1, and them turned round between marks 2 and 3."""
    length = torch.randint(4, 9, (n,))
    x = torch.randint(4, 30, (n, 8))
    places = torch.arange(8)
    x = torch.where(places < length[:, None], x, 1)
    turned = torch.stack(
        [
            torch.cat([row[:m].flip(0), torch.tensor([3]), torch.ones(8 - int(m), dtype=torch.long)])
            for row, m in zip(x, length, strict=True)
        ]
    )
    return x, torch.cat([torch.full((n, 1), 2), turned], 1)


@public("attention-is-all-you-need")
def _(sources: Sources) -> Parts:
    m = sources.module(
        "jadore801120/attention-is-all-you-need-pytorch", "transformer/Models.py", package="transformer.Models"
    )
    model = m.Transformer(30, 30, 1, 1, d_word_vec=64, d_model=64, d_inner=128, n_layers=2, n_head=4, d_k=16, d_v=16)
    x, y = reversed_words()

    def step(module: nn.Module, batch: Any) -> Tensor:
        source, target = batch
        gold = target[:, 1:].contiguous().view(-1)
        return F.cross_entropy(module(source, target[:, :-1]), gold, ignore_index=1, reduction="sum")

    optimizer = optim.Adam(model.parameters(), lr=5e-4, betas=(0.9, 0.98), eps=1e-9)
    return Parts(model, *halves(x, y), optimizer=optimizer, step=step)


@public("keon-seq2seq")
def _(sources: Sources) -> Parts:
    m = sources.module("keon/seq2seq", "model.py")
    encoder, decoder = m.Encoder(30, 48, 64, n_layers=2, dropout=0.5), m.Decoder(48, 64, 30, n_layers=1, dropout=0.0)
    model = m.Seq2Seq(encoder, decoder)
    x, y = reversed_words()

    def step(module: nn.Module, batch: Any) -> Tensor:
        source, target = batch[0].T, batch[1].T
        out = module(source, target)
        return F.nll_loss(out[1:].view(-1, 30), target[1:].contiguous().view(-1), ignore_index=1)

    return Parts(model, *halves(x, y), optimizer=optim.Adam(model.parameters(), lr=1e-4), step=step)


# lucidrains/vit-pytorch, vector-quantize-pytorch

VIT: dict[str, tuple[str, str, dict[str, Any]]] = {
    "vit": ("vit", "ViT", {"patch_size": 8, "dim": 64, "depth": 2, "heads": 4, "mlp_dim": 128, "dropout": 0.1, "emb_dropout": 0.1}),
    "simple": ("simple_vit", "SimpleViT", {"patch_size": 8, "dim": 64, "depth": 2, "heads": 4, "mlp_dim": 128}),
    "deep": ("deepvit", "DeepViT", {"patch_size": 8, "dim": 64, "depth": 2, "heads": 4, "mlp_dim": 128, "dropout": 0.1}),
    "cait": ("cait", "CaiT", {"patch_size": 8, "dim": 64, "depth": 2, "cls_depth": 1, "heads": 4, "mlp_dim": 128, "layer_dropout": 0.05}),
    "parallel": ("parallel_vit", "ViT", {"patch_size": 8, "dim": 64, "depth": 2, "heads": 4, "mlp_dim": 128, "num_parallel_branches": 2}),
    "small-dataset": ("vit_for_small_dataset", "ViT", {"patch_size": 8, "dim": 64, "depth": 2, "heads": 4, "mlp_dim": 128}),
    "patch-merger": ("vit_with_patch_merger", "ViT", {"patch_size": 8, "dim": 64, "depth": 3, "heads": 4, "mlp_dim": 128, "patch_merge_layer": 1, "patch_merge_num_tokens": 4}),
    "qk-norm": ("simple_vit_with_qk_norm", "SimpleViT", {"patch_size": 8, "dim": 64, "depth": 2, "heads": 4, "mlp_dim": 128}),
    "registers": ("simple_vit_with_register_tokens", "SimpleViT", {"patch_size": 8, "dim": 64, "depth": 2, "heads": 4, "mlp_dim": 128}),
    "cct": ("cct", "CCT", {"img_size": 32, "embedding_dim": 64, "n_conv_layers": 1, "kernel_size": 7, "stride": 2, "padding": 3, "pooling_kernel_size": 3, "pooling_stride": 2, "pooling_padding": 1, "num_layers": 2, "num_heads": 4, "mlp_ratio": 2.0, "positional_embedding": "learnable"}),
}  # fmt: skip


def vision_transformer(name: str) -> Maker:
    def make(sources: Sources) -> Parts:
        file, cls, settings = VIT[name]
        found = sources.module("lucidrains/vit-pytorch", f"vit_pytorch/{file}.py")
        size = {} if "img_size" in settings else {"image_size": 32}
        model = getattr(found, cls)(num_classes=10, **size, **settings)
        x, y = digits(32, 3, 400)
        return Parts(
            model, *loaders(x * 2 - 1, y, size=64), nn.CrossEntropyLoss(), optim.Adam(model.parameters(), lr=3e-5)
        )

    return make


for name in VIT:
    public(f"vit-{name}")(vision_transformer(name))


@public("rtdl-mlp")
def _(sources: Sources) -> Parts:
    p = sources.script("yandex-research/rtdl-revisiting-models", "bin/mlp.py", until="args, output",
                       put={"import lib": "", "import zero": ""})  # fmt: skip
    model = p.MLP(d_in=30, d_layers=[64, 64], dropout=0.1, d_out=1, categories=None, d_embedding=0)
    x, y = cancer()

    def step(module: nn.Module, batch: Any) -> Tensor:
        return F.binary_cross_entropy_with_logits(module(batch[0], None), batch[1])

    optimizer = optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-5)
    return Parts(model, *halves(x, y.float()), optimizer=optimizer, step=step)


@public("rtdl-resnet")
def _(sources: Sources) -> Parts:
    p = sources.script("yandex-research/rtdl-revisiting-models", "bin/resnet.py", until="if __name__",
                       put={"import lib": "", "import zero": "", "lib.get_activation_fn(activation)": "F.relu",
                            "lib.get_nonglu_activation_fn(activation)": "F.relu"})  # fmt: skip
    model = p.ResNet(d_numerical=30, categories=None, d_embedding=0, d=64, d_hidden_factor=2.0, n_layers=2,
                     activation="relu", normalization="batchnorm", hidden_dropout=0.2, residual_dropout=0.0,
                     d_out=1)  # fmt: skip
    x, y = cancer()

    def step(module: nn.Module, batch: Any) -> Tensor:
        return F.binary_cross_entropy_with_logits(module(batch[0], None), batch[1])

    optimizer = optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-5)
    return Parts(model, *halves(x, y.float()), optimizer=optimizer, step=step)


@public("convlstm-next-frame")
def _(sources: Sources) -> Parts:
    found = sources.module("ndrplz/ConvLSTM_pytorch", "convlstm.py").ConvLSTM

    class Next(nn.Module):
        """The repository's layer, and a head for the next frame."""

        def __init__(self) -> None:
            super().__init__()
            self.body = found(1, [16], (3, 3), 1, batch_first=True)
            self.head = nn.Conv2d(16, 1, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.body(x)[0][0][:, -1])

    frames = torch.zeros(240, 7, 1, 16, 16)
    at, speed = torch.randint(2, 6, (240, 2)), torch.randint(0, 2, (240, 2))
    for t in range(7):
        row, column = (at + t * speed).T
        for a in (0, 1):
            for b in (0, 1):
                frames[torch.arange(240), t, 0, row + a, column + b] = 1
    model = Next()
    return Parts(
        model, *halves(frames[:, :6], frames[:, 6]), nn.BCEWithLogitsLoss(), optim.Adam(model.parameters(), 1e-3)
    )


@public("informer-series")
def _(sources: Sources) -> Parts:
    m = sources.module("zhouhaoyi/Informer2020", "models/model.py", package="models.model")
    model = m.Informer(3, 3, 3, 48, 24, 24, d_model=32, n_heads=4, e_layers=2, d_layers=1, d_ff=64, dropout=0.05,
                       freq="h", device=torch.device("cpu"))  # fmt: skip
    x, y = series()
    hours = (torch.arange(72)[None] + torch.randint(24, (len(x), 1))) % 24
    marks = torch.stack([torch.ones_like(hours), torch.ones_like(hours), hours // 24, hours], 2)

    def step(module: nn.Module, batch: Any) -> Tensor:
        past, stamps, ahead = batch
        given = torch.cat([past[:, -24:], torch.zeros_like(ahead)], 1)
        return F.mse_loss(module(past, stamps[:, :48], given, stamps[:, 24:]), ahead)

    return Parts(model, *halves(x, marks, y), optimizer=optim.Adam(model.parameters(), lr=1e-4), step=step)


@public("lsgan-digits")
def _(sources: Sources) -> Parts:
    put = {'os.makedirs("images", exist_ok=True)': "", 'os.makedirs("../../data/mnist", exist_ok=True)': "",
           'default=200, help="number of epochs': 'default=2, help="number of epochs'}  # fmt: skip
    path = "implementations/lsgan/lsgan.py"
    p = sources.script("eriklindernoren/PyTorch-GAN", path, until="for epoch in range", put=put)
    loop = sources.rest("batches_done =")
    return Parts(p.discriminator, None, None, optimizer=[p.optimizer_D, p.optimizer_G], loop=loop)


@public("balanced-batches")
def _(sources: Sources) -> Parts:
    sampler = sources.module("galatolofederico/pytorch-balanced-batch", "sampler.py").BalancedBatchSampler
    x, y = cancer()
    train, valid = halves(x, y)
    data = TensorDataset(*train)
    model = nn.Sequential(nn.Linear(30, 32), nn.ReLU(), nn.Linear(32, 2))
    loader = DataLoader(data, sampler=sampler(data, train[1]), batch_size=32)
    return Parts(model, loader, valid, nn.CrossEntropyLoss(), optim.Adam(model.parameters(), lr=1e-3))


@public("nlp-seq2seq-attention")
def _(sources: Sources) -> Parts:
    p = tutorial(sources, "4-2.Seq2Seq(Attention)/Seq2Seq(Attention).py", until="for epoch")

    def step(model: nn.Module, batch: Any) -> Tensor:
        source, given, target = batch
        return p.criterion(model(source, torch.zeros(1, 1, p.n_hidden), given)[0], target.squeeze(0))

    return whole(p.model, step, p.optimizer, p.input_batch, p.output_batch, p.target_batch)
