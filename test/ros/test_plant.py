# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The plant steps in real time, is what Gymnasium says it is, and refuses what it cannot be."""

import math

import gymnasium
import numpy as np
import pytest
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray

from pruned_controller.conversions import COMMAND, NEWEST


def listen(system, kind, topic):
    received = []
    system.observer.node.create_subscription(kind, topic, received.append, NEWEST)
    return received


def test_it_steps_without_any_command_and_pays_the_plants_own_reward(system):
    observations = listen(system, Float64MultiArray, 'observation')
    system.start('plant', seed=3, max_episode_steps=20)
    returns = system.observer.record.returns
    system.until('two episodes', lambda: len(returns) >= 2)
    env = gymnasium.make('Pendulum-v1', max_episode_steps=20)

    def paid(episode):
        env.reset(seed=3 + episode)
        return sum(float(env.step(np.zeros(1, np.float32))[1]) for _ in range(20))
    # Whoever is found late on a busy machine has missed some of the first ones.
    found = next(e for e in range(100) if paid(e) == pytest.approx(returns[0], abs=1e-6))
    assert returns[1] == pytest.approx(paid(found + 1), abs=1e-6)
    first, _ = env.reset(seed=3)
    assert len(observations[0].data) == len(first) == 3


def test_commands_act_and_reset_starts_the_seeds_again(system):
    observations = listen(system, Float64MultiArray, 'observation')
    sender = system.observer.node.create_publisher(Float64MultiArray, 'command', COMMAND)
    system.start('plant', seed=5, max_episode_steps=40)
    system.until('observations', lambda: observations)
    first = list(gymnasium.make('Pendulum-v1').reset(seed=5)[0])
    system.until('a second episode', lambda: system.observer.record.returns)
    for wrong in ([math.nan], [1.0, 2.0], []):
        sender.publish(Float64MultiArray(data=wrong))
    system.until('words', lambda: 'a command was received' in system.processes.log('plant'))
    assert system.observer.call('/plant/reset')[0]
    observations.clear()
    system.until('the first observation again', lambda: any(
        np.allclose(o.data, first, atol=1e-6) for o in observations))
    sender.publish(Float64MultiArray(data=[2.0]))
    before = len(system.observer.record.returns)
    system.until('another episode', lambda: len(system.observer.record.returns) > before)
    assert len(set(np.round(system.observer.record.returns, 6))) > 1


def test_joint_states_carry_angle_and_speed(system):
    states = listen(system, JointState, 'joint_states')
    system.start('plant', output='joint_states', seed=7)
    system.until('joint states', lambda: states)
    state = states[0]
    assert list(state.name) == ['pendulum'] and state.header.stamp.sec > 0
    assert -math.pi <= state.position[0] <= math.pi and abs(state.velocity[0]) <= 8


@pytest.mark.parametrize('parameters, words', [
    ({'env_id': 'Pendulum-v9'}, ('Pendulum-v9',)),
    ({'env_id': 'Pendlum-v1'}, ('Pendlum-v1', "did you mean 'Pendulum-v1'")),
    ({'env_id': 'CartPole-v1'}, ('CartPole-v1', 'discrete')),
    ({'output': 'jointstates'}, ('jointstates', 'joint_states')),
])
def test_what_it_cannot_be_is_said_and_it_ends(system, parameters, words):
    system.start('plant', **parameters)
    assert system.processes.wait('plant', 30.0) == 2
    for word in words:
        assert word.lower() in system.processes.log('plant').lower()
    assert 'Traceback' not in system.processes.log('plant')


@pytest.mark.parametrize('kind, broken', [
    ('"nan"', lambda o: all(map(math.isnan, o))),  # without quotes it would be read as a number
    ('short', lambda o: len(o) == 2)])
def test_a_faulty_plant_publishes_what_it_is_told_to(system, kind, broken):
    observations = listen(system, Float64MultiArray, 'observation')
    system.start('plant', **{'fault_injection.enabled': True, 'fault_injection.observation': kind})
    system.until('observations', lambda: observations)
    assert broken(observations[0].data)
