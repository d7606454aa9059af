# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Prioritised replay: windows are replayed the more often, the more the values err on them.

Most of an episode, the task is done and little happens. Where the outcome is decided, there are
few decisions to learn from, and there the values err most. As in prioritised experience replay
(Schaul et al. 2016), a window is drawn with a probability proportional to a power of its
temporal-difference error. Here the errors of the whole replay are measured anew before the updates
of each episode: nothing has to be kept for a resumed training, and no window is forgotten because
its error was small long ago.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pruning_core.agent import Agent
from pruning_core.errors import AgentError, explain
from pruning_core.replay import Replay

_LEAST = 1e-3  # scaled reward; windows without error are drawn, too
_ROWS = 4096  # evaluated at once


@torch.no_grad()
def td_errors(agent: Agent, replay: Replay) -> npt.NDArray[np.float32]:
    """Absolute one-step temporal-difference error of every row: of the lower value, without noise.

    Returns:
        (rows,) in scaled reward; 0 at the final observations of episodes.
    """
    net, c, stored = agent.components, agent.config, replay.to_arrays()
    observation, action, reward, terminated = (
        torch.from_numpy(stored[k]) for k in ('observation', 'action', 'reward', 'terminated'))
    values: list[Tensor] = []
    taken: list[Tensor] = []
    for here in torch.arange(len(observation)).split(_ROWS):
        latent = agent.run(net['encoder'], observation[here])
        for kept, nets, chosen in ((taken, net, action[here]),
                                   (values, agent.targets, agent.run(net['policy'], latent))):
            pair = torch.cat([latent, chosen], dim=-1)
            kept.append(torch.minimum(*(agent.run(nets[q], pair) for q in ('q1', 'q2'))))
    value, q = torch.cat(values).squeeze(-1), torch.cat(taken).squeeze(-1)
    error = torch.zeros_like(reward)
    error[:-1] = (reward[:-1] + c.discount * (1 - terminated[:-1]) * value[1:] - q[:-1]).abs()
    error[torch.from_numpy(np.cumsum(stored['lengths']) - 1)] = 0
    found: npt.NDArray[np.float32] = error.numpy()
    return found


def chances(agent: Agent, replay: Replay, exponent: float) -> npt.NDArray[np.float64]:
    """How often each window of the agent's horizon is to be replayed.

    Args:
        agent: whose values err.
        replay: from which windows are drawn.
        exponent: alpha; 0 draws uniformly, 1 in proportion to the error.

    Returns:
        Probabilities of `replay.starts(agent.config.horizon)`; their sum is 1.

    Raises:
        AgentError: a value is not finite.
    """
    horizon = agent.config.horizon
    windows = replay.starts(horizon) + np.arange(horizon)[:, None]
    error = td_errors(agent, replay)[windows].mean(0, dtype=np.float64)
    if not np.isfinite(error).all():
        raise AgentError(
            explain('windows were to be replayed by the error of their values',
                    f'{np.sum(~np.isfinite(error))} of {len(error)} errors that are not finite',
                    'finite values', 'lower agent.learning_rate: the training has diverged')
        )
    weight: npt.NDArray[np.float64] = (error + _LEAST) ** exponent
    weight /= weight.sum()
    return weight
