"""DQN on CartPole-v1: a replay buffer, a target network, epsilon by step (vwxyzjn/cleanrl, dqn.py)."""

import random
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn, optim
from torch.nn import functional as F

import luthier
from tests.custom.programs import Outcome, steps_of


class ReplayBuffer:
    """The last transitions, in tensors that are made once."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.size, self.next = capacity, 0, 0
        self.obs, self.next_obs = torch.zeros(capacity, 4), torch.zeros(capacity, 4)
        self.actions, self.rewards = torch.zeros(capacity, dtype=torch.long), torch.zeros(capacity)
        self.dones = torch.zeros(capacity)

    def add(self, obs: Any, action: int, reward: float, next_obs: Any, done: bool) -> None:
        i = self.next
        self.obs[i], self.next_obs[i] = torch.as_tensor(obs), torch.as_tensor(next_obs)
        self.actions[i], self.rewards[i], self.dones[i] = action, reward, float(done)
        self.next = (i + 1) % self.capacity
        self.size = min(self.size + 1, self.capacity)

    def sample(self, n: int) -> tuple[Tensor, ...]:
        chosen = torch.from_numpy(np.random.randint(0, self.size, n))
        return tuple(part[chosen] for part in (self.obs, self.actions, self.rewards, self.next_obs, self.dones))


def q_network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))


def epsilon_at(step: int) -> float:
    return max(0.05, 1.0 - step / 300)


def plain() -> Outcome:
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    env = gymnasium.make("CartPole-v1")
    env.action_space.seed(0)
    q, target = q_network(), q_network()
    target.load_state_dict(q.state_dict())
    optimizer = optim.Adam(q.parameters(), lr=1e-3)
    buffer = ReplayBuffer(500)
    rows = []

    obs, _ = env.reset(seed=0)
    length = 0
    for step in range(450):
        if random.random() < epsilon_at(step):
            action = int(env.action_space.sample())
        else:
            action = int(q(torch.as_tensor(obs)).argmax())
        next_obs, reward, terminated, truncated, _ = env.step(action)
        buffer.add(obs, action, float(reward), next_obs, terminated)
        obs = next_obs
        length += 1
        if terminated or truncated:
            print(f"{step}: {length} steps")
            length = 0
            obs, _ = env.reset()
        if step >= 32 and step % 2 == 1:
            o, a, r, n, d = buffer.sample(32)
            with torch.no_grad():
                goal = r + 0.99 * target(n).max(1).values * (1 - d)
            loss = F.mse_loss(q(o).gather(1, a[:, None])[:, 0], goal)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if (step + 1) % 50 == 0:
                rows.append({"loss": loss.item()})
        if step % 100 == 0:
            target.load_state_dict(q.state_dict())
    return {"q": q.state_dict(), "target": target.state_dict()}, rows


def with_run(folder: Path, **settings: Any) -> Outcome:
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    env = gymnasium.make("CartPole-v1")
    env.action_space.seed(0)
    q, target = q_network(), q_network()
    target.load_state_dict(q.state_dict())
    optimizer = optim.Adam(q.parameters(), lr=1e-3)
    buffer = ReplayBuffer(500)

    obs, _ = env.reset(seed=0)
    with luthier.run(
        folder,
        env=env,
        q=q,
        target=target,
        optimizer=optimizer,
        buffer=buffer,
        obs=obs,
        length=0,
        log_every_steps=50,
        **settings,
    ) as run:
        for step in run.steps(450):
            if random.random() < epsilon_at(step):
                action = int(env.action_space.sample())
            else:
                action = int(q(torch.as_tensor(run.obs)).argmax())
            next_obs, reward, terminated, truncated, _ = env.step(action)
            buffer.add(run.obs, action, float(reward), next_obs, terminated)
            run.obs = next_obs
            run.length += 1
            if terminated or truncated:
                print(f"{step}: {run.length} steps")
                run.length = 0
                run.obs, _ = env.reset()
            if step >= 32 and step % 2 == 1:
                o, a, r, n, d = buffer.sample(32)
                with torch.no_grad():
                    goal = r + 0.99 * target(n).max(1).values * (1 - d)
                loss = F.mse_loss(q(o).gather(1, a[:, None])[:, 0], goal)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                run.log(loss=loss)
            if step % 100 == 0:
                target.load_state_dict(q.state_dict())
    return {"q": q.state_dict(), "target": target.state_dict()}, steps_of(run.record)
