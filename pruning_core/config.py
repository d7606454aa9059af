# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Configuration: YAML in, frozen dataclasses out; an unknown key is an error with a suggestion.

One dataclass per stage. The comment above a field tells its meaning, its unit and what 0 or an
empty value does. Derived values are properties, nobody writes to a config, and the resolved one is
saved beside every result (`dump`).
"""

from __future__ import annotations

import dataclasses
import math
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pruning_core.errors import ConfigError, explain, nearest
from pruning_core.runtime.choice import MOST_PUSHES

ACTIVATIONS = ('relu', 'elu')
MOST_SEED = 2**32 - 1
SCORES = ('gradient', 'fisher', 'bayesian', 'combined', 'ucb', 'random', 'l1', 'l2', 'lamp',
          'taylor', 'activation', 'ablation')
FISHERS, POSTERIORS, AGGREGATES = ('batch', 'per_sample'), ('mean', 'paper'), ('mean', 'sum')
SCHEDULES = ('none', 'cosine', 'in_phase', 'frequencies', 'constant', 'step', 'exponential')
PRECISIONS = ('float32', 'bfloat16')
ALLOCATIONS = ('uniform', 'global', 'knapsack')
COUPLINGS = ('own', 'min', 'protect')
MEMBERS = ('representative', 'score')
LESSONS = ('latent', 'next', 'reward', 'value', 'policy')


def _require(ok: bool, key: str, value: object, allowed: str) -> None:
    if not ok:
        raise ConfigError(
            explain(f"'{key}' was set to {value!r}", 'which is out of range', allowed,
                    'correct it in the YAML file, or with --set section.key=value')
        )


def _require_known(section: str, settings: object, **known: tuple[str, ...]) -> None:
    """Refuse a word that is not among those a setting can be."""
    for name, words in known.items():
        value = getattr(settings, name)
        if value not in words:
            raise ConfigError(
                explain(f"{section}.{name} '{value}' was asked for",
                        'it is not known' + nearest(value, words), ', '.join(words),
                        f'choose one of these in {section}.{name}')
            )


@dataclass(frozen=True)
class EnvConfig:
    """The plant to train on."""

    # Gymnasium id, or 'module:Class'.
    id: str = 'Pendulum-v1'
    # Plant steps per decision; the control period is this many plant steps.
    action_repeat: int = 1
    # Plant steps per episode; 0 takes the environment's own limit.
    max_episode_steps: int = 0
    # Seconds between two decisions; 0 asks the environment (its `dt`, else its frame rate).
    period_s: float = 0.0
    # Rewards are multiplied by this before learning, so that heads see numbers near 1.
    reward_scale: float = 0.1

    def __post_init__(self) -> None:
        """Check ranges."""
        _require(self.action_repeat >= 1, 'env.action_repeat', self.action_repeat, '1 or more')
        _require(self.max_episode_steps >= 0, 'env.max_episode_steps', self.max_episode_steps,
                 '0 or more')
        _require(self.period_s >= 0, 'env.period_s', self.period_s, '0 or more seconds')
        _require(self.reward_scale > 0, 'env.reward_scale', self.reward_scale, 'more than 0')


@dataclass(frozen=True)
class NetworkConfig:
    """Widths of the six components, as in the TD-MPC reference."""

    # Channels of the latent state.
    latent: int = 50
    # Width of the encoder's one hidden layer.
    encoder_hidden: int = 256
    # Width of both hidden layers of dynamics, reward, policy, q1 and q2.
    hidden: int = 512
    # 'relu' (default: half the latency of 'elu' on small planners) or 'elu' (the reference).
    activation: str = 'relu'

    def __post_init__(self) -> None:
        """Check ranges."""
        for name in ('latent', 'encoder_hidden', 'hidden'):
            _require(getattr(self, name) >= 1, f'network.{name}', getattr(self, name), '1 or more')
        _require_known('network', self, activation=ACTIVATIONS)


@dataclass(frozen=True)
class AgentConfig:
    """TD-MPC losses and optimiser (method: Hansen et al. 2022)."""

    # Steps of the latent rollout in the loss.
    horizon: int = 5
    # Replay windows per update.
    batch_size: int = 128
    # Adam step size.
    learning_rate: float = 1e-3
    # Discount per decision.
    discount: float = 0.99
    # Share of the online network that enters the target network at each target update.
    tau: float = 0.02
    # Updates between two policy and target updates.
    policy_every: int = 2
    # Temporal weight rho: step t of the rollout counts rho**t.
    rho: float = 0.7
    # Loss weights.
    consistency_weight: float = 2.0
    reward_weight: float = 1.0
    value_weight: float = 0.5
    # Gradient norm limit.
    clip_norm: float = 10.0
    # Standard deviation of the noise on the policy's action inside the losses.
    policy_noise: float = 0.05
    # 'float32', or 'bfloat16': in updates, products of hidden layers at least 256 wide are
    # computed in bfloat16. Sooner only on CPUs that have it (avx512_bf16, amx_bf16).
    precision: str = 'float32'

    def __post_init__(self) -> None:
        """Check ranges."""
        _require(self.horizon >= 1, 'agent.horizon', self.horizon, '1 or more')
        _require(self.batch_size >= 1, 'agent.batch_size', self.batch_size, '1 or more')
        _require(self.learning_rate > 0, 'agent.learning_rate', self.learning_rate, 'above 0')
        _require(self.clip_norm > 0, 'agent.clip_norm', self.clip_norm, 'above 0')
        for name in ('consistency_weight', 'reward_weight', 'value_weight', 'policy_noise'):
            _require(getattr(self, name) >= 0, f'agent.{name}', getattr(self, name), '0 or more')
        _require(0 <= self.discount < 1, 'agent.discount', self.discount, 'from 0 to below 1')
        _require(0 < self.tau <= 1, 'agent.tau', self.tau, 'above 0, at most 1')
        _require(self.policy_every >= 1, 'agent.policy_every', self.policy_every, '1 or more')
        _require(0 < self.rho <= 1, 'agent.rho', self.rho, 'above 0, at most 1')
        _require(self.precision in PRECISIONS, 'agent.precision', self.precision,
                 ' or '.join(PRECISIONS))


@dataclass(frozen=True)
class PlannerConfig:
    """MPPI over the latent model (the TD-MPC planner)."""

    # Steps looked ahead.
    horizon: int = 5
    # Sampled plans per iteration.
    samples: int = 512
    # Plans proposed by the policy.
    policy_samples: int = 25
    # The refined plan acts where it is worth so much more than the policy's own, in scaled reward:
    # more than it is better by chance. Elsewhere the policy acts, which does not tremble. 0: the
    # refined plan always acts, as in TD-MPC.
    policy_margin: float = 0.0
    # Pushes: plans that hold one action at a limit before the policy goes on, for 1, 2, 4, ...
    # decisions; so many lengths, for each action and limit. 0: none, as in TD-MPC.
    pushes: int = 0
    # A push acts where it is worth so much more than what would act else, in scaled reward: more
    # than the values are wrong by.
    push_margin: float = 0.03
    # Best plans that form the next mean and standard deviation.
    elites: int = 64
    # Refinements of the sampling distribution.
    iterations: int = 6
    # Sharpness of the elites' weights, softmax(temperature * value).
    temperature: float = 0.5
    # Share of the old mean kept at each iteration.
    momentum: float = 0.1
    # Limits of the sampling standard deviation, in units of the scaled action.
    min_std: float = 0.05
    max_std: float = 2.0

    def __post_init__(self) -> None:
        """Check ranges."""
        for name in ('horizon', 'samples', 'policy_samples', 'elites', 'iterations'):
            _require(getattr(self, name) >= 1, f'planner.{name}', getattr(self, name), '1 or more')
        _require(self.elites <= self.samples + self.policy_samples, 'planner.elites', self.elites,
                 'at most samples + policy_samples')
        _require(0 <= self.pushes <= MOST_PUSHES, 'planner.pushes', self.pushes,
                 f'from 0 to {MOST_PUSHES}')
        for name in ('policy_margin', 'push_margin'):
            _require(getattr(self, name) >= 0, f'planner.{name}', getattr(self, name), '0 or more')
        _require(self.temperature >= 0, 'planner.temperature', self.temperature, '0 or more')
        _require(0 <= self.momentum < 1, 'planner.momentum', self.momentum, 'from 0 to below 1')
        _require(0 < self.min_std <= self.max_std, 'planner.min_std', self.min_std,
                 'above 0, at most planner.max_std')

    def scaled(self, samples: int, iterations: int) -> PlannerConfig:
        """Return the same planner with another budget; elites and policy plans keep their share.

        Args:
            samples: sampled plans per iteration; 0 keeps the present number.
            iterations: refinements; 0 keeps the present number.
        """
        samples = samples or self.samples
        share = samples / self.samples
        proposals = max(1, round(self.policy_samples * share))
        return dataclasses.replace(
            self, samples=samples, iterations=iterations or self.iterations,
            elites=min(max(1, round(self.elites * share)), samples + proposals),
            policy_samples=proposals,
        )


@dataclass(frozen=True)
class TrainingConfig:
    """How long, how often, and with which planner data is collected."""

    # Seed of the weights, the environment, the replay and the exploration.
    seed: int = 0
    # Episodes in all, and how many of them, at the start, act at random.
    episodes: int = 30
    random_episodes: int = 5
    # Decisions after which no further episode begins, for plants whose episodes have any length;
    # 0 leaves it to `episodes`.
    decisions: int = 0
    # Gradient updates per decision.
    update_ratio: float = 0.5
    # The learning rate falls linearly to this share of agent.learning_rate over the training.
    learning_rate_end: float = 0.1
    # Planner budget while collecting (samples x iterations); 0 plans nothing, the policy acts.
    collect_samples: int = 64
    collect_iterations: int = 2
    # Steps that it looks ahead while collecting; 0 takes planner.horizon.
    collect_horizon: int = 0
    # Exploration noise: starts here, falls linearly to `noise_end` over `noise_episodes`.
    noise_start: float = 0.3
    noise_end: float = 0.05
    noise_episodes: int = 20
    # Decisions kept in the replay.
    replay_capacity: int = 100_000
    # Episodes between two evaluations on a few seeds for the learning curve; 0 never.
    evaluate_every: int = 5
    evaluate_seeds: int = 4
    # Whether the finished agent is the one that did best at these evaluations, planned; not the
    # last one. For plants on which an agent forgets what it could do.
    keep_best: bool = False
    # Threads for torch; 0 leaves its choice.
    threads: int = 0
    # Episodes between two checkpoints.
    checkpoint_every: int = 5
    # Whether the finished agent keeps Adam's moments, twice the size of its weights, so that
    # recovery can carry them over (pruning.carry_optimizer).
    keep_optimizer: bool = False
    # Whether the records of metrics.jsonl also go to TensorBoard, in tensorboard/ beside it.
    tensorboard: bool = False

    def __post_init__(self) -> None:
        """Check ranges."""
        _require(0 <= self.seed <= MOST_SEED, 'training.seed', self.seed, f'from 0 to {MOST_SEED}')
        _require(self.threads >= 0, 'training.threads', self.threads, '0 or more')
        _require(self.evaluate_seeds >= 1 or self.evaluate_every == 0, 'training.evaluate_seeds',
                 self.evaluate_seeds, '1 or more; training.evaluate_every=0 evaluates never')
        _require(self.collect_samples >= 0, 'training.collect_samples', self.collect_samples,
                 '0 or more')
        _require(self.collect_horizon >= 0, 'training.collect_horizon', self.collect_horizon,
                 '0 or more')
        _require(self.episodes >= 1, 'training.episodes', self.episodes, '1 or more')
        _require(self.decisions >= 0, 'training.decisions', self.decisions, '0 or more')
        _require(1 <= self.random_episodes <= self.episodes, 'training.random_episodes',
                 self.random_episodes, 'from 1 to training.episodes')
        _require(self.update_ratio > 0, 'training.update_ratio', self.update_ratio, 'above 0')
        _require(0 < self.learning_rate_end <= 1, 'training.learning_rate_end',
                 self.learning_rate_end, 'above 0, at most 1')
        _require(self.evaluate_every >= 1 or not self.keep_best, 'training.evaluate_every',
                 self.evaluate_every, '1 or more with training.keep_best')
        _require(self.checkpoint_every >= 1, 'training.checkpoint_every', self.checkpoint_every,
                 '1 or more')
        _require(self.replay_capacity >= 1, 'training.replay_capacity', self.replay_capacity,
                 '1 or more')


@dataclass(frozen=True)
class ImportanceConfig:
    """Importance gathered during training (method section 2)."""

    # EMA coefficient gamma; 0 keeps the raw signal of the last update.
    gamma: float = 0.9
    # Updates between two observations.
    every: int = 1
    # Observations before the scales of the Bayesian signal are frozen.
    warmup: int = 50
    # Forgetting eta of the Bayesian signal's posterior, per observation; 1 never forgets.
    forgetting: float = 0.9
    # 'mean' (a posterior over the mean gradient) or 'paper' (its likely reading in the paper).
    posterior: str = 'mean'
    # 'batch' squares the gradient of the batch; 'per_sample' each sample's own: exact, and many
    # times the cost of an update (use `every` with it).
    fisher: str = 'batch'
    # Score 'ucb': this many posterior standard deviations above the posterior mean.
    kappa: float = 1.0
    # A group's score is the 'mean' or the 'sum' over its units.
    aggregate: str = 'mean'
    # Updates between two rows of importance_history.bin; 0 keeps no history.
    record_every: int = 10

    def __post_init__(self) -> None:
        """Check ranges."""
        _require(0 <= self.gamma < 1, 'importance.gamma', self.gamma, 'from 0 to below 1')
        _require(self.every >= 1, 'importance.every', self.every, '1 or more')
        _require(self.warmup >= 1, 'importance.warmup', self.warmup, '1 or more')
        _require(0 < self.forgetting <= 1, 'importance.forgetting', self.forgetting,
                 'above 0, at most 1')
        _require(self.kappa >= 0, 'importance.kappa', self.kappa, '0 or more')
        _require(self.record_every >= 0, 'importance.record_every', self.record_every,
                 '0 or more')
        _require_known('importance', self, posterior=POSTERIORS, fisher=FISHERS,
                       aggregate=AGGREGATES)


@dataclass(frozen=True)
class SparsityConfig:
    """L1 pressure on groups while the agent trains (method section 3)."""

    # How each group's coefficient moves; see `sparsity.coefficients`.
    schedule: str = 'none'
    # Range of the coefficient of the mean |weight| of a group. The proximal step of an update is
    # the learning rate times this over the group's number of weights.
    lambda_min: float = 0.0
    lambda_max: float = 1000.0
    # Updates of one period (of the decay's half-life for 'step' and 'exponential').
    period: int = 2000
    # A group whose norm falls below this share of what it was is freed of all pressure; 0 never.
    collapse: float = 0.1
    # Updates between two proximal steps; each is this much larger.
    every: int = 1
    # Updates between two looks at the norms.
    check_every: int = 10

    def __post_init__(self) -> None:
        """Check ranges."""
        _require_known('sparsity', self, schedule=SCHEDULES)
        _require(0 <= self.lambda_min <= self.lambda_max < math.inf, 'sparsity.lambda_max',
                 self.lambda_max, 'finite, at least sparsity.lambda_min, and that 0 or more')
        _require(self.period >= 2, 'sparsity.period', self.period, '2 or more updates')
        _require(0 <= self.collapse < 1, 'sparsity.collapse', self.collapse,
                 'a share from 0 to below 1')
        _require(self.every >= 1, 'sparsity.every', self.every, '1 or more')
        _require(self.check_every >= 1, 'sparsity.check_every', self.check_every, '1 or more')


@dataclass(frozen=True)
class PruningConfig:
    """What to cut, how to recover, and what must still hold afterwards."""

    # Share of the parameters to remove; without a meaning where latency_ms is set.
    sparsity: float = 0.95
    # Milliseconds that half of all full plans stay below, as measured on this machine; 0 cuts by
    # sparsity.
    latency_ms: float = 0.0
    # Which importance ranks the units.
    score: str = 'combined'
    # 'uniform' removes the same share of every group; 'global' ranks all units together;
    # 'knapsack' takes from where least importance goes for what the budget counts.
    allocation: str = 'uniform'
    # Which units of a group stay, once its width is settled: those that, weighted by importance,
    # 'representative'ly explain most of what the next layers receive, or those of highest 'score'.
    members: str = 'representative'
    # Ridge of the closed-form refit of the weights behind a cut; 0 = no refit.
    compensation: float = 1e-3
    # How much coupling groups (the latent) give: what their 'own' scores say, the 'min' of the
    # shares that their owners give, or nothing ('protect').
    coupling: str = 'own'
    # Coupling groups give this part of what the allocation wants of them: 1 cuts them
    # like any other group, 0 leaves them whole.
    coupling_share: float = 0.25
    # Widths stay multiples of this (vector lanes), and at least `floor`.
    multiple: int = 8
    floor: int = 8
    # Cuts, each followed by its share of the recovery; each removes the same share of what the one
    # before left.
    steps: int = 1
    # The next step begins as soon as Kendall's tau between the units' ranks in one window of 50
    # updates and the next comes up to this, and leaves its other updates to later steps; 0 = when
    # its updates are done.
    settle: float = 0.0
    # Gradient updates in all, and their largest Adam step size in each recovery: it rises linearly
    # over the share `recovery_warmup` of the updates, so that weights just refitted are not thrown
    # about while Adam knows no scales, and falls linearly to `recovery_learning_rate_end` of it.
    recovery_updates: int = 500
    recovery_learning_rate: float = 3e-3
    recovery_learning_rate_end: float = 0.01
    recovery_warmup: float = 0.1
    # Whether Adam goes on from the moments of training, cut like the weights, or starts afresh.
    carry_optimizer: bool = False
    # Weight of the TD-MPC loss on the replay in them; 0 leaves it out.
    recovery_task: float = 0.1
    # Weight of staying close to the dense agent; 0 leaves it out.
    distillation: float = 1.0
    # What of it is imitated, separated by commas: the encoded latent, the next ones that the
    # dynamics make of it, rewards, both values, the policy's actions.
    distilled: str = 'latent,next,reward,value,policy'
    # Decisions that it is imitated over, from each replayed observation, under the actions that
    # planning tries; 0 imitates it on replayed observations and actions alone.
    distillation_horizon: int = 6
    # Step t of these counts distillation_rho**t.
    distillation_rho: float = 0.5
    # Gate: the pruned agent's mean return on `gate_seeds` common seeds may be worse than the dense
    # agent's by this share at most; planned with `gate_samples` x `gate_iterations`.
    gate_seeds: int = 20
    gate_samples: int = 128
    gate_iterations: int = 3
    gate_return_loss: float = 0.1
    # Gate: the 99 % quantile of the full plan must fit into this share of the period; 0 = no gate.
    gate_latency_share: float = 1.0
    # Gate: from `gate_states` random states within reach V must fall, or the run stay at the goal;
    # the one-sided 95 % upper bound of the share that fails may be this at most. 0 = no gate;
    # plants without a known goal have none.
    gate_violation: float = 0.05
    gate_states: int = 100
    # Control periods that such a run may take.
    gate_periods: int = 100
    # Cuts that may be tried before the stability gate refuses: each further one gives back half of
    # what the group that matters most for stability lost.
    gate_rounds: int = 1
    # Share that stability-aware importance has in the score; 0 = the task alone.
    stability_weight: float = 0.0
    # Gradients of the stability loss that such importance is measured with.
    stability_batches: int = 100
    # Seed of recovery and gate.
    seed: int = 0

    def __post_init__(self) -> None:
        """Check ranges."""
        _require(math.isfinite(self.sparsity) and 0 <= self.sparsity < 1, 'pruning.sparsity',
                 self.sparsity, 'a share of the parameters from 0 to below 1')
        _require_known('pruning', self, score=SCORES, allocation=ALLOCATIONS,
                       coupling=COUPLINGS, members=MEMBERS)
        _require(math.isfinite(self.compensation) and self.compensation >= 0,
                 'pruning.compensation', self.compensation, '0 or more')
        _require(0 <= self.coupling_share <= 1, 'pruning.coupling_share', self.coupling_share,
                 'from 0 to 1')
        _require(0 <= self.seed <= MOST_SEED, 'pruning.seed', self.seed, f'from 0 to {MOST_SEED}')
        for name in ('distillation', 'recovery_task', 'distillation_horizon'):
            _require(getattr(self, name) >= 0, f'pruning.{name}', getattr(self, name),
                     '0 or more')
        _require(0 < self.distillation_rho <= 1, 'pruning.distillation_rho',
                 self.distillation_rho, 'above 0, at most 1')
        _require(self.distillation + self.recovery_task > 0, 'pruning.recovery_task', 0,
                 'above 0 where pruning.distillation is 0, too')
        for lesson in self.distilled.split(','):
            _require(lesson in LESSONS, 'pruning.distilled', lesson,
                     f'one or several of {", ".join(LESSONS)}, separated by commas alone')
        for name in ('gate_samples', 'gate_iterations'):
            _require(getattr(self, name) >= 0, f'pruning.{name}', getattr(self, name),
                     "0 or more; 0 is the planner's own")
        _require(self.multiple >= 1, 'pruning.multiple', self.multiple, '1 or more')
        _require(self.floor >= 1, 'pruning.floor', self.floor, '1 or more')
        _require(self.recovery_updates >= 0, 'pruning.recovery_updates', self.recovery_updates,
                 '0 or more')
        _require(self.recovery_learning_rate > 0, 'pruning.recovery_learning_rate',
                 self.recovery_learning_rate, 'above 0')
        _require(0 < self.recovery_learning_rate_end <= 1, 'pruning.recovery_learning_rate_end',
                 self.recovery_learning_rate_end, 'above 0, at most 1')
        _require(0 <= self.recovery_warmup < 1, 'pruning.recovery_warmup', self.recovery_warmup,
                 'at least 0, below 1')
        _require(self.gate_seeds >= 1, 'pruning.gate_seeds', self.gate_seeds, '1 or more')
        for name in ('gate_return_loss', 'gate_latency_share'):
            _require(getattr(self, name) >= 0, f'pruning.{name}', getattr(self, name), '0 or more')
        _require(self.steps == 1 or self.latency_ms == 0, 'pruning.steps', self.steps,
                 '1 where pruning.latency_ms is set')
        for name in ('gate_violation', 'stability_weight', 'settle'):
            _require(0 <= getattr(self, name) <= 1, f'pruning.{name}', getattr(self, name),
                     'from 0 to 1')
        for name in ('gate_states', 'gate_periods', 'gate_rounds', 'stability_batches', 'steps'):
            _require(getattr(self, name) >= 1, f'pruning.{name}', getattr(self, name), '1 or more')


@dataclass(frozen=True)
class Config:
    """Everything a run needs; saved as `config.yaml` in its folder."""

    env: EnvConfig = field(default_factory=EnvConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    agent: AgentConfig = field(default_factory=AgentConfig)
    planner: PlannerConfig = field(default_factory=PlannerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    importance: ImportanceConfig = field(default_factory=ImportanceConfig)
    sparsity: SparsityConfig = field(default_factory=SparsityConfig)
    pruning: PruningConfig = field(default_factory=PruningConfig)

    def __post_init__(self) -> None:
        """Check what concerns two sections."""
        every, policy = self.importance.every, self.agent.policy_every
        _require(math.gcd(every, policy) == 1, 'importance.every', every,
                 f'a number without a common divisor with agent.policy_every, {policy}: the '
                 "policy's gradients would never be seen")

    def with_plain_planner(self) -> Config:
        """The same with TD-MPC's own planner."""
        return dataclasses.replace(self, planner=dataclasses.replace(
            self.planner, policy_margin=0.0, pushes=0))

    def collecting_planner(self) -> PlannerConfig:
        """What acts while data is collected; agents are not shown to learn more by another."""
        return self.with_plain_planner().planner.scaled(
            self.training.collect_samples, self.training.collect_iterations)


def _convert(value: Any, wanted: type, key: str) -> Any:
    """Turn a YAML scalar into the field's type, refusing what would change its meaning."""
    if wanted is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:  # YAML 1.1 reads '1e-3' as a string.
            number = float(value)
        except (ValueError, OverflowError):
            number = None
        if number is not None:
            _require(math.isfinite(number), key, value, 'a finite number')
            return number
    if isinstance(value, wanted) and not (wanted is int and isinstance(value, bool)):
        return value
    raise ConfigError(
        explain(f"'{key}' was set to {value!r}", f'a {type(value).__name__}',
                f'a {wanted.__name__}', 'correct it in the YAML file, or with --set')
    )


def _build(cls: type, values: Any, prefix: str) -> Any:
    if not isinstance(values, dict):
        raise ConfigError(
            explain(f"section '{prefix or 'top level'}' was read",
                    f'a {type(values).__name__}: {values!r}', 'a mapping of keys to values',
                    'indent its keys under it')
        )
    hints = typing.get_type_hints(cls)
    known = {f.name: hints[f.name] for f in dataclasses.fields(cls)}
    arguments = {}
    for name, value in values.items():
        key = f'{prefix}.{name}' if prefix else str(name)
        if name not in known:
            raise ConfigError(
                explain(f"key '{key}' was set", 'it is not known' + nearest(str(name), known),
                        ', '.join(known), 'rename or remove it')
            )
        wanted = known[name]
        if dataclasses.is_dataclass(wanted):
            arguments[name] = _build(typing.cast(type, wanted), value, key)
        else:
            arguments[name] = _convert(value, typing.cast(type, wanted), key)
    return cls(**arguments)


def from_dict(values: dict[str, Any]) -> Config:
    """Build a `Config` from nested dictionaries.

    Raises:
        ConfigError: an unknown key, a value of the wrong type or out of range.
    """
    return typing.cast(Config, _build(Config, values, ''))


def load(path: str | Path, overrides: typing.Sequence[str] = ()) -> Config:
    """Read a YAML file and apply `section.key=value` overrides.

    Args:
        path: the YAML file.
        overrides: strings such as `'pruning.sparsity=0.5'`; values are read as YAML.

    Raises:
        ConfigError: no such file, not YAML, unknown key, wrong type or out of range.
    """
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text()) or {}
    except FileNotFoundError:
        near = ', '.join(sorted(str(p) for p in path.parent.glob('*.yaml'))) or 'none there'
        raise ConfigError(
            explain(f"configuration '{path}' was asked for", 'there is no such file',
                    f'YAML files in that folder: {near}', 'name one of them')
        ) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(
            explain(f"configuration '{path}' was asked for",
                    f'it cannot be read ({" ".join(str(error).split())})', 'a YAML file',
                    'correct the file')
        ) from error
    return from_dict(override(values, overrides))


def _read_value(text: str, value: str) -> Any:
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(
            explain(f"override '{text}' was given",
                    f'its value is no YAML ({" ".join(str(error).split())})',
                    'section.key=value, such as pruning.sparsity=0.5', 'write it so')
        ) from error


def override(values: Any, overrides: typing.Sequence[str]) -> Any:
    """Return `values` with `section.key=value` strings applied.

    Raises:
        ConfigError: an override that is not of this form.
    """
    if not isinstance(values, dict):
        return values  # `from_dict` says what it should have been
    result = {k: dict(v) if isinstance(v, dict) else v for k, v in values.items()}
    for text in overrides:
        key, equals, value = text.partition('=')
        section, dot, name = key.partition('.')
        if not (equals and dot and section and name):
            raise ConfigError(
                explain(f"override '{text}' was given", 'it has another form',
                        'section.key=value, such as pruning.sparsity=0.5', 'write it so')
            )
        result.setdefault(section, {})
        if isinstance(result[section], dict):
            result[section][name] = _read_value(text, value)
    return result


def to_dict(config: Config) -> dict[str, Any]:
    """Return the configuration as nested plain dictionaries."""
    return dataclasses.asdict(config)


def dump(config: Config, path: str | Path) -> None:
    """Write the resolved configuration as YAML."""
    Path(path).write_text(yaml.safe_dump(to_dict(config), sort_keys=False))


__all__ = [
    'ACTIVATIONS', 'ALLOCATIONS', 'COUPLINGS', 'MEMBERS', 'PRECISIONS', 'SCORES', 'AgentConfig',
    'Config', 'EnvConfig', 'ImportanceConfig', 'NetworkConfig', 'PlannerConfig', 'PruningConfig',
    'SparsityConfig', 'TrainingConfig', 'dump', 'from_dict', 'load', 'override', 'to_dict',
]
