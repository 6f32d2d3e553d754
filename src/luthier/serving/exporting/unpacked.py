"""Layers in a form that torch exports for any number of steps."""

import torch
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan

from luthier.networks.families.mixed import TextReader
from luthier.networks.families.recurrent import RecurrentNet


def unpacked(network: nn.Module) -> nn.Module:
    """Return the network, changed: `Unpacked` stands for the recurrent layers of our families, which pack, and
    `WidePool` for each `MaxPool1d`, of which torch would fix the length.
    """
    for part in list(network.modules()):
        for name, child in list(part.named_children()):
            if type(child) is nn.MaxPool1d and not (child.return_indices or child.ceil_mode):
                setattr(part, name, WidePool(child))
        if isinstance(part, RecurrentNet):
            part.recurrent = Unpacked(part.recurrent)  # type: ignore[assignment]
        elif isinstance(part, TextReader) and isinstance(part.reader, nn.RNNBase):
            part.reader = Unpacked(part.reader)
    return network


class WidePool(nn.Module):
    """The maxima of a `MaxPool1d`, as those of its windows' first values, second values and so on."""

    def __init__(self, pool: nn.MaxPool1d) -> None:
        super().__init__()
        self.size, self.stride, self.padding, self.dilation = (
            int(part[0] if isinstance(part, tuple) else part)
            for part in (pool.kernel_size, pool.stride, pool.padding, pool.dilation)
        )

    def forward(self, values: Tensor) -> Tensor:
        """Map `(…, C, L)` to `(…, C, L')`."""
        padded = nn.functional.pad(values, (self.padding, self.padding), value=-torch.inf)
        reach = padded.shape[-1] - self.dilation * (self.size - 1)
        starts = [self.dilation * i for i in range(self.size)]
        return torch.stack([padded[..., i : i + reach : self.stride] for i in starts]).amax(dim=0)


class Unpacked(nn.Module):
    """The layers of a trained RNN, LSTM or GRU: the second direction reads each row from its own last step.

    Args:
        recurrent: Batch first.
    """

    def __init__(self, recurrent: nn.RNNBase) -> None:
        super().__init__()
        self.mode, self.size = recurrent.mode, recurrent.hidden_size
        self.num_layers, self.bidirectional = recurrent.num_layers, recurrent.bidirectional
        self.weights = nn.ParameterList(list(recurrent._flat_weights))

    def forward(self, steps: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Map steps `(N, L, C)` and lengths from 1, `(N,)`, to states `(N, L, F)`, 0 after a row's end, and the last
        states of each layer and direction, `(layers and directions, N, H)`.
        """
        places = torch.arange(steps.shape[1], device=steps.device)
        inside = (places < lengths[:, None])[:, :, None]
        back = torch.where(inside[:, :, 0], lengths[:, None] - 1 - places, places)[:, :, None]
        parameters = iter(self.weights)
        finals = []
        for _ in range(self.num_layers):
            found = []
            for is_second in range(1 + self.bidirectional):
                read = steps.gather(1, back.expand(-1, -1, steps.shape[2])) if is_second else steps
                own = [next(parameters) for _ in range(4)]
                states = torch.where(inside, self.run(read, *own), 0.0)
                finals.append(states.gather(1, (lengths - 1)[:, None, None].expand(-1, 1, self.size))[:, 0])
                found.append(states.gather(1, back.expand(-1, -1, self.size)) if is_second else states)
            steps = torch.cat(found, dim=2)
        return steps, torch.stack(finals)

    def run(self, steps: Tensor, weight: Tensor, again: Tensor, bias: Tensor, bias_again: Tensor) -> Tensor:
        """Map steps `(N, L, C)` to states `(N, L, H)`, by the formulas of `torch.nn.RNN`, `LSTM` and `GRU`."""
        mode, size = self.mode, self.size

        def step(state: Tensor, given: Tensor) -> tuple[Tensor, Tensor]:
            before = state[:, :size]
            more = torch.nn.functional.linear(before, again, bias_again)
            if mode == "GRU":
                reset, update = (given[:, : 2 * size] + more[:, : 2 * size]).sigmoid().chunk(2, dim=1)
                new = (given[:, 2 * size :] + reset * more[:, 2 * size :]).tanh()
                after = new + update * (before - new)
                return after, after.clone()
            if mode == "LSTM":
                admit, forget, new, show = (given + more).chunk(4, dim=1)
                cell = forget.sigmoid() * state[:, size:] + admit.sigmoid() * new.tanh()
                after = show.sigmoid() * cell.tanh()
                return torch.cat([after, cell], dim=1), after
            after = (given + more).tanh() if mode == "RNN_TANH" else (given + more).relu()
            return after, after.clone()

        given = torch.nn.functional.linear(steps, weight, bias).transpose(0, 1)  # (L, N, gates H)
        start = steps.new_zeros((steps.shape[0], size * (1 + (mode == "LSTM"))))
        states: Tensor = scan(step, start, given)[1]
        return states.transpose(0, 1)
