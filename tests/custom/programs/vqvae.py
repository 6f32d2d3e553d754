"""VQ-VAE with the codebook as moving averages (Van den Oord et al. 2017, appendix A.1)."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.nn import functional as F

import luthier
from tests.custom.programs import Outcome, mean, seed_everything
from tests.custom.programs.dcgan import pictures


class Quantizer(nn.Module):
    """The nearest vector of a codebook, which follows the encoder by moving averages."""

    codebook: Tensor
    cluster_size: Tensor
    embed_sum: Tensor

    def __init__(self, size: int, dim: int, decay: float = 0.9) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("codebook", torch.randn(size, dim))
        self.register_buffer("cluster_size", torch.ones(size))
        self.register_buffer("embed_sum", self.codebook.clone())

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the quantized `(N, C, H, W)`, the commitment loss and the perplexity."""
        flat = z.permute(0, 2, 3, 1).reshape(-1, z.shape[1])
        codes = torch.cdist(flat, self.codebook).argmin(1)
        one_hot = F.one_hot(codes, len(self.codebook)).type(flat.dtype)
        if self.training:
            with torch.no_grad():
                self.cluster_size.mul_(self.decay).add_(one_hot.sum(0), alpha=1 - self.decay)
                self.embed_sum.mul_(self.decay).add_(one_hot.T @ flat, alpha=1 - self.decay)
                n = self.cluster_size.sum()
                size = (self.cluster_size + 1e-5) / (n + len(self.codebook) * 1e-5) * n
                self.codebook = self.embed_sum / size[:, None]
        quantized = self.codebook[codes].view(len(z), z.shape[2], z.shape[3], -1).permute(0, 3, 1, 2)
        commitment = F.mse_loss(quantized.detach(), z)
        usage = one_hot.mean(0)
        return z + (quantized - z).detach(), commitment, torch.exp(-(usage * (usage + 1e-10).log()).sum())


class VQVAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 8, 4, 2, 1))
        self.quantizer = Quantizer(32, 8)
        self.decoder = nn.Sequential(nn.ConvTranspose2d(8, 16, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(16, 1, 4, 2, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        quantized, commitment, perplexity = self.quantizer(self.encoder(x))
        return self.decoder(quantized), commitment, perplexity


def plain() -> Outcome:
    torch.manual_seed(0)
    model = VQVAE()
    optimizer = optim.Adam(model.parameters(), lr=2e-3, amsgrad=True)
    images, valid = pictures(320).split(256)
    variance = images.var()
    seed_everything(0)
    rows: list[dict[str, float]] = []
    best_error, best_state = float("inf"), {}

    for epoch in range(4):
        recon, perplexities = [], []
        for indices in luthier.order(256, 0, epoch).split(16):
            x = images[indices]
            optimizer.zero_grad()
            x_hat, commitment, perplexity = model(x)
            recon_error = F.mse_loss(x_hat, x) / variance
            loss = recon_error + 0.25 * commitment
            loss.backward()
            optimizer.step()
            recon.append(recon_error.detach())
            perplexities.append(perplexity)

        model.eval()
        with torch.no_grad():
            valid_error = (F.mse_loss(model(valid)[0], valid) / variance).item()
        model.train()
        if valid_error < best_error:
            best_error, best_state = valid_error, {name: value.clone() for name, value in model.state_dict().items()}
        rows.append({"recon": mean(recon), "perplexity": mean(perplexities), "valid_error": valid_error})

    model.load_state_dict(best_state)
    return {"model": model.state_dict()}, rows


def with_run(folder: Path, **settings: Any) -> Outcome:
    torch.manual_seed(0)
    model = VQVAE()
    optimizer = optim.Adam(model.parameters(), lr=2e-3, amsgrad=True)
    images, valid = pictures(320).split(256)
    variance = images.var()

    def measure() -> dict[str, Tensor]:
        return {"error": F.mse_loss(model(valid)[0], valid) / variance}

    with luthier.run(folder, model=model, optimizer=optimizer, images=images, seed=0, **settings) as run:
        for _ in run.epochs(4):
            for x in run.batches(images, batch_size=16):
                optimizer.zero_grad()
                x_hat, commitment, perplexity = model(x)
                recon_error = F.mse_loss(x_hat, x) / variance
                loss = recon_error + 0.25 * commitment
                loss.backward()
                optimizer.step()
                run.log(recon=recon_error, perplexity=perplexity)

            figures = run.validate(measure)
            run.best.update(figures["error"])

        run.best.restore()
    return {"model": model.state_dict()}, run.record.epochs
