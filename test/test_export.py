# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Bundles compute what torch computes, or are not written."""

from __future__ import annotations

import copy
import dataclasses
import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.numpy import load_file
from torch import nn

from pruning_core import export as exporting
from pruning_core import graphs as writing
from pruning_core.checkpoint import Run
from pruning_core.env import describe, make_raw
from pruning_core.errors import BundleError, ExportMismatch
from pruning_core.export import TOLERANCE, export, prepare, prove
from pruning_core.graphs import AgentGraphs
from pruning_core.layers import OPSET, GraphBuilder, steps_of
from pruning_core.networks import count_parameters
from pruning_core.runtime.bound import session
from pruning_core.runtime.bundle import (
    FILES,
    GRAPHS,
    PLAN_START,
    PLAN_STEP,
    PLAN_STEP_INT8,
    POLICY,
    SHORT_START,
    SHORT_STEP,
    SHORT_STEP_INT8,
    WEIGHTS,
    WORLD_MODEL,
    open_bundle,
)
from pruning_core.runtime.planner import Planner
from pruning_core.runtime.weights import read

FIELD = {POLICY: 'policy', WORLD_MODEL: 'world_model', PLAN_START: 'plan', PLAN_STEP: 'plan',
         SHORT_START: 'plan', SHORT_STEP: 'plan'}


@pytest.fixture
def drawn(make_agent, tiny, tmp_path):
    """A run around an agent whose weights are all drawn at random."""
    def make(*overrides, seed=0):
        agent = make_agent(*overrides, seed=seed)
        return Run(tmp_path / 'none', tiny(*overrides), agent, None, None, {})

    return make


def spec_of(run):
    return describe(make_raw(run.config.env.id), run.config.env)


class TheSameNoise:
    """Gives a torch planner the numbers that the bundle's planner draws."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)

    def __call__(self, horizon, plans, actions):
        return torch.from_numpy(
            self.rng.standard_normal((horizon, plans, actions), dtype=np.float32))[:, None]


@pytest.mark.parametrize('overrides', [
    [], ['network.activation=elu'], ['planner.horizon=1'],
    ['planner.horizon=4', 'planner.momentum=0.5', 'planner.temperature=3.0'],
    ['network.latent=5', 'network.encoder_hidden=7', 'network.hidden=9'],
    ['planner.policy_samples=1', 'planner.samples=7', 'planner.elites=8'],
    ['network.latent=20', 'network.hidden=7', 'planner.horizon=4'],
    ['network.latent=4', 'network.hidden=40', 'planner.horizon=3'],
], ids=['plain', 'elu', 'one step', 'four steps', 'odd widths', 'all elites', 'narrow', 'wide'])
def test_the_bundle_plans_as_torch_does(drawn, tmp_path, overrides):
    """Command by command, warm starts included, in the robot's units."""
    run = drawn(*overrides)
    bundle, parity = export(run, tmp_path / 'bundle')
    assert parity.worst <= TOLERANCE
    runtime = Planner(open_bundle(tmp_path / 'bundle', bundle.hash), seed=5)
    torch_planner = run.agent.planner(run.config.planner, TheSameNoise(5))
    rng = np.random.default_rng(0)
    scale = np.asarray(bundle.manifest.observation.scale, np.float32)
    for _ in range(6):
        angle = rng.uniform(-np.pi, np.pi)
        raw = np.array([np.cos(angle), np.sin(angle), rng.uniform(-8, 8)], np.float32)
        scaled = torch.from_numpy(raw * scale)[None]
        plan = runtime.plan(raw)
        np.testing.assert_allclose(plan.action, 2 * torch_planner.plan(scaled)[0], atol=2e-4)
        np.testing.assert_allclose(plan.policy_action, 2 * run.agent.policy(scaled)[0], atol=1e-4)


def loaded(bundle, name, tmp_path):
    """What onnxruntime makes of a graph: every node, and the shape of every number in it."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / f'loaded_{name}')
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 3
    onnxruntime.InferenceSession(bundle.path / name, options, providers=['CPUExecutionProvider'])
    graph = onnx.load(options.optimized_model_filepath, load_external_data=False).graph
    return graph.node, {i.name: tuple(i.dims) for i in graph.initializer}


@pytest.mark.parametrize(('name', 'latent', 'hidden', 'computed'), [
    (PLAN_START, 20, 8, 0), (PLAN_STEP, 20, 8, 0), (PLAN_START, 6, 24, 3), (PLAN_STEP, 6, 24, 3),
    # 12 x 24 < 9 x (12 + 24), but not with the policy beside dynamics and reward.
    (PLAN_START, 9, 12, 3), (PLAN_STEP, 9, 12, 1)])
def test_latents_are_left_out_where_that_saves_work(drawn, tmp_path, name, latent, hidden,
                                                    computed):
    """The products are made when the graph is loaded: no node is left that computes weights."""
    run = drawn(f'network.latent={latent}', f'network.hidden={hidden}', 'planner.horizon=3')
    bundle, _ = export(run, tmp_path / 'bundle')
    nodes, numbers = loaded(bundle, name, tmp_path)
    assert not any(all(i in numbers for i in node.input) for node in nodes)
    assert 'MatMul' not in {node.op_type for node in nodes}
    layers = [node for node in nodes
              if node.op_type in ('Gemm', 'FusedGemm') and node.input[1] in numbers]
    latents = sum(numbers[node.input[1]][1] == latent for node in layers)
    assert latents - (name == PLAN_START) == computed  # and the encoder's
    # Dynamics and reward of two decisions on sampled actions, and both Q, add no bias.
    without = [node for node in layers if len(node.input) == 2]
    assert len(without) == (6 if name == PLAN_STEP else 2)


def test_first_layers_on_several_actions_and_without_biases(drawn):
    """Joined, with a column of ones beside two actions, and no bias to multiply by it."""
    run = drawn('planner.horizon=3')
    torch.manual_seed(0)

    def mlp(inputs, outputs, first=True, last=True):
        return nn.Sequential(nn.Linear(inputs, 6, bias=first), nn.ReLU(), nn.Linear(6, 6),
                             nn.ReLU(), nn.Linear(6, outputs, bias=last))

    run.agent.components = nn.ModuleDict({
        'encoder': mlp(3, 16), 'dynamics': mlp(18, 16, last=False),
        'reward': mlp(18, 1, first=False), 'q1': mlp(18, 1), 'q2': mlp(18, 1, first=False),
        'policy': nn.Sequential(mlp(16, 2, first=False), nn.Tanh())}).requires_grad_(False)
    assert proven(run, actions=2).worst <= TOLERANCE
    # A component that begins with something else than a matrix: none of this is done.
    run.agent.components['reward'] = nn.Sequential(
        nn.LayerNorm(18), mlp(18, 1)).requires_grad_(False)
    assert proven(run, actions=2).worst <= TOLERANCE


def proven(run, actions):
    """How far the graphs are from torch, for an agent of any components."""
    spec = dataclasses.replace(spec_of(run), action_low=(-1.0,) * actions,
                               action_high=(1.0,) * actions)
    graphs = AgentGraphs(run.agent.components, run.config.planner, run.config.agent.discount,
                         spec.observation_scale, [0.0] * actions, [1.0] * actions, {}).write(
                             np.zeros((1, 3), np.float32))
    parity = prove(run, spec, graphs)
    assert parity.ties < parity.probes
    return parity


def test_joined_and_apart_are_the_same_plans(drawn, monkeypatch):
    """Every graph, whichever of both ways it is written in, agrees with torch."""
    for pays in (True, False):
        monkeypatch.setattr(writing, 'joining_pays', lambda *_, pays=pays: pays)
        run = drawn('network.latent=9', 'network.hidden=16', 'planner.horizon=4')
        _, _, parity = prepare(run)
        assert parity.worst <= TOLERANCE and parity.ties < parity.probes


def test_a_pruned_agent_keeps_parity(run, tmp_path):
    from pruning_core.budgets import Parameters
    from pruning_core.selection import Limits, select
    from pruning_core.shrinking import cut

    graph = run.agent.graph()
    plan = select(graph.groups, run.importance.unit_scores('combined'), Parameters(0.6),
                  Limits(1, 1))
    cut(run.agent, plan)
    lineage = {'parent': 'cd' * 32, 'dense': {'parameters': 2384, 'macs': 10**9},
               'gates': {'return': {'loss': 0}}, 'failed': []}
    run = dataclasses.replace(run, lineage=lineage)
    bundle, parity = export(run, tmp_path / 'bundle')
    assert parity.worst <= TOLERANCE
    m = bundle.manifest
    assert (m.parameters, m.dense_parameters, m.dense_macs) == (
        plan.parameters_left, 2384, 10**9)
    assert m.sparsity == pytest.approx(plan.achieved)
    assert (m.parent, m.seeds) == ('cd' * 32, {'training': 0, 'pruning': 0})
    assert m.gates == {'parity': parity.worst, 'return': {'loss': 0}}


def test_manifest(run, tmp_path):
    bundle, parity = export(run, tmp_path / 'bundle')
    m = open_bundle(tmp_path / 'bundle').manifest
    assert (m.env_id, m.period_s, m.discount, m.reward_scale) == ('Pendulum-v1', 0.05, 0.99, 0.1)
    assert m.action.names == ('torque',) and m.action.units == ('N m',)
    assert (m.action.low, m.action.high, m.action.scale) == ((-2.0,), (2.0,), (2.0,))
    assert m.observation.scale == pytest.approx((1, 1, 0.125))
    assert m.parameters == m.dense_parameters == count_parameters(run.agent.components)
    assert m.macs == m.dense_macs and m.parent is None and m.lyapunov.terms[0] == 'atan2(1,0)'
    assert m.planner.policy_noise == run.config.agent.policy_noise
    assert m.config == json.loads(json.dumps(dataclasses.asdict(run.config)))
    assert m.widths['latent'] == 6 and m.opset == OPSET
    assert parity.probes == 16 and parity.ties < 2 * 16  # the full and the short graphs
    assert bundle.hash == open_bundle(tmp_path / 'bundle').hash


def test_graphs_hold_only_what_is_needed(run):
    """Standard operators only, the contract in the metadata, and no weight inside a graph."""
    graphs, _, _ = prepare(run)
    sizes = {name: p.numel() for name, p in run.agent.components.named_parameters()}
    assert set(graphs) == {*FILES, SHORT_START, SHORT_STEP}
    weights = read(graphs[WEIGHTS])
    for name in (*GRAPHS, SHORT_START, SHORT_STEP):
        model = onnx.load_from_string(graphs[name])
        assert [(o.domain, o.version) for o in model.opset_import] == [('', 17)]
        assert model.ir_version <= 9  # the newest that onnxruntime 1.17 reads
        outside = {i.name: int(np.prod(i.dims)) for i in model.graph.initializer
                   if i.data_location == onnx.TensorProto.EXTERNAL}
        assert outside == {n: a.size for n, a in weights[name].items()}
        assert outside == {n: sizes[n] for n in outside}
        assert sum(int(np.prod(i.dims)) for i in model.graph.initializer
                   if i.name not in outside) < 60
        assert {p.key: p.value for p in model.metadata_props} == {
            'pruned_controller.period_s': '0.05', 'pruned_controller.observations': '3',
            'pruned_controller.actions': '1',
            'pruned_controller.horizon': '1' if name in (SHORT_START, SHORT_STEP) else '2'}, name


def test_weights_are_stored_once_and_any_reader_finds_them(run, tmp_path):
    """By the library of safetensors, and by onnxruntime from the folder, as ONNX defines it."""
    bundle, _ = export(run, tmp_path / 'bundle')
    state = run.agent.components.state_dict()
    stored = load_file(bundle.path / WEIGHTS)
    assert stored.pop('probes').shape == (24, 3)
    assert set(stored) == set(state)
    for name, array in stored.items():
        expected = state[name].numpy()
        np.testing.assert_array_equal(array, expected.T if name.endswith('weight') else expected)
    assert bundle.size < 1.5 * 4 * count_parameters(run.agent.components) + 60_000
    raw = np.float32([[0.6, 0.8, 2.0]])
    action, = onnxruntime.InferenceSession(
        bundle.path / POLICY, providers=['CPUExecutionProvider']).run(None, {'observation': raw})
    scaled = torch.from_numpy(raw * np.float32(bundle.manifest.observation.scale))
    np.testing.assert_allclose(action, 2 * run.agent.policy(scaled).numpy(), atol=1e-4)


def test_same_agent_same_bytes(run, tmp_path):
    one, _ = export(run, tmp_path / 'one')
    other, _ = export(run, tmp_path / 'other')
    assert one.hash == other.hash and one.graphs == other.graphs


@pytest.mark.parametrize('name', [*GRAPHS, SHORT_START, SHORT_STEP])
def test_a_graph_of_other_weights_is_told(drawn, monkeypatch, name):
    """Weights that differ by a thousandth, in one graph at a time."""
    run, wrong = drawn(), drawn()
    with torch.no_grad():
        for parameter in wrong.agent.components.parameters():
            parameter.add_(2e-3)
    right, _, parity = prepare(run)
    assert parity.worst <= TOLERANCE and parity.ties < parity.probes
    others = read(prepare(wrong)[0][WEIGHTS])
    monkeypatch.setattr(exporting, 'read', lambda content: {**read(content), name: others[name]})
    found = prove(run, spec_of(run), right)
    assert getattr(found, FIELD[name]) > TOLERANCE
    assert all(getattr(found, f) <= TOLERANCE for f in FIELD.values() if f != FIELD[name])


@pytest.mark.parametrize('change', [
    {'temperature': 0.9}, {'momentum': 0.15}, {'min_std': 0.5}, {'max_std': 0.3},
], ids=lambda c: next(iter(c)))
def test_a_refit_of_other_settings_is_told(drawn, change):
    """Settings that are written into the graph of one iteration."""
    run = drawn('planner.temperature=0.5')
    wrong = dataclasses.replace(run, config=dataclasses.replace(
        run.config, planner=dataclasses.replace(run.config.planner, **change)))
    graphs = {**prepare(run)[0], PLAN_STEP: prepare(wrong)[0][PLAN_STEP]}
    assert prove(run, spec_of(run), graphs).plan > TOLERANCE


class WrongDiscount(AgentGraphs):
    """Writes another discount than the agent's."""

    def __init__(self, *args):
        super().__init__(*args)
        self.discount = 0.9


class WrongMinimum(AgentGraphs):
    """Takes q1 for the smaller of both."""

    def __init__(self, *args):
        super().__init__(*args)
        self.net['q2'] = self.net['q1']


@pytest.mark.parametrize('writer', [WrongDiscount, WrongMinimum])
def test_a_wrong_writer_is_refused(drawn, tmp_path, monkeypatch, writer, four_parts):
    monkeypatch.setattr(exporting, 'AgentGraphs', writer)
    with pytest.raises(ExportMismatch) as error:
        export(drawn(), tmp_path / 'bundle')
    four_parts(error, 'torch and onnxruntime differ by', '1e-04', 'nothing was written')
    assert list(tmp_path.iterdir()) == []


def test_a_refit_that_nothing_could_prove_is_refused(drawn, tmp_path, monkeypatch):
    """Values of a thousandth of a tie: the order of plans, and with it the refit, stays open."""
    class WrongMomentum(AgentGraphs):
        def plan_step(self, *args):
            self.planner = dataclasses.replace(self.planner, momentum=0.9)
            return super().plan_step(*args)

    run = drawn()
    with torch.no_grad():
        for name in ('reward', 'q1', 'q2'):
            last = [m for m in run.agent.components[name] if isinstance(m, nn.Linear)][-1]
            last.weight.mul_(1e-7)
    monkeypatch.setattr(exporting, 'AgentGraphs', WrongMomentum)
    with pytest.raises(ExportMismatch):
        export(run, tmp_path / 'bundle')


@pytest.mark.parametrize(('component', 'bad'), [
    ('encoder', np.nan), ('policy', np.inf), ('q2', np.nan), ('reward', np.inf),
    ('dynamics', np.nan)])
def test_numbers_that_are_not_finite_are_refused(drawn, tmp_path, component, bad, four_parts):
    run = drawn()
    with torch.no_grad():
        run.agent.components[component][-2 if component == 'policy' else -1].bias.fill_(bad)
        if component == 'policy':  # tanh would hide an infinite bias
            run.agent.components[component][-2].weight.fill_(np.nan)
    with pytest.raises(ExportMismatch) as error:
        export(run, tmp_path / 'bundle')
    four_parts(error)
    assert list(tmp_path.iterdir()) == []


class Linear(nn.Linear):
    """Not what its name says."""

    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize(('layer', 'named'), [
    (nn.PReLU(), 'PReLU'), (nn.LayerNorm((2, 8)), 'LayerNorm'), (Linear(16, 16), 'Linear')],
    ids=lambda v: v if isinstance(v, str) else '')
def test_unknown_layers_are_named(drawn, tmp_path, layer, named, four_parts):
    run = drawn()
    run.agent.components['reward'][1] = layer
    with pytest.raises(ExportMismatch) as error:
        export(run, tmp_path / 'bundle')
    four_parts(error, "'reward.1'", f'it is a {named}', 'of Linear, LayerNorm')
    assert list(tmp_path.iterdir()) == []


class NormedLinear(nn.Linear):
    """As in TD-MPC2: a Linear that normalises and activates its own output."""

    def __init__(self, inputs, outputs, act):
        super().__init__(inputs, outputs)
        self.ln, self.act = nn.LayerNorm(outputs), act

    def forward(self, x):
        return self.act(self.ln(super().forward(x)))


class SimNorm(nn.Module):
    """As in TD-MPC2: softmax over groups of channels."""

    def __init__(self, dim):
        super().__init__()
        self.dim = dim

    def forward(self, x):
        return x.view(*x.shape[:-1], -1, self.dim).softmax(-1).view(*x.shape)


def td_mpc2(observations=3, actions=1, latent=8, hidden=24):
    """The components of a small TD-MPC2 agent with one output per head."""
    def mlp(inputs, outputs, last=None):
        layers = [NormedLinear(inputs, hidden, nn.Mish()), NormedLinear(hidden, hidden, nn.Mish())]
        return nn.Sequential(*layers, last or nn.Linear(hidden, outputs))

    pair = latent + actions
    return nn.ModuleDict({
        'encoder': mlp(observations, latent, NormedLinear(hidden, latent, SimNorm(4))),
        'dynamics': mlp(pair, latent, NormedLinear(hidden, latent, SimNorm(4))),
        'reward': mlp(pair, 1), 'q1': mlp(pair, 1), 'q2': mlp(pair, 1),
        'policy': nn.Sequential(mlp(latent, actions), nn.Tanh())})


@pytest.mark.parametrize('actions', [1, 3])
def test_components_of_td_mpc2_plan_as_torch_does(drawn, actions):
    """NormedLinear and SimNorm, at every horizon and over several actions."""
    run = drawn('planner.horizon=3')
    torch.manual_seed(0)
    run.agent.components = td_mpc2(actions=actions).requires_grad_(False)
    assert proven(run, actions).worst <= TOLERANCE


def test_components_of_one_layer_and_heads_that_do_not_end_in_a_matrix(drawn):
    run = drawn('planner.horizon=3')
    torch.manual_seed(0)
    run.agent.components = nn.ModuleDict({
        'encoder': nn.Sequential(nn.Linear(3, 5)), 'dynamics': nn.Sequential(nn.Linear(6, 5)),
        'reward': nn.Sequential(nn.Linear(6, 1)), 'q1': nn.Sequential(nn.Linear(6, 1), nn.Tanh()),
        'q2': nn.Sequential(nn.Linear(6, 8), nn.SiLU(), nn.Linear(8, 1, bias=False)),
        'policy': nn.Sequential(nn.Linear(5, 1), nn.Tanh())}).requires_grad_(False)
    spec = spec_of(run)
    graphs = AgentGraphs(run.agent.components, run.config.planner, run.config.agent.discount,
                         spec.observation_scale, [0.0], [2.0], {}).write(
                             np.zeros((1, 3), np.float32))
    parity = prove(run, spec, graphs)
    assert parity.worst <= TOLERANCE and parity.ties < parity.probes


LAYERS = {
    'relu': nn.ReLU(), 'leaky': nn.LeakyReLU(0.2), 'elu': nn.ELU(), 'elu of 0.5': nn.ELU(0.5),
    'silu': nn.SiLU(), 'mish': nn.Mish(), 'gelu': nn.GELU(), 'gelu by tanh': nn.GELU('tanh'),
    'tanh': nn.Tanh(), 'sigmoid': nn.Sigmoid(), 'identity': nn.Identity(),
    'dropout': nn.Dropout(0.5), 'layer norm': nn.LayerNorm(6, eps=1e-3),
    'plain layer norm': nn.LayerNorm(6, elementwise_affine=False),
    'layer norm without bias': nn.LayerNorm(6, bias=False), 'simplices': SimNorm(2),
    'linear': nn.Linear(6, 9), 'linear without bias': nn.Linear(6, 9, bias=False),
    'normed': NormedLinear(6, 8, SimNorm(4)),
    'nested': nn.Sequential(nn.Linear(6, 4), nn.Sequential(nn.ELU(), nn.Linear(4, 3)))}


@pytest.mark.parametrize('name', LAYERS)
def test_every_layer_computes_what_torch_computes(name):
    """On numbers from tiny to large, of both signs."""
    layer = LAYERS[name].eval()
    x = torch.cat([torch.randn(40, 6, generator=torch.Generator().manual_seed(0)),
                   torch.linspace(-30, 30, 60).view(10, 6), torch.zeros(1, 6)])
    with torch.no_grad():
        expected = layer(x).numpy()
    g = GraphBuilder('layer')
    g.output(g.apply(steps_of('part', layer), g.input('x', ['N', 6])), 'y',
             ['N', expected.shape[1]])
    found, = session(g.model({}).SerializeToString(), {}).run(None, {'x': x.numpy()})
    np.testing.assert_allclose(found, expected, atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize('activation', ['relu', 'elu'])
def test_integers_stay_near_and_say_how_near(drawn, tmp_path, activation):
    """Written for wide layers alone; what they change stands in the manifest."""
    run = drawn('network.hidden=96', 'planner.horizon=3', f'network.activation={activation}')
    bundle, parity = export(run, tmp_path / 'bundle')
    assert {PLAN_STEP_INT8, SHORT_STEP_INT8} <= set(bundle.graphs)
    assert 0 < parity.integers.median_action <= parity.integers.worst_action < 0.5
    assert 0 < parity.integers.values < 2
    assert bundle.manifest.gates['parity_int8'] == dataclasses.asdict(parity.integers)
    kinds = [n.op_type for n in onnx.load_from_string(bundle.graphs[PLAN_STEP_INT8]).graph.node]
    assert kinds.count('MatMulInteger') > 15
    assert Planner(bundle, precision='int8').plan([1.0, 0.0, 0.0]).iterations > 0
    small, none = export(drawn('network.hidden=40', 'network.latent=6'), tmp_path / 'small')
    assert none.integers is None and not {PLAN_STEP_INT8, SHORT_STEP_INT8} & set(small.graphs)


def test_what_else_is_there_is_left_alone(run, tmp_path, contents, four_parts):
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / 'file').write_text('kept')
    before = contents(tmp_path)
    with pytest.raises(BundleError) as error:
        export(run, tmp_path / 'mine')
    four_parts(error, 'something else is there')
    assert contents(tmp_path) == before


def test_an_older_bundle_is_replaced(drawn, tmp_path):
    first, _ = export(drawn(), tmp_path / 'bundle')
    second, _ = export(drawn(seed=1), tmp_path / 'bundle')
    assert first.hash != second.hash == open_bundle(tmp_path / 'bundle').hash
    assert [p.name for p in tmp_path.iterdir()] == ['bundle']


def test_exporting_changes_nothing(run, tmp_path):
    before = copy.deepcopy(run.agent.components.state_dict())
    state = run.agent.generator.get_state()
    export(run, tmp_path / 'bundle')
    assert all(torch.equal(v, before[k]) for k, v in run.agent.components.state_dict().items())
    assert torch.equal(state, run.agent.generator.get_state())
    assert all(p.requires_grad for p in run.agent.components.parameters())
