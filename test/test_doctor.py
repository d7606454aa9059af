# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Each break condition made on purpose and found, by group and update; health left in peace."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from pruning_core.checkpoint import METRICS
from pruning_core.cli import DONE, REFUSED
from pruning_core.doctor import diagnose, examine
from pruning_core.errors import AgentError
from pruning_core.importance.history import HISTORY, History
from pruning_core.sparsity import coefficients
from pruning_core.training import Trainer

ROWS, EVERY = 120, 10
GROUPS = ('a', 'b', 'c', 'd')


def smoothed(raw, gamma, every=EVERY):
    """EMA over single updates of a signal that is constant between rows."""
    out, ema = np.empty_like(raw), 0.0
    for t, value in enumerate(np.repeat(raw, every, axis=0)):
        ema = gamma * ema + (1 - gamma) * value
        if t % every == every - 1:
            out[t // every] = ema / (1 - gamma ** (t + 1))
    return out


def history_of(raw, gamma=0.9, **changes):
    raw = np.asarray(raw, float)
    groups = GROUPS[:raw.shape[1]]
    nothing = np.zeros_like(raw)
    with np.errstate(invalid='ignore'):
        ema = smoothed(raw, gamma)
    return History(groups, (), EVERY * np.arange(1, len(raw) + 1),
                   {'gradient': ema, 'fisher': ema**2, 'bayesian': np.log1p(ema)}, raw,
                   **{'broken': nothing, 'pressure': nothing, 'norm': nothing * np.nan,
                      'view_signals': {}, **changes})


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def healthy(rng):
    """Four groups a factor of two apart, noise of 10 %, slowly changing."""
    trend = np.linspace(1.0, 0.5, ROWS)[:, None]
    return 2.0 ** np.arange(4) * trend * np.exp(0.1 * rng.normal(size=(ROWS, 4)))


def found(history, config, collapsed=()):
    return [(f.condition, f.group, f.update)
            for f in diagnose(history, config, dict(collapsed)).findings]


def test_health(healthy, tiny):
    assert found(history_of(healthy), tiny('sparsity.schedule=none')) == []


def test_broken(healthy, tiny):
    broken = np.zeros((ROWS, 4))
    broken[[20, 30], 1] = [1, 2]
    (finding,) = diagnose(history_of(healthy, broken=broken), tiny('sparsity.schedule=none'),
                          {}).findings
    assert finding[:3] == ('broken gradients', 'b', 210)
    assert '3 updates' in finding.text and str(finding).startswith(
        'broken gradients, b at update 210: ')


def test_vanishing(healthy, tiny):
    healthy[60:, 2] *= 1e-6
    findings = found(history_of(healthy), tiny('sparsity.schedule=none'))
    assert ('vanishing gradients', 'c', 610) in findings
    assert {g for _, g, _ in findings} == {'c'}


def test_a_head_that_starts_at_zero_has_not_vanished(healthy, tiny):
    """Nor has a gradient that is small for a moment; one that never comes has."""
    healthy[:8, 0] = 0
    healthy[50:53, 3] *= 1e-6
    names = [(c, g) for c, g, _ in found(history_of(healthy), tiny('sparsity.schedule=none'))]
    assert ('vanishing gradients', 'a') not in names and ('vanishing gradients', 'd') not in names
    healthy[:, 0] = 0
    assert ('vanishing gradients', 'a', 10) in found(history_of(healthy),
                                                     tiny('sparsity.schedule=none'))


def test_exploding(healthy, tiny):
    healthy[70, 3] *= 1e4
    assert ('exploding gradients', 'd', 710) in found(history_of(healthy),
                                                      tiny('sparsity.schedule=none'))


@pytest.mark.parametrize(('gamma', 'late'), [(0.9, False), (0.95, False), (0.999, True)])
def test_gamma_too_high(healthy, tiny, gamma, late):
    """The gradients of one group rise tenfold, and fall again."""
    healthy[40:80, 1] *= 10
    findings = found(history_of(healthy, gamma), tiny('sparsity.schedule=none'))
    assert findings == ([('gamma too high', 'b', pytest.approx(410, abs=20))] if late else [])


@pytest.mark.parametrize(('gamma', 'noisy'), [(0.0, True), (0.9, True), (0.99, False)])
def test_gamma_too_low(rng, tiny, gamma, noisy):
    """Noise from row to row is larger than what sets the groups apart."""
    raw = 1.3 ** np.arange(4) * np.exp(0.6 * rng.normal(size=(ROWS, 4)))
    assert found(history_of(raw, gamma), tiny('sparsity.schedule=none')) == (
        [('gamma too low', '', None)] if noisy else [])


def test_collapse(healthy, tiny):
    assert found(history_of(healthy), tiny('sparsity.period=100'), {'b': 333}) == [
        ('collapse', 'b', 333)]


def test_phases(healthy, tiny):
    """Neighbours among 20 groups; a run of less than a period."""
    many = np.tile(healthy, 5)
    wide = dataclasses.replace(history_of(healthy), groups=tuple(map(str, range(20))), raw=many,
                               signals=dict.fromkeys(('gradient', 'fisher', 'bayesian'), many),
                               **{n: np.zeros_like(many) for n in ('broken', 'pressure', 'norm')})
    config = tiny('sparsity.period=100')
    assert found(wide, config) == [('phases do not separate', '', None)]
    assert found(wide, tiny('sparsity.period=100', 'sparsity.schedule=frequencies')) == []
    assert found(history_of(healthy), tiny('sparsity.period=1201')) == [
        ('phases do not separate', '', 1200)]
    assert found(history_of(healthy), tiny('sparsity.period=1200')) == []


def test_facts(healthy, tiny):
    """One group yields to its pressure, the others do not."""
    config = tiny('sparsity.period=400', 'sparsity.lambda_max=10')
    t = EVERY * np.arange(1, ROWS + 1)
    pressure = coefficients(config.sparsity, 4, t)
    norm = np.full((ROWS, 4), 3.0)
    norm[:, 2] *= np.exp(-0.05 * pressure[:, 2])
    facts = diagnose(history_of(healthy, pressure=pressure, norm=norm), config, {}).facts
    assert facts["Kendall's tau, gradient and fisher"] == 1
    assert (facts['rows'], facts['updates'], facts['crossovers, gradient']) == (120, 1200, 0)
    assert facts['resilience, c'].startswith('-39.3% of its norm')
    assert facts['resilience, a'].startswith('+0.0%')


def test_nothing_recorded_yet(tiny):
    empty = history_of(np.zeros((0, 4)))
    assert found(empty, tiny('sparsity.schedule=none')) == []


def test_a_real_run_with_a_gradient_that_was_not_finite(tiny, tmp_path):
    """From the backward pass to the finding; and a pressure under which groups collapse."""
    config = tiny('sparsity.schedule=constant', 'sparsity.lambda_max=300000',
                  'training.evaluate_every=0')
    trainer = Trainer(config, tmp_path / 'run')
    observe = trainer.importance.observe

    def spoil():
        if trainer.importance.updates == 9 and trainer.agent.components['q1'][0].bias.grad \
                is not None:
            kept = trainer.agent.components['q1'][0].bias.grad[3].clone()
            trainer.agent.components['q1'][0].bias.grad[3] = torch.nan
            observe()
            trainer.agent.components['q1'][0].bias.grad[3] = kept
        else:
            observe()

    trainer.agent.on_gradients = spoil
    trainer.run()
    conditions = {(f.condition, f.group): f.update for f in examine(tmp_path / 'run').findings}
    assert conditions['broken gradients', 'q1.hidden1'] == 10
    assert ('broken gradients', 'q2.hidden1') not in conditions
    collapsed = [g for c, g in conditions if c == 'collapse']
    assert collapsed == sorted(trainer.pressure.collapsed) and collapsed


def test_on_the_command_line(main, capsys, trained, copied, tmp_path):
    code = main('doctor', trained)
    out = capsys.readouterr().out
    assert code == (DONE if 'none of the break conditions was met' in out else REFUSED)
    assert "Kendall's tau, gradient and fisher" in out
    records = [json.loads(line) for line in (copied / METRICS).read_text().splitlines()]
    records[-1]['collapsed'] = {'latent': 17}
    (copied / METRICS).write_text('\n'.join(map(json.dumps, records)) + '\n{"torn')
    assert main('doctor', copied, '--json') == REFUSED
    findings = json.loads(capsys.readouterr().out)['findings']
    assert ['collapse', 'latent', 17] in [list(f.values())[:3] for f in findings]


def test_folders_without_a_history(copied, tmp_path, four_parts):
    (copied / HISTORY).unlink()
    for folder in (copied, tmp_path / 'no'):
        with pytest.raises(AgentError) as error:
            examine(folder)
        four_parts(error, 'there is none', 'record_every')
