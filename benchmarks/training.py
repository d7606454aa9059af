# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""How much faster an agent trains here than by the reference's operations, side by side.

The reference (TD-MPC, Hansen et al. 2022, algorithm 2) is stated again in `Reference`: ELU
networks; heads, targets and losses at each step of the rollout; a policy update at every update;
two plain Adams; targets that follow parameter by parameter. Both sides get the same sizes, batch,
horizon and threads, the same batches, and turns in one process, so that what disturbs the machine
disturbs both.

    python benchmarks/training.py --json training.json

| key | meaning |
|---|---|
| `updates_ratio_to_reference` | updates per second at the reference's sizes, `agent.precision` bfloat16, to the reference's |
| `updates_ratio_float32` | the same in float32 |
| `updates_ratio_same_losses` | bfloat16, and with ELU and a policy update every time, as there |
| `quick_training_ratio` | the whole training of config/pendulum_quick.yaml, to as many decisions with the reference's plan (512 x 6) and update at each; evaluation left out on both sides |
| `quick_training_ratio_same_plans` | the same, with our cheap plans there, too |
"""  # noqa: E501 (a table)

from __future__ import annotations

import argparse
import copy
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from pruning_core import config as configuration
from pruning_core.agent import Agent
from pruning_core.config import AgentConfig, Config, NetworkConfig, PlannerConfig
from pruning_core.networks import Widths, build, initialise
from pruning_core.planner import SeededNoise, TorchPlanner
from pruning_core.replay import Batch, Replay
from pruning_core.runtime.memory import keep_freed_memory
from pruning_core.training import Trainer

QUICK = Path(__file__).resolve().parent.parent / 'config' / 'pendulum_quick.yaml'
Clock = Callable[[], float]
DISCOUNT, RHO, TAU, CLIP, STD = 0.99, 0.5, 0.01, 10.0, 0.05


class Reference:
    """The updates of TD-MPC, one step of the rollout at a time."""

    def __init__(self, network: NetworkConfig, observations: int, actions: int) -> None:
        widths = Widths.dense(network, observations, actions)
        self.net = build(widths)
        initialise(self.net, torch.Generator().manual_seed(0))
        self.slow = copy.deepcopy(self.net).requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=1e-3)
        self.policy_optimizer = torch.optim.Adam(self.net['policy'].parameters(), lr=1e-3)
        self.updates = 0

    def act(self, latent: Tensor) -> Tensor:
        """The policy with clipped noise; the clamp to [-1, 1] passes gradients."""
        mean = self.net['policy'](latent)
        noisy = mean + (STD * torch.randn_like(mean)).clamp(-0.3, 0.3)
        return noisy + (noisy.clamp(-1, 1) - noisy).detach()

    def target(self, observation: Tensor, reward: Tensor) -> Tensor:
        latent = self.net['encoder'](observation)
        pair = torch.cat([latent, self.act(latent)], dim=-1)
        return reward + DISCOUNT * torch.min(self.slow['q1'](pair), self.slow['q2'](pair))

    def update(self, batch: Batch) -> dict[str, float]:
        """One update of the model, the policy and, every second time, the targets."""
        observation, action, reward = (torch.from_numpy(x) for x in batch[:3])
        reward, horizon = reward.unsqueeze(-1), len(action)
        self.optimizer.zero_grad()
        latent = self.net['encoder'](observation[0])
        latents = [latent.detach()]
        consistency = rewards = values = torch.zeros(action.shape[1], 1)
        for t in range(horizon):
            weight, pair = RHO**t, torch.cat([latent, action[t]], dim=-1)
            q1, q2 = self.net['q1'](pair), self.net['q2'](pair)
            latent, predicted = self.net['dynamics'](pair), self.net['reward'](pair)
            with torch.no_grad():
                goal = self.slow['encoder'](observation[t + 1])
                value = self.target(observation[t + 1], reward[t])
            latents.append(latent.detach())
            consistency = consistency + weight * (latent - goal).square().mean(1, keepdim=True)
            rewards = rewards + weight * (predicted - reward[t]).square()
            values = values + weight * ((q1 - value).square() + (q2 - value).square())
        loss = (2 * consistency + 0.5 * rewards + 0.1 * values).mean() / horizon
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.net.parameters(), CLIP)
        self.optimizer.step()
        policy_loss = self.update_policy(latents)
        if self.updates % 2 == 0:
            with torch.no_grad():
                for slow, fast in zip(self.slow.parameters(), self.net.parameters(), strict=True):
                    slow.lerp_(fast, TAU)
        self.updates += 1
        return {'consistency': consistency.mean().item(), 'reward': rewards.mean().item(),
                'value': values.mean().item(), 'policy': policy_loss, 'norm': norm.item()}

    def update_policy(self, latents: list[Tensor]) -> float:
        self.policy_optimizer.zero_grad()
        for name in ('q1', 'q2'):
            self.net[name].requires_grad_(False)
        loss = torch.zeros(())
        for t, latent in enumerate(latents):
            pair = torch.cat([latent, self.act(latent)], dim=-1)
            loss = loss - RHO**t * torch.min(self.net['q1'](pair), self.net['q2'](pair)).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(self.net['policy'].parameters(), CLIP)
        self.policy_optimizer.step()
        for name in ('q1', 'q2'):
            self.net[name].requires_grad_(True)
        return float(loss.detach())


def filled(observations: int = 3, actions: int = 1) -> Replay:
    """Random episodes; what is in them does not matter for time."""
    rng = np.random.default_rng(0)
    replay = Replay(10_000, observations, actions)
    for _ in range(20):
        replay.add(rng.normal(size=(201, observations)), rng.uniform(-1, 1, (200, actions)),
                   rng.normal(size=200), False)
    return replay


def timed(does: Callable[[], object], clock: Clock, calls: int = 1) -> float:
    """Seconds of a call, the mean of so many."""
    started = clock()
    for _ in range(calls):
        does()
    return (clock() - started) / calls


def updates(rounds: int, batch: int, horizon: int, clock: Clock) -> dict[str, float]:
    """Median seconds of an update at the reference's sizes: theirs, and ours in three settings."""
    replay, rng = filled(), np.random.default_rng(0)

    def ours(activation: str, **settings: object) -> Agent:
        widths = Widths.dense(NetworkConfig(activation=activation), 3, 1)
        config = AgentConfig(batch_size=batch, horizon=horizon, **settings)  # type: ignore[arg-type]
        return Agent(widths, config, torch.Generator().manual_seed(0))

    contestants = {
        'reference': Reference(NetworkConfig(activation='elu'), 3, 1),
        'float32': ours('relu'), 'bfloat16': ours('relu', precision='bfloat16'),
        'same losses': ours('elu', precision='bfloat16', policy_every=1)}
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for i in tqdm(range(rounds + 1), desc='updates', disable=None):
        drawn = replay.sample(rng, batch, horizon)
        for name, contestant in contestants.items():
            # Two at a time: ours updates its policy every second time.
            taken = timed(partial(contestant.update, drawn), clock, 2)
            if i:  # the first one allocates
                seconds[name].append(taken)
    return {name: float(np.median(values)) for name, values in seconds.items()}


def quick(config: Config, every: int, clock: Clock) -> dict[str, float]:
    """Seconds of the whole quick training: ours, and the reference's way, reckoned from a part.

    After every so many of our updates the other side has one update and one plan of each kind, so
    that both meet the same machine; ours is the time in between. The other does one update a
    decision, as the reference does; both act at random in the first episodes. Ours also measures
    importance, writes its metrics and its folder; that is not reckoned for the other.
    """
    t, c = config.training, config.agent
    reference, rng = Reference(config.network, 3, 1), np.random.default_rng(0)
    # The defaults are the reference's: 5 steps ahead, 512 plans, 6 refinements.
    cheap = PlannerConfig().scaled(t.collect_samples, t.collect_iterations)
    cheap = replace(cheap, horizon=t.collect_horizon or cheap.horizon)
    full_plan, cheap_plan = (
        partial(TorchPlanner(reference.net, budget, DISCOUNT, STD, SeededNoise([0])).plan,
                torch.zeros(1, 3)) for budget in (PlannerConfig(), cheap))
    taken: dict[str, list[float]] = {'update': [], 'full': [], 'cheap': []}

    def update() -> None:
        reference.update(trainer.replay.sample(rng, c.batch_size, c.horizon))

    def turn(*_: object, **facts: object) -> None:
        if 'updates' in facts and trainer.agent.updates % every == 0:
            for name, does in (('update', update), ('full', full_plan), ('cheap', cheap_plan)):
                taken[name].append(timed(does, clock))

    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(config, Path(folder) / 'run', turn)
        whole = timed(trainer.run, clock)
    mean = {name: float(np.mean(seconds)) for name, seconds in taken.items()}
    learning = trainer.decisions * mean['update']
    planned = trainer.decisions * (1 - t.random_episodes / t.episodes)
    return {'ours': whole - sum(sum(seconds) for seconds in taken.values()),
            'reference': learning + planned * mean['full'],
            'same plans': learning + planned * mean['cheap']}


def main() -> None:
    """Measure, print, and write what `--json` asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--json', type=Path, help='write the figures to this file')
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--batch', type=int, default=512)
    parser.add_argument('--horizon', type=int, default=5)
    parser.add_argument('--rounds', type=int, default=9, help='turns of each side')
    parser.add_argument('--every', type=int, default=20,
                        help='of our updates between two turns of the other, in the quick part')
    parser.add_argument('--default-memory', action='store_true',
                        help='leave the C library as it is; training keeps freed memory')
    parser.add_argument('--cpu-time', action='store_true',
                        help="count this process's CPU time: where others use the machine, too")
    parser.add_argument('--no-quick', action='store_true', help='updates alone')
    options = parser.parse_args()
    clock = time.process_time if options.cpu_time else time.perf_counter
    torch.set_num_threads(options.threads)
    if not options.default_memory:
        keep_freed_memory()  # as training does; the reference has it from it, too
    taken = updates(options.rounds, options.batch, options.horizon, clock)
    facts: dict[str, float | str] = {
        'threads': options.threads, 'clock': 'cpu' if options.cpu_time else 'wall',
        'batch': options.batch, 'horizon': options.horizon,
        **{f'update_{name.replace(" ", "_")}_ms': round(1e3 * s, 1) for name, s in taken.items()},
        'updates_ratio_to_reference': round(taken['reference'] / taken['bfloat16'], 2),
        'updates_ratio_float32': round(taken['reference'] / taken['float32'], 2),
        'updates_ratio_same_losses': round(taken['reference'] / taken['same losses'], 2)}
    if not options.no_quick:
        config = configuration.load(QUICK, [f'training.threads={options.threads}',
                                            'training.evaluate_every=0'])
        whole = quick(config, options.every, clock)
        facts.update({
            **{f'quick_{name.replace(" ", "_")}_s': round(s, 1) for name, s in whole.items()},
            'quick_training_ratio': round(whole['reference'] / whole['ours'], 2),
            'quick_training_ratio_same_plans': round(whole['same plans'] / whole['ours'], 2)})
    text = json.dumps(facts, indent=1)
    if options.json:
        options.json.write_text(text + '\n')
    sys.stdout.write(text + '\n')


if __name__ == '__main__':
    main()
