"""Your own modules in your own loop: a small GAN with two optimizers, watched for mistakes that raise no error.

Prints:
    mean 2.9, should be 3.0
    nothing to report
"""

import torch
from torch import nn

import luthier

torch.manual_seed(0)
EPOCHS, BATCH = 8, 128
generator = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 1))
critic = nn.Sequential(nn.Linear(1, 32), nn.ReLU(), nn.Linear(32, 1))
improve_generator = torch.optim.Adam(generator.parameters(), 5e-3, betas=(0.5, 0.9))
improve_critic = torch.optim.Adam(critic.parameters(), 5e-3, betas=(0.5, 0.9))
loss = nn.BCEWithLogitsLoss()
real = 3 + 0.5 * torch.randn(10_000, 1)
yes, no = torch.ones(BATCH, 1), torch.zeros(BATCH, 1)

with luthier.watch(critic, improve_critic) as seen:
    for epoch in range(EPOCHS):
        # the order of an epoch depends on the seed and the epoch alone, as in `fit`
        for indices in luthier.order(len(real), seed=0, epoch=epoch).split(BATCH)[:-1]:
            made = generator(torch.randn(BATCH, 4))

            improve_critic.zero_grad()
            (loss(critic(real[indices]), yes) + loss(critic(made.detach()), no)).backward()
            improve_critic.step()

            improve_generator.zero_grad()
            loss(critic(made), yes).backward()
            improve_generator.step()

with torch.no_grad():
    print(f"mean {generator(torch.randn(10_000, 4)).mean():.1f}, should be {real.mean():.1f}")
print("\n".join(map(str, seen.findings)) or "nothing to report")
