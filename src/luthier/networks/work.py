"""How many multiply-adds a call of a torch function does.

`torch.utils.flop_counter` is not used: it finds none in an LSTM and in fused attention on the CPU, and imports the
compiler, which takes seconds.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

from torch import Tensor

_PRODUCTS = ("matmul", "mm", "bmm", "mv", "dot", "addmm", "addmv", "baddbmm", "rmatmul")


def multiply_adds(function: str, args: Sequence[Any], given: Sequence[Tensor], made: Tensor) -> int:
    """Return the multiply-adds of matrix products, convolutions, recurrent layers and attention; 0 for other work.

    Args:
        function: Name of the function, without underscores around it.
        args: What it was called with.
        given: The tensors in there, flat.
        made: Its (first) output.

    >>> import torch
    >>> a, b = torch.zeros(2, 3), torch.zeros(3, 4)
    >>> multiply_adds("matmul", (a, b), (a, b), a @ b)
    24
    """
    if function in _PRODUCTS:
        left = given[{"addmm": 1, "addmv": 1, "baddbmm": 1, "rmatmul": 1}.get(function, 0)]
        return made.numel() * left.shape[-1]
    if function == "linear":
        return made.numel() * given[1].shape[-1]
    if function in ("conv1d", "conv2d", "conv3d"):
        return made.numel() * given[1][0].numel()  # weight (C', C / groups, …)
    if function.startswith("conv_transpose"):
        return given[0].numel() * given[1][0].numel()  # weight (C, C' / groups, …)
    if function == "bilinear":
        return made.numel() * given[2][0].numel()  # weight (K, D, D')
    if function in ("lstm", "gru", "rnn_tanh", "rnn_relu"):  # packed or not: each weight once a row and time step
        return prod(given[0].shape[:-1]) * sum(weight.numel() for weight in given[1:] if weight.ndim == 2)
    if function in ("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"):
        weights = given[3:5] if function == "lstm_cell" else given[2:4]
        return prod(given[0].shape[:-1]) * sum(weight.numel() for weight in weights)
    if function == "scaled_dot_product_attention":  # queries by keys, then by values
        return (given[0].numel() + made.numel()) * given[1].shape[-2]
    if function == "multi_head_attention_forward":  # query (T, N, D), key (S, N, D'), value (S, N, D'')
        query, key, value = given[:3]
        return (
            2 * query.numel() * query.shape[-1]  # into queries, and out
            + (key.numel() + value.numel()) * query.shape[-1]
            + 2 * query.numel() * key.shape[0]
        )
    if function == "einsum" and isinstance(args[0], str) and "." not in args[0]:
        letters = "".join(args[0].split("->")[0].replace(",", "").split())
        sizes = [size for tensor in given for size in tensor.shape]
        return prod(dict(zip(letters, sizes, strict=False)).values())
    return 0
