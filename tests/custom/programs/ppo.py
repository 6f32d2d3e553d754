"""PPO on four CartPoles: a rollout an epoch, GAE, several passes over it (vwxyzjn/cleanrl, ppo.py)."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn, optim
from torch.distributions import Categorical

import luthier
from tests.custom.programs import Outcome, mean, seed_everything


def layer(inputs: int, outputs: int, std: float = np.sqrt(2)) -> nn.Linear:
    made = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(made.weight, std)
    nn.init.zeros_(made.bias)
    return made


class Agent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.critic = nn.Sequential(layer(4, 64), nn.Tanh(), layer(64, 64), nn.Tanh(), layer(64, 1, 1.0))
        self.actor = nn.Sequential(layer(4, 64), nn.Tanh(), layer(64, 64), nn.Tanh(), layer(64, 2, 0.01))

    def forward(self, x: Tensor, action: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        choice = Categorical(logits=self.actor(x))
        action = choice.sample() if action is None else action
        return action, choice.log_prob(action), choice.entropy(), self.critic(x)[:, 0]


def advantages_of(rewards: Tensor, values: Tensor, dones: Tensor, next_value: Tensor, next_done: Tensor) -> Tensor:
    """Return generalized advantage estimates, `(T, N)`, with gamma 0.99 and lambda 0.95."""
    advantages, last = torch.zeros_like(rewards), torch.zeros_like(next_value)
    for t in reversed(range(len(rewards))):
        alive = 1 - (next_done if t == len(rewards) - 1 else dones[t + 1])
        after = next_value if t == len(rewards) - 1 else values[t + 1]
        delta = rewards[t] + 0.99 * after * alive - values[t]
        last = delta + 0.99 * 0.95 * alive * last
        advantages[t] = last
    return advantages


def plain() -> Outcome:
    torch.manual_seed(0)
    num_steps, num_envs, num_updates, batch_size = 32, 4, 5, 32
    envs = gymnasium.vector.SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * num_envs)
    agent = Agent()
    optimizer = optim.Adam(agent.parameters(), lr=2.5e-3, eps=1e-5)
    obs = torch.zeros(num_steps, num_envs, 4)
    actions = torch.zeros(num_steps, num_envs, dtype=torch.long)
    logprobs, rewards, dones, values = (torch.zeros(num_steps, num_envs) for _ in range(4))
    rows = []
    next_obs = torch.as_tensor(envs.reset(seed=0)[0])
    next_done = torch.zeros(num_envs)
    seed_everything(0)
    for update in range(num_updates):
        optimizer.param_groups[0]["lr"] = (1 - update / num_updates) * 2.5e-3
        for step in range(num_steps):
            obs[step], dones[step] = next_obs, next_done
            with torch.no_grad():
                actions[step], logprobs[step], _, values[step] = agent(next_obs)
            new_obs, reward, terminated, truncated, _ = envs.step(actions[step].numpy())
            rewards[step] = torch.as_tensor(reward)
            next_obs, next_done = torch.as_tensor(new_obs), torch.as_tensor(terminated | truncated).float()
        with torch.no_grad():
            next_value = agent(next_obs)[3]
        advantages = advantages_of(rewards, values, dones, next_value, next_done)
        b_obs, b_logprobs, b_actions = obs.reshape(-1, 4), logprobs.reshape(-1), actions.reshape(-1)
        b_advantages, b_returns = advantages.reshape(-1), (advantages + values).reshape(-1)

        losses = []
        for i in range(4):
            for chosen in luthier.order(len(b_obs), 0, 4 * update + i).split(batch_size):
                _, logprob, entropy, value = agent(b_obs[chosen], b_actions[chosen])
                ratio = (logprob - b_logprobs[chosen]).exp()
                advantage = b_advantages[chosen]
                advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
                pg_loss = torch.max(-advantage * ratio, -advantage * ratio.clamp(0.8, 1.2)).mean()
                loss = pg_loss - 0.01 * entropy.mean() + 0.5 * ((value - b_returns[chosen]) ** 2).mean()
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
                optimizer.step()
                losses.append(loss.detach())
        rows.append({"loss": mean(losses), "mean_return": b_returns.mean().item()})
    return {"agent": agent.state_dict()}, rows


def with_run(folder: Path, **settings: Any) -> Outcome:
    torch.manual_seed(0)
    num_steps, num_envs, num_updates, batch_size = 32, 4, 5, 32
    envs = gymnasium.vector.SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * num_envs)
    agent = Agent()
    optimizer = optim.Adam(agent.parameters(), lr=2.5e-3, eps=1e-5)

    next_obs = torch.as_tensor(envs.reset(seed=0)[0])
    next_done = torch.zeros(num_envs)
    with luthier.run(
        folder, envs=envs, agent=agent, optimizer=optimizer, next_obs=next_obs, next_done=next_done, seed=0, **settings
    ) as run:
        for update in run.epochs(num_updates):
            optimizer.param_groups[0]["lr"] = (1 - update / num_updates) * 2.5e-3
            obs = torch.zeros(num_steps, num_envs, 4)
            actions = torch.zeros(num_steps, num_envs, dtype=torch.long)
            logprobs, rewards, dones, values = (torch.zeros(num_steps, num_envs) for _ in range(4))
            for step in range(num_steps):
                obs[step], dones[step] = run.next_obs, run.next_done
                with torch.no_grad():
                    actions[step], logprobs[step], _, values[step] = agent(run.next_obs)
                new_obs, reward, terminated, truncated, _ = envs.step(actions[step].numpy())
                rewards[step] = torch.as_tensor(reward)
                run.next_obs, run.next_done = torch.as_tensor(new_obs), torch.as_tensor(terminated | truncated).float()
            with torch.no_grad():
                next_value = agent(run.next_obs)[3]
            advantages = advantages_of(rewards, values, dones, next_value, run.next_done)
            b_obs, b_logprobs, b_actions = obs.reshape(-1, 4), logprobs.reshape(-1), actions.reshape(-1)
            b_advantages, b_returns = advantages.reshape(-1), (advantages + values).reshape(-1)

            rollout = (b_obs, b_actions, b_logprobs, b_advantages, b_returns)
            for _ in range(4):
                for o, a, old, advantage, returns in run.batches(rollout, batch_size=batch_size):
                    _, logprob, entropy, value = agent(o, a)
                    ratio = (logprob - old).exp()
                    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
                    pg_loss = torch.max(-advantage * ratio, -advantage * ratio.clamp(0.8, 1.2)).mean()
                    loss = pg_loss - 0.01 * entropy.mean() + 0.5 * ((value - returns) ** 2).mean()
                    optimizer.zero_grad()
                    loss.backward()
                    nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
                    optimizer.step()
                    run.log(loss=loss)
            run.log(mean_return=b_returns.mean())
    return {"agent": agent.state_dict()}, run.record.epochs
