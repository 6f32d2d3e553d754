# ruff: noqa: E501  (text of other people)
"""Mistakes planted into public programs, by somebody who had not seen the rules that look for them."""

import inspect
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from tests.checks.kit.program import Parts, seed_all
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.public.loading import Edit, Sources, halves
from benchmarks.public.programs import (
    BEGINNER,
    CONTENTS,
    MOFAN,
    NLP,
    PROGRAMS,
    YUNJEY,
    ZERO,
)  # fmt: skip


@dataclass(frozen=True)
class Planted:
    """A mistake, and the public program it is planted in.

    Attributes:
        name: Of the mistake.
        program: Of `PROGRAMS`.
        kind: Where the mistake lies: `loss`, `data`, `model`, `optimisation`, `initialisation`, `state`, `evaluation`.
        wrong: What is wrong, in one sentence.
        edits: `(owner/name/path, old text, new text)` in the public source.
        change: What makes the mistake in the parts, where it lies in what the adapter itself writes.
        until: Have the program's own loop run, up to the line that begins so.
        small: Edits that make that loop short, with and without the mistake.
    """

    name: str
    program: str
    kind: str
    wrong: str
    edits: tuple[Edit, ...] = ()
    change: Callable[[Parts], Parts] | None = None
    until: str = ""
    small: tuple[Edit, ...] = ()

    def make(self, folder: Path, *, is_broken: bool) -> Parts:
        """Build the program from the same seed, with the mistake or without."""
        sources = Sources(folder, (*self.small, *(self.edits if is_broken else ())))
        seed_all(0)
        parts = PROGRAMS[self.program](sources)
        if self.until:
            loop = sources.rest(self.until)
            parts = replace(parts, train=None, valid=None, criterion=None, step=None, loop=loop)
        if sources.unused:
            raise ValueError(f"{self.name} edits what is not run: {sources.unused}")
        return self.change(parts) if is_broken and self.change else parts


PLANTED: list[Planted] = []


def plant(name: str, program: str, kind: str, wrong: str, path: str = "", *texts: str, **more: Any) -> None:
    """Add a mistake: old and new texts, by turns, of one file."""
    edits = tuple((path, old, new) for old, new in zip(texts[::2], texts[1::2], strict=True))
    PLANTED.append(Planted(name, program, kind, wrong, edits, **more))


# graykode/nlp-tutorial

plant(
    "nnlm-softmax-before-cross-entropy", "nlp-nnlm", "loss",
    "The network ends in a softmax, and the cross-entropy takes another.",
    f"{NLP}/1-1.NNLM/NNLM.py",
    "output = self.b + self.W(X) + self.U(tanh) #",
    "output = torch.softmax(self.b + self.W(X) + self.U(tanh), dim=1) #",
)  # fmt: skip
plant(
    "textcnn-filters-in-a-list", "nlp-textcnn", "model",
    "The filters are in a plain list, so that the optimizer does not get their weights.",
    f"{NLP}/2-1.TextCNN/TextCNN.py",
    "nn.ModuleList([nn.Conv2d(1, num_filters, (size, embedding_size)) for size in filter_sizes])",
    "[nn.Conv2d(1, num_filters, (size, embedding_size)) for size in filter_sizes]",
)  # fmt: skip
plant(
    "textlstm-zero-grad-after-backward", "nlp-textlstm", "optimisation",
    "The gradients are put to zero between backward and step.",
    f"{NLP}/3-2.TextLSTM/TextLSTM.py",
    "        optimizer.zero_grad()\n\n        output", "        output",
    "        loss.backward()\n", "        loss.backward()\n        optimizer.zero_grad()\n",
    until="inputs = [sen", small=((f"{NLP}/3-2.TextLSTM/TextLSTM.py", "range(1000)", "range(40)"),),
)  # fmt: skip
plant(
    "bert-padding-mask-inverted", "nlp-bert", "model",
    "The mask hides the words and leaves the padding.",
    f"{NLP}/5-2.BERT/BERT.py",
    "seq_k.data.eq(0)", "seq_k.data.ne(0)",
)  # fmt: skip

# hunkim/PyTorchZeroToAll

plant(
    "diabetes-sigmoid-twice", "zero-deep-logistic", "loss",
    "The network ends in a sigmoid, and the loss takes another.",
    f"{ZERO}/07_diabets_logistic.py",
    "nn.BCELoss(reduction='mean')", "nn.BCEWithLogitsLoss(reduction='mean')",
)  # fmt: skip
plant(
    "mnist-cnn-nll-of-probabilities", "zero-mnist-cnn", "loss",
    "The negative log-likelihood gets probabilities, not their logarithms.",
    f"{ZERO}/10_1_cnn_mnist.py",
    "F.log_softmax(x)", "F.softmax(x, dim=1)",
)  # fmt: skip
plant(
    "mnist-dense-no-activations", "zero-mnist-softmax", "model",
    "No activation lies between the layers: five of them are one.",
    f"{ZERO}/09_2_softmax_mnist.py",
    "F.relu(self.l1(x))", "self.l1(x)", "F.relu(self.l2(x))", "self.l2(x)",
    "F.relu(self.l3(x))", "self.l3(x)", "F.relu(self.l4(x))", "self.l4(x)",
)  # fmt: skip
plant(
    "inception-dropout-always-on", "zero-mnist-inception", "state",
    "The functional dropout is not told whether the network trains, and drops at evaluation too.",
    f"{ZERO}/11_1_toy_inception_mnist.py",
    "x = self.fc(x)", "x = self.fc(F.dropout(x, 0.5))",
)  # fmt: skip

# MorvanZhou/PyTorch-Tutorial

plant(
    "regression-targets-of-another-shape", "mofan-regression", "loss",
    "Targets of shape (100,) against outputs of shape (100, 1): the loss compares every row with every other.",
    f"{MOFAN}/{CONTENTS}301_regression.py",
    "y = x.pow(2) + 0.2*torch.rand(x.size()) ", "y = (x.pow(2) + 0.2*torch.rand(x.size())).squeeze() ",
)  # fmt: skip
plant(
    "mofan-cnn-test-not-scaled", "mofan-cnn", "data",
    "Training pictures are in [0, 1], test pictures in [0, 255].",
    f"{MOFAN}/{CONTENTS}401_CNN.py",
    "[:2000]/255.", "[:2000]",
)  # fmt: skip
plant(
    "mofan-lstm-batch-as-time", "mofan-rnn-classifier", "model",
    "batch_first was forgotten: the LSTM runs over the rows of the batch.",
    f"{MOFAN}/{CONTENTS}402_RNN_classifier.py",
    "            batch_first=True, ", "            # ",
)  # fmt: skip
plant(
    "mofan-autoencoder-heavy-weight-decay", "mofan-autoencoder", "optimisation",
    "A weight decay of 1 pulls all weights to zero.",
    f"{MOFAN}/{CONTENTS}404_autoencoder.py",
    "torch.optim.Adam(autoencoder.parameters(), lr=LR)",
    "torch.optim.Adam(autoencoder.parameters(), lr=LR, weight_decay=1.0)",
)  # fmt: skip
plant(
    "dropout-optimizer-of-the-other-network", "mofan-dropout", "optimisation",
    "The optimizer was copied with the parameters of the other network.",
    f"{MOFAN}/{CONTENTS}503_dropout.py",
    "torch.optim.Adam(net_dropped.parameters(), lr=0.01)", "torch.optim.Adam(net_overfitting.parameters(), lr=0.01)",
)  # fmt: skip
plant(
    "dropout-evaluated-while-dropping", "mofan-dropout", "evaluation",
    "The test loss is computed with dropout on.",
    f"{MOFAN}/{CONTENTS}503_dropout.py",
    "        net_dropped.eval()  # parameters for dropout differ from train mode\n", "",
    until="plt.ioff()", small=((f"{MOFAN}/{CONTENTS}503_dropout.py", "range(500)", "range(60)"),),
)  # fmt: skip
plant(
    "gan-generator-detached", "mofan-gan", "optimisation",
    "The generator's own loss sees a detached picture: the generator never learns.",
    f"{MOFAN}/{CONTENTS}406_GAN.py",
    "prob_artist1 = D(G_paintings)  ", "prob_artist1 = D(G_paintings.detach())  ",
    until="plt.ioff()", small=((f"{MOFAN}/{CONTENTS}406_GAN.py", "range(10000)", "range(60)"),),
)  # fmt: skip

# yunjey/pytorch-tutorial

BASICS, MIDDLE, ADVANCED = (
    f"{YUNJEY}/tutorials/{part}" for part in ("01-basics", "02-intermediate", "03-advanced")
)  # fmt: skip
plant(
    "linear-regression-learning-rate", "yunjey-linear-regression", "optimisation",
    "A learning rate a hundred times too large.",
    f"{BASICS}/linear_regression/main.py",
    "learning_rate = 0.001", "learning_rate = 0.1",
)  # fmt: skip
plant(
    "logistic-regression-sorted-by-class", "yunjey-logistic-regression", "data",
    "The training pictures come class by class, and are not shuffled.",
    f"{BASICS}/logistic_regression/main.py",
    "# Data loader (input pipeline)\n",
    "train_dataset = torch.utils.data.Subset(train_dataset, train_dataset.targets.argsort().tolist())\n",
    "shuffle=True", "shuffle=False",
)  # fmt: skip
plant(
    "feedforward-gradients-add-up", "yunjey-feedforward", "optimisation",
    "zero_grad was forgotten: each step goes along the sum of all gradients so far.",
    f"{BASICS}/feedforward_neural_network/main.py",
    "        optimizer.zero_grad()\n", "",
    until="# Test the model",
)  # fmt: skip
plant(
    "convnet-tested-on-training-pictures", "yunjey-convnet", "evaluation",
    "The test set is the training set.",
    f"{MIDDLE}/convolutional_neural_network/main.py",
    "train=False", "train=True",
)  # fmt: skip
plant(
    "convnet-slow-running-statistics", "yunjey-convnet", "state",
    "The momentum of batch normalization is written as in another library, so that its running statistics stay at the start.",
    f"{MIDDLE}/convolutional_neural_network/main.py",
    "nn.BatchNorm2d(16)", "nn.BatchNorm2d(16, momentum=0.001)",
    "nn.BatchNorm2d(32)", "nn.BatchNorm2d(32, momentum=0.001)",
)  # fmt: skip
plant(
    "convnet-tested-in-training-mode", "yunjey-convnet", "evaluation",
    "The accuracy is computed in training mode, and each test batch is normalised by itself.",
    f"{MIDDLE}/convolutional_neural_network/main.py",
    "model.eval()  # eval mode", "# eval mode",
    until="# Save the model",
)  # fmt: skip
plant(
    "resnet-new-head-after-optimizer", "yunjey-resnet", "optimisation",
    "The head is put on after the optimizer was made, which holds the old one.",
    f"{MIDDLE}/deep_residual_network/main.py",
    "optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)\n",
    "optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)\nmodel.fc = nn.Linear(64, 10).to(device)\n",
)  # fmt: skip
plant(
    "resnet-decay-counts-batches", "yunjey-resnet", "optimisation",
    "The learning rate is divided by three every twenty batches, not every twenty epochs.",
    f"{MIDDLE}/deep_residual_network/main.py",
    "    if (epoch+1) % 20 == 0:\n        curr_lr /= 3\n        update_lr(",
    "        if (i+1) % 20 == 0:\n            curr_lr /= 3\n            update_lr(",
    until="# Test the model",
    small=(
        (f"{MIDDLE}/deep_residual_network/main.py", "batch_size = 100", "batch_size = 10"),
        (f"{MIDDLE}/deep_residual_network/main.py", "num_epochs = 80", "num_epochs = 1"),
    ),
)  # fmt: skip
plant(
    "lstm-random-start", "yunjey-rnn", "state",
    "The first hidden state is drawn anew for every batch, at evaluation too.",
    f"{MIDDLE}/recurrent_neural_network/main.py",
    "h0 = torch.zeros(", "h0 = torch.randn(", "c0 = torch.zeros(", "c0 = torch.randn(",
)  # fmt: skip
plant(
    "language-model-answers-out-of-order", "yunjey-language-model", "loss",
    "The answers are flattened time first, the targets batch first.",
    f"{MIDDLE}/language_model/main.py",
    "out = out.reshape(out.size(0)*out.size(1), out.size(2))",
    "out = out.transpose(0, 1).reshape(out.size(0)*out.size(1), out.size(2))",
)  # fmt: skip
plant(
    "language-model-clipped-after-step", "yunjey-language-model", "optimisation",
    "The gradients are clipped when the step has been made.",
    f"{MIDDLE}/language_model/main.py",
    "        clip_grad_norm_(model.parameters(), 0.5)\n        optimizer.step()\n",
    "        optimizer.step()\n        clip_grad_norm_(model.parameters(), 0.5)\n",
    until="# Test the model",
)  # fmt: skip
plant(
    "vae-mean-against-sum", "yunjey-vae", "loss",
    "The reconstruction loss is a mean over all pixels, the divergence a sum: the code collapses.",
    f"{ADVANCED}/variational_autoencoder/main.py",
    "F.binary_cross_entropy(x_reconst, x, size_average=False)", "F.binary_cross_entropy(x_reconst, x)",
    until="with torch.no_grad():",
    small=((f"{ADVANCED}/variational_autoencoder/main.py", "num_epochs = 15", "num_epochs = 6"),),
)  # fmt: skip

# karpathy

LECTURE, MAKEMORE, MINGPT = (
    "karpathy/ng-video-lecture",
    "karpathy/makemore/makemore.py",
    "karpathy/minGPT/mingpt/model.py",
)
plant(
    "bigram-targets-not-shifted", "lecture-bigram", "loss",
    "The target of a character is itself, not the next.",
    f"{LECTURE}/bigram.py",
    "data[i+1:i+block_size+1]", "data[i:i+block_size]",
)  # fmt: skip
plant(
    "gpt-blocks-are-one", "lecture-gpt", "model",
    "The list of blocks holds one block six times.",
    f"{LECTURE}/gpt.py",
    "nn.Sequential(*[Block(n_embd, n_head=n_head) for _ in range(n_layer)])",
    "nn.Sequential(*[Block(n_embd, n_head=n_head)] * n_layer)",
)  # fmt: skip
plant(
    "gpt-stays-in-evaluation-mode", "lecture-gpt", "state",
    "The estimate of the loss leaves the network in evaluation mode: there is no dropout from then on.",
    f"{LECTURE}/gpt.py",
    "    model.train()\n    return out", "    return out",
    until="# generate",
    small=tuple(
        (f"{LECTURE}/gpt.py", old, new)
        for old, new in (
            ("max_iters = 5000", "max_iters = 24"), ("eval_interval = 500", "eval_interval = 12"),
            ("eval_iters = 200", "eval_iters = 2"), ("batch_size = 64", "batch_size = 16"),
        )
    ),
)  # fmt: skip
plant(
    "makemore-mlp-rolls-the-batch", "makemore-mlp", "model",
    "The characters before are taken from the word before in the batch.",
    MAKEMORE,
    "idx = torch.roll(idx, 1, 1)", "idx = torch.roll(idx, 1, 0)",
)  # fmt: skip
plant(
    "makemore-rnn-padding-counted", "makemore-rnn", "loss",
    "What comes after the end of a word is not left out of the loss.",
    MAKEMORE,
    "        y[len(ix)+1:] = -1 #", "        #",
)  # fmt: skip
plant(
    "makemore-gru-detached-each-step", "makemore-gru", "state",
    "The hidden state is detached after every character: nothing is learned through time.",
    MAKEMORE,
    "hprev = ht\n", "hprev = ht.detach()\n",
)  # fmt: skip
plant(
    "mingpt-sees-the-future", "mingpt-characters", "model",
    "The causal mask was left out.",
    MINGPT,
    "        att = att.masked_fill(self.bias[:,:,:T,:T] == 0, float('-inf'))\n", "",
)  # fmt: skip
plant(
    "mingpt-weights-too-large", "mingpt-sort", "initialisation",
    "The weights start with a standard deviation of 2, not 0.02.",
    MINGPT,
    "        if isinstance(module, nn.Linear):\n            torch.nn.init.normal_(module.weight, mean=0.0, std=0.02)",
    "        if isinstance(module, nn.Linear):\n            torch.nn.init.normal_(module.weight, mean=0.0, std=2.0)",
)  # fmt: skip

# L1aoXingyu/pytorch-beginner, kuangliu/pytorch-cifar

plant(
    "autoencoder-sigmoid-for-signed-pixels", "beginner-simple-autoencoder", "model",
    "The pixels are in [-1, 1], and the last layer gives only [0, 1].",
    f"{BEGINNER}/08-AutoEncoder/simple_autoencoder.py",
    "nn.Linear(128, 28 * 28), nn.Tanh())", "nn.Linear(128, 28 * 28), nn.Sigmoid())",
)  # fmt: skip
plant(
    "conv-autoencoder-all-zero", "beginner-conv-autoencoder", "initialisation",
    "All weights start at zero.",
    f"{BEGINNER}/08-AutoEncoder/conv_autoencoder.py",
    "model = autoencoder().cuda()\n",
    "model = autoencoder().cuda()\nfor p in model.parameters():\n    nn.init.zeros_(p)\n",
)  # fmt: skip
plant(
    "resnet18-norm-used-twice", "cifar-resnet18", "model",
    "The first batch normalization of a block is used for the second convolution too.",
    "kuangliu/pytorch-cifar/models/resnet.py",
    "        out = self.bn2(self.conv2(out))", "        out = self.bn1(self.conv2(out))",
)  # fmt: skip
plant(
    "vgg-constant-filters", "cifar-vgg11", "initialisation",
    "All filters of a layer start the same.",
    "kuangliu/pytorch-cifar/models/vgg.py",
    "        self.classifier = nn.Linear(512, 10)\n",
    "        self.classifier = nn.Linear(512, 10)\n        for m in self.modules():\n"
    "            if isinstance(m, nn.Conv2d):\n                nn.init.constant_(m.weight, 0.01)\n",
)  # fmt: skip

# rixwew/pytorch-fm

FM = "rixwew/pytorch-fm/torchfm"
plant(
    "fm-lr-fields-share-rows", "fm-lr", "model",
    "The offsets of the fields were left out: number 3 of one field is number 3 of every other.",
    f"{FM}/layer.py",
    "        x = x + x.new_tensor(self.offsets).unsqueeze(0)\n        return torch.sum(self.fc(x)",
    "        return torch.sum(self.fc(x)",
)  # fmt: skip
plant(
    "fm-afm-softmax-over-one", "fm-afm", "model",
    "The softmax of the attention runs over an axis of length 1, and gives 1 everywhere.",
    f"{FM}/layer.py",
    "F.softmax(self.projection(attn_scores), dim=1)", "F.softmax(self.projection(attn_scores), dim=-1)",
)  # fmt: skip
plant(
    "fm-afi-attends-over-the-batch", "fm-afi", "model",
    "The attention wants the sequence first and gets the batch first: rows attend to other rows.",
    f"{FM}/model/afi.py",
    "cross_term = atten_x.transpose(0, 1)", "cross_term = atten_x",
    "        cross_term = cross_term.transpose(0, 1)\n", "",
)  # fmt: skip

# AntixK/PyTorch-VAE

plant(
    "vae-divergence-subtracted", "vae-vanilla", "loss",
    "The divergence has the wrong sign, and the code runs away from the prior.",
    "AntixK/PyTorch-VAE/models/vanilla_vae.py",
    "loss = recons_loss + kld_weight * kld_loss", "loss = recons_loss - kld_weight * kld_loss",
)  # fmt: skip
plant(
    "vq-no-straight-through", "vae-vq", "model",
    "The straight-through step was left out: the encoder gets no gradient of the reconstruction.",
    "AntixK/PyTorch-VAE/models/vq_vae.py",
    "        quantized_latents = latents + (quantized_latents - latents).detach()\n", "",
)  # fmt: skip

# locuslab/TCN, cure-lab/LTSF-Linear

plant(
    "tcn-cuts-the-wrong-side", "tcn-copy-memory", "model",
    "The padding is cut off at the start, so that the convolutions look ahead.",
    "locuslab/TCN/TCN/tcn.py",
    "x[:, :, :-self.chomp_size]", "x[:, :, self.chomp_size:]",
)  # fmt: skip
plant(
    "tcn-labels-of-the-row-before", "tcn-adding", "data",
    "The target is the sum of two numbers of the row before.",
    "locuslab/TCN/TCN/adding_problem/utils.py",
    "Y[i,0] = X_num[i, 0, positions[0]] + X_num[i, 0, positions[1]]",
    "Y[i,0] = X_num[i-1, 0, positions[0]] + X_num[i-1, 0, positions[1]]",
)  # fmt: skip
plant(
    "linear-reshaped-not-transposed", "ltsf-linear", "model",
    "Time and channels are reshaped into one another where they were to be swapped.",
    "cure-lab/LTSF-Linear/models/Linear.py",
    "x = self.Linear(x.permute(0,2,1)).permute(0,2,1)",
    "x = self.Linear(x.reshape(x.size(0), -1, self.seq_len)).reshape(x.size(0), self.pred_len, -1)",
)  # fmt: skip

# Graphs, points, pairs, text

plant(
    "gat-softmax-over-the-wrong-axis", "pygat-one-graph", "model",
    "The attention sums to one over those who ask, not over the neighbours.",
    "Diego999/pyGAT/layers.py",
    "F.softmax(attention, dim=1)", "F.softmax(attention, dim=0)",
)  # fmt: skip
plant(
    "triplet-negative-is-the-positive", "siamese-triplet", "loss",
    "Both distances are to the positive: the loss is the margin, whatever the network does.",
    "adambielski/siamese-triplet/losses.py",
    "distance_negative = (anchor - negative)", "distance_negative = (anchor - positive)",
)  # fmt: skip
plant(
    "siamese-softmax-over-the-batch", "siamese-classifier", "model",
    "The softmax runs over the rows of the batch, not over the classes.",
    "adambielski/siamese-triplet/networks.py",
    "F.log_softmax(self.fc1(output), dim=-1)", "F.log_softmax(self.fc1(output), dim=0)",
)  # fmt: skip
plant(
    "kim-random-words-frozen", "kim-cnn-text", "optimisation",
    "The words are kept still where they should not be: their vectors stay random.",
    "Shawn1993/cnn-text-classification-pytorch/model.py",
    "if self.args.static:", "if not self.args.static:",
)  # fmt: skip
plant(
    "transformer-mask-by-or", "attention-is-all-you-need", "model",
    "The masks of padding and of the future are joined by or: the decoder sees what it is to say.",
    "jadore801120/attention-is-all-you-need-pytorch/transformer/Models.py",
    "self.trg_pad_idx) & get_subsequent_mask", "self.trg_pad_idx) | get_subsequent_mask",
)  # fmt: skip
plant(
    "vit-heads-scrambled", "vit-vit", "model",
    "The heads are put together without being swapped back with the patches.",
    "lucidrains/vit-pytorch/vit_pytorch/vit.py",
    "rearrange(out, 'b h n d -> b n (h d)')", "out.reshape(out.shape[0], out.shape[2], -1)",
)  # fmt: skip
plant(
    "vit-attention-all-zero", "vit-qk-norm", "initialisation",
    "The scales of queries and keys start at zero, where neither gets a gradient.",
    "lucidrains/vit-pytorch/vit_pytorch/simple_vit_with_qk_norm.py",
    "nn.Parameter(torch.ones(heads, 1, dim) / self.scale)", "nn.Parameter(torch.zeros(heads, 1, dim))",
)  # fmt: skip
plant(
    "convlstm-starts-anew-each-frame", "convlstm-next-frame", "state",
    "Every frame starts from the first state: only the last is seen.",
    "ndrplz/ConvLSTM_pytorch/convlstm.py",
    "cur_state=[h, c])", "cur_state=hidden_state[layer_idx])",
)  # fmt: skip


# What the adapters themselves write


def on_all_nodes(parts: Parts) -> Parts:
    assert parts.loop is not None
    found = inspect.getclosurevars(parts.loop).nonlocals
    model, optimizer, x, near, y, train = (
        found[name] for name in ("model", "optimizer", "x", "near", "y", "train")
    )  # fmt: skip

    def loop() -> None:
        for _ in range(30):
            model.train()
            optimizer.zero_grad()
            F.nll_loss(model(x, near), y).backward()
            optimizer.step()
            model.eval()
            F.nll_loss(model(x, near)[~train], y[~train])

    return replace(parts, loop=loop)


def with_padding(parts: Parts) -> Parts:
    def step(module: nn.Module, batch: Any) -> Tensor:
        source, target = batch
        gold = target[:, 1:].contiguous().view(-1)
        return F.cross_entropy(module(source, target[:, :-1]), gold, reduction="sum")

    return replace(parts, step=step)


def with_points_reshaped(parts: Parts) -> Parts:
    train, valid = (
        (x.transpose(1, 2).reshape(len(x), 3, -1), y) for x, y in (parts.train, parts.valid)
    )  # fmt: skip
    return replace(parts, train=train, valid=valid)


def whole(parts: Parts) -> list[Tensor]:
    return [torch.cat(pair) for pair in zip(parts.train, parts.valid, strict=True)]


def split_at_random(parts: Parts) -> Parts:
    x, y = whole(parts)
    order = torch.randperm(len(x))
    train, valid = halves(x[order], y[order])
    return replace(parts, train=train, valid=valid)


def doubled_before_split(parts: Parts) -> Parts:
    x, y = whole(parts)
    drawn = torch.randint(len(x), (2 * len(x),))
    train, valid = halves(x[drawn], y[drawn])
    return replace(parts, train=train, valid=valid)


plant(
    "gcn-trains-on-all-nodes", "pygcn-one-graph", "data",
    "The loss takes the nodes that are kept for validation too.",
    change=on_all_nodes,
)  # fmt: skip
plant(
    "transformer-padding-counted", "attention-is-all-you-need", "loss",
    "The padding of the targets is not left out of the loss.",
    change=with_padding,
)  # fmt: skip
plant(
    "pointnet-points-reshaped", "pointnet-classes", "data",
    "The clouds, points first, are reshaped into coordinates first, not transposed: each point is made of three others.",
    change=with_points_reshaped,
)  # fmt: skip
plant(
    "dlinear-windows-split-at-random", "ltsf-dlinear", "data",
    "Windows that overlap are drawn for training and validation at random.",
    change=split_at_random,
)  # fmt: skip
plant(
    "recommender-drawn-before-split", "fm-ipnn", "data",
    "The rows are drawn with replacement before the split: most of validation is in training too.",
    change=doubled_before_split,
)  # fmt: skip


# Whether a mistake is in force


def trace(parts: Parts) -> tuple[list[float], list[float]]:
    """Train a few steps from a known seed, and return each loss, and all that could be seen of the network meanwhile."""
    seed_all(0)
    losses: list[float] = []
    seen: list[float] = []
    backward: Any = Tensor.backward

    def noted(self: Tensor, *args: Any, **kwargs: Any) -> None:
        losses.append(float(self.detach()))
        backward(self, *args, **kwargs)

    def note(module: nn.Module, inputs: Any, outputs: Any) -> None:
        answers = outputs if isinstance(outputs, tuple | list) else (outputs,)
        seen.extend(float(x.detach().double().abs().sum()) for x in answers if isinstance(x, Tensor))

    optimizers = parts.optimizer if isinstance(parts.optimizer, list) else [parts.optimizer]
    with mock.patch.object(Tensor, "backward", noted), parts.module.register_forward_hook(note):
        if parts.loop is not None:
            parts.loop()
        else:
            train_three(parts)
    held = [p for o in optimizers if o is not None for group in o.param_groups for p in group["params"]]
    seen.extend(float(p.detach().double().abs().sum()) for p in [*parts.module.parameters(), *held])
    return losses, losses + seen


def train_three(parts: Parts) -> None:
    assert isinstance(parts.optimizer, torch.optim.Optimizer)
    parts.module.train()
    epochs = itertools.chain.from_iterable(batches(parts.train) for _ in range(3))
    for batch in itertools.islice(epochs, 3):
        parts.optimizer.zero_grad()
        loss_of(parts, batch).backward()
        parts.optimizer.step()
    if parts.valid is not None:
        parts.module.eval()
        with torch.no_grad():
            loss_of(parts, next(batches(parts.valid)))


def batches(data: Any) -> Iterator[Any]:
    return iter(data if isinstance(data, DataLoader) else DataLoader(TensorDataset(*data), 32, shuffle=True))


def loss_of(parts: Parts, batch: Any) -> Any:
    if parts.step is not None:
        return parts.step(parts.module, batch)
    assert parts.criterion is not None
    return parts.criterion(parts.module(*batch[:-1]), batch[-1])


def verify(entry: Planted, folder: Path) -> str:
    """Return how the mistake shows; raise where it does not run, or does nothing.

    The sound program is run twice: what differs between those runs would prove nothing.
    """
    (losses, sound), (_, again) = (trace(entry.make(folder, is_broken=False)) for _ in range(2))
    wrong_losses, wrong = trace(entry.make(folder, is_broken=True))
    if sound != again:
        raise ValueError("the sound program is not the same twice")
    if not (losses and wrong_losses and all(map(math.isfinite, losses + wrong_losses))):
        raise ValueError(f"losses are missing or not finite: {losses} and {wrong_losses}")
    if len(wrong) == len(sound) and all(math.isclose(a, b, rel_tol=1e-5) for a, b in zip(sound, wrong, strict=True)):
        raise ValueError("the mistake changes nothing")
    return f"loss {losses[0]:.4g} to {losses[-1]:.4g}; with the mistake {wrong_losses[0]:.4g} to {wrong_losses[-1]:.4g}"
