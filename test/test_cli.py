# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Every subcommand, what it prints, its exit codes, and what it says when something is wrong."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pruning_core import __version__, zoo
from pruning_core import config as configuration
from pruning_core.checkpoint import AGENT, CHECKPOINT, EVALUATION, METRICS, load_run
from pruning_core.cli import DONE, FAILED, INTERRUPTED, REFUSED
from pruning_core.evaluation import evaluate, evaluation_seeds
from pruning_core.importance.history import HISTORY
from pruning_core.runtime.bundle import open_bundle

ROOT = Path(__file__).parent.parent


@pytest.fixture
def yaml_file(tiny, tmp_path):
    configuration.dump(tiny(), tmp_path / 'tiny.yaml')
    return tmp_path / 'tiny.yaml'


@pytest.fixture
def said(main, capsys, four_parts):
    """Run a command that fails: the last line on standard error, checked for its four parts."""
    def run(code, *arguments):
        assert main(*arguments) == code
        out, err = capsys.readouterr()
        *others, last = err.splitlines()
        assert all(re.match(r'[\w ]+ \d+/\d+(,|$)', line) for line in others), err  # progress
        kind, _, message = last.partition(': ')
        assert kind.isidentifier() and out == ''
        four_parts(message)
        return last

    return run


@pytest.fixture
def answer(main, capsys):
    """Run a command with --json and parse what it prints."""
    def run(*arguments):
        assert main(*arguments, '--json') == DONE
        return json.loads(capsys.readouterr().out)

    return run


@pytest.fixture(scope='module')
def bundled(trained, tmp_path_factory):
    """A pruned agent with its bundle, made by the command line."""
    from pruning_core.cli import main

    folder = tmp_path_factory.mktemp('bundled') / 'pruned'
    before = signal.getsignal(signal.SIGTERM)
    assert main(['prune', '--agent', str(trained), '--out', str(folder)]) == DONE
    signal.signal(signal.SIGTERM, before)
    return folder


def test_train(answer, yaml_file, tmp_path, trained):
    """The same agent as without the command line, with its fixed seeds and its picture."""
    out = tmp_path / 'out'
    facts = answer('train', '--config', yaml_file, '--out', out, '--evaluate', 2)
    assert (facts['folder'], facts['updates'], facts['seeds']) == (str(out), 24, 2)
    stored = json.loads((out / EVALUATION).read_text())
    assert facts['return, planned'] == pytest.approx(stored['planned']['mean'], abs=0.01)
    assert stored['planned']['seeds'] == stored['policy']['seeds'] == [1000, 1001]
    assert stored['policy']['planner'] is None
    assert '<svg' in (out / 'learning_curve.svg').read_text()
    assert '<svg' in (out / 'importance.svg').read_text()
    assert (out / 'replay.safetensors').read_bytes() == (
        trained / 'replay.safetensors').read_bytes()


def test_train_with_settings(answer, yaml_file, tmp_path, monkeypatch):
    """--set and --seed; the folder is named after the file."""
    monkeypatch.chdir(tmp_path)
    facts = answer('train', '--config', yaml_file, '--seed', 3, '--evaluate', 0,
                   '--set', 'training.episodes=2', '--set', 'network.hidden=12')
    assert Path(facts['folder']) == Path('runs/tiny')
    run = load_run('runs/tiny')
    assert (run.config.training.seed, run.config.training.episodes) == (3, 2)
    assert run.agent.widths.reward == (12, 12)
    assert 'return, planned' not in facts


def test_train_says_which_agent_it_kept(answer, yaml_file, tmp_path):
    facts = answer('train', '--config', yaml_file, '--out', tmp_path / 'a', '--evaluate', 0,
                   '--set', 'training.keep_best=true', '--set', 'training.evaluate_every=1')
    records = [json.loads(line) for line in (tmp_path / 'a' / 'metrics.jsonl').read_text()
               .splitlines()]
    planned = [r['evaluation']['planned'] for r in records if 'evaluation' in r]
    best = max(planned)
    last = len(planned) - planned[::-1].index(best)
    assert facts['kept'].endswith(f'return {best:.4g}')
    assert f'after episode {last},' in facts['kept'], 'of equals, the one that learned longer'


def test_progress_as_json_lines(main, capsys, yaml_file, tmp_path):
    assert main('train', '--config', yaml_file, '--out', tmp_path / 'a', '--progress', 'json',
                '--evaluate', 1) == DONE
    *progress, last = map(json.loads, capsys.readouterr().out.splitlines())
    assert last['result']['updates'] == 24
    assert {p['phase'] for p in progress} == {'train', 'evaluate', 'evaluate policy'}
    assert all(0 <= p['done'] <= p['total'] for p in progress)


def test_errors_as_json_lines(main, capsys, tmp_path):
    assert main('train', '--config', tmp_path / 'no.yaml', '--progress', 'json') == FAILED
    out, err = capsys.readouterr()
    line = json.loads(out)
    assert line['kind'] == 'ConfigError' and line['error'] in err


def test_prune(answer, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    facts = answer('prune', '--agent', trained, '--sparsity', '0.6', '--score', 'l1',
                   '--parent', 'ab' * 32, '--set', 'pruning.recovery_updates=2')
    assert Path(facts['folder']) == Path('runs/agent_60')
    bundle = open_bundle(facts['bundle'], facts['hash'])
    assert bundle.manifest.parent == 'ab' * 32
    assert facts['removed'] == pytest.approx(1 - facts['parameters'] / facts['of'], abs=1e-4)
    assert facts['removed'] >= 0.6 and facts['of'] == 2384
    settings = load_run(facts['folder']).config.pruning
    assert (settings.sparsity, settings.score, settings.recovery_updates) == (0.6, 'l1', 2)


def test_a_gate_that_refuses_has_its_own_code(said, trained, tmp_path):
    err = said(REFUSED, 'prune', '--agent', trained, '--out', tmp_path / 'a', '--set',
               'pruning.gate_latency_share=1e-9')
    assert err.startswith('GateError: ') and '99 % of plans' in err
    assert not (tmp_path / 'a' / 'bundle').exists()


@pytest.mark.parametrize('setting', ['agent.discount=0.2', 'env.max_episode_steps=5'])
def test_what_was_gated_is_what_runs(main, capsys, copied, tmp_path, setting):
    """A setting that pruning takes acts on the gate, too; one that it cannot take is refused."""
    assert main('evaluate', '--agent', copied, '--write', '--episodes', 2, '--samples', 8,
                '--iterations', 1) == DONE
    folder = tmp_path / 'pruned'
    code = main('prune', '--agent', copied, '--out', folder, '--set', setting)
    if code == FAILED:
        assert setting.partition('=')[0] in capsys.readouterr().err
        return
    run = load_run(folder)
    planner = run.config.planner.scaled(8, 1)
    again = evaluate(run.agent, run.config.env, evaluation_seeds(2), planner)
    assert run.evaluation['gate']['returns'] == pytest.approx(again.returns, rel=1e-4)
    if setting.startswith('env'):
        dense = evaluate(load_run(copied).agent, run.config.env, evaluation_seeds(2), planner)
        assert run.evaluation['dense']['returns'] == pytest.approx(dense.returns, rel=1e-4)


def test_export_and_inspect_a_bundle(answer, trained, tmp_path):
    facts = answer('export', '--agent', trained, '--out', tmp_path / 'bundle')
    assert float(facts['torch - onnxruntime']) <= 1e-4
    seen = answer('inspect', tmp_path / 'bundle')
    assert (seen['hash'], seen['parameters'], seen['bytes']) == (
        facts['hash'], facts['parameters'], facts['bytes'])
    assert (seen['plant'], seen['removed'], seen['parent']) == ('Pendulum-v1', 0.0, None)
    assert seen['widths']['latent'] == 6 and 'parity' in seen['gates']


def test_a_pruned_agents_bundle_can_be_exported_again_to_the_byte(answer, trained, tmp_path):
    facts = answer('prune', '--agent', trained, '--out', tmp_path / 'once', '--sparsity', '0.2')
    again = answer('export', '--agent', tmp_path / 'once', '--out', tmp_path / 'bundle')
    assert again['hash'] == facts['hash']
    twice = answer('prune', '--agent', tmp_path / 'once', '--out', tmp_path / 'twice',
                   '--sparsity', '0.2')
    seen = answer('inspect', twice['bundle'])
    assert (seen['parent'], twice['of']) == (facts['hash'], facts['of']), 'of the first, dense one'


def test_an_agent_that_failed_its_gates_is_exported_only_by_force(said, answer, trained, tmp_path):
    refused = said(REFUSED, 'prune', '--agent', trained, '--out', tmp_path / 'bad', '--set',
                   'pruning.gate_latency_share=1e-9')
    assert 'prune more, plan less' in refused and 'prune less' not in refused, 'time is short'
    assert f"kept in '{tmp_path / 'bad'}'" in refused
    said(REFUSED, 'export', '--agent', tmp_path / 'bad', '--out', tmp_path / 'bundle')
    assert not (tmp_path / 'bundle').exists()
    answer('export', '--agent', tmp_path / 'bad', '--out', tmp_path / 'bundle', '--force')
    seen = answer('inspect', tmp_path / 'bundle')
    assert ' ms' in seen['FAILED ITS GATES'], 'it says so ever after'
    answer('export', '--agent', trained, '--out', tmp_path / 'good')
    assert 'FAILED ITS GATES' not in answer('inspect', tmp_path / 'good')


def test_inspect_an_agent(answer, main, capsys, trained, bundled):
    facts = answer('inspect', trained)
    assert (facts['parameters'], facts['updates'], facts['replay']) == (2384, 24, '48 decisions')
    assert '6 units, 114 parameters each, importance 0.' in facts['latent']
    assert len([v for v in facts.values() if 'parameters each' in str(v)]) == 12
    assert main('inspect', bundled) == DONE
    out = capsys.readouterr().out
    assert 'return, gate' in out and 'on 2 seeds' in out


def test_inspect_a_shipped_agent(answer):
    assert answer('inspect', 'pendulum_dense')['parameters'] == 1_489_512


def test_evaluate(answer, copied):
    options = ('--agent', copied, '--episodes', 3, '--samples', 8, '--iterations', 1)
    facts = answer('evaluate', *options)
    assert not (copied / EVALUATION).exists()
    assert answer('evaluate', *options, '--write') == facts
    other = answer('evaluate', *options, '--set', 'planner.momentum=0.9')
    assert other['return, planned'] != facts['return, planned']
    assert other['return, random actions'] == facts['return, random actions']
    kept = json.loads((copied / EVALUATION).read_text())
    stored = kept['planned']
    assert 0 < facts['chatter, planned'] == pytest.approx(stored['chatter'], abs=1e-4)
    assert 0 < facts['chatter, policy alone'] == pytest.approx(kept['policy']['chatter'], abs=1e-4)
    assert kept['policy']['chatter'] != stored['chatter']
    assert facts['worst'] == pytest.approx(min(stored['returns']), abs=0.01)
    assert facts['95 % interval'] == pytest.approx([stored['low'], stored['high']], abs=0.01)
    assert stored['planner'] == {'horizon': 2, 'samples': 8, 'iterations': 1}


def test_bundles_that_ship_go_by_their_name(answer, tmp_path):
    bag = tmp_path / 'bag'
    recorded = answer('record', 'pendulum_95', '--out', bag, '--samples', 8, '--iterations', 1)
    assert recorded['decisions'] == 200
    replayed = answer('replay', bag, '--bundle', 'pendulum_95')
    assert 200 in replayed.values()
    tested = answer('stability', '--bundle', 'pendulum_95', '--states', 2, '--samples', 8,
                    '--iterations', 1)
    assert tested['states'] == 2
    before = sorted(p.name for p in zoo.bundle('pendulum_95').iterdir())
    timed = answer('bench', '--bundle', 'pendulum_95', '--seconds', 0.01, '--share', 1000)
    assert timed['hash'] == open_bundle(zoo.bundle('pendulum_95')).hash[:16]
    assert sorted(p.name for p in zoo.bundle('pendulum_95').iterdir()) == before


def test_check_env(main, capsys, answer):
    found = answer('check-env', 'Pendulum-v1')
    assert {f['level'] for f in found} == {'good'}
    assert main('check-env', 'CartPole-v1') == 2
    out = capsys.readouterr().out
    assert out.startswith('wrong') and 'Discrete(2)' in out
    assert main('check-env', 'pruning_core.cartpole:CartPoleSwingUp', '--config',
                'config/cartpole.yaml') == 0


def test_zoo(main, capsys, answer):
    assert {a['agent'] for a in answer('zoo')} >= {'pendulum_dense', 'pendulum_95', 'pendulum_30'}
    assert main('zoo') == 0
    assert 'made by          python -m pruning_core train' in capsys.readouterr().out


def test_import_tdmpc(answer, said, trained, tmp_path):
    """Our own agent under the reference's names."""
    import torch

    from pruning_core.checkpoint import load_run
    from pruning_core.importing import NAMES

    components = load_run(trained).agent.components.state_dict()
    model = {NAMES[n.partition('.')[0]] + '.' + n.partition('.')[2]: v
             for n, v in components.items()}
    torch.save({'model': model}, tmp_path / 'told.pt')
    facts = answer('import-tdmpc', tmp_path / 'told.pt', '--env', 'Pendulum-v1', '--episodes', 1,
                   '--set', 'env.max_episode_steps=12', '--set', 'agent.batch_size=4',
                   '--set', 'planner.samples=32', '--set', 'planner.elites=4',
                   '--out', tmp_path / 'agent')
    assert facts['replay'] == '12 decisions'
    del model['_pi.0.bias']
    torch.save({'model': model}, tmp_path / 'told.pt')
    said(2, 'import-tdmpc', tmp_path / 'told.pt', '--env', 'Pendulum-v1', '--out',
         tmp_path / 'other')


@pytest.mark.parametrize('what', ['trained', 'pruned'])
def test_report(answer, copied, bundled, tmp_path, what):
    folder = copied if what == 'trained' else shutil.copytree(bundled, tmp_path / 'pruned')
    page = Path(answer('report', folder)['report'])
    assert page == folder / 'report.html' and '</html>' in page.read_text()


def test_plain_output_is_a_table(main, capsys, trained, tmp_path):
    assert main('export', '--agent', trained, '--out', tmp_path / 'b') == DONE
    lines = capsys.readouterr().out.splitlines()
    assert [line.split('  ')[0].strip() for line in lines] == [
        'bundle', 'hash', 'parameters', 'bytes', 'torch - onnxruntime']


def damage(folder):
    data = (folder / AGENT).read_bytes()
    (folder / AGENT).write_bytes(data[:len(data) // 2])


@pytest.mark.parametrize(('arguments', 'parts'), [
    (['train', '--config', '{yaml}', '--out', '{tmp}/a', '--set', 'env.id=Pendulm-v1'],
     ['EnvError', "environment 'Pendulm-v1'", "did you mean 'Pendulum-v1'?"]),
    (['train', '--config', '{yaml}', '--out', '{tmp}/a', '--set', 'training.epsodes=3'],
     ['ConfigError', "'training.epsodes'", "did you mean 'episodes'?"]),
    (['train', '--config', '{yaml}', '--out', '{tmp}/a', '--set', 'training.episodes=[3'],
     ['ConfigError', 'training.episodes=[3']),
    (['train', '--config', '{tmp}/none.yaml', '--out', '{tmp}/a'],
     ['ConfigError', 'there is no such file', 'tiny.yaml']),
    (['train', '--config', '{yaml}', '--out', '{agent}'],
     ['AgentError', 'already holds a finished agent']),
    (['train', '--config', '{yaml}', '--out', '{yaml}/below'],
     ['PruningError', 'the system refused', 'another --out']),
    (['prune', '--agent', '{agent}', '--sparsity', '1.5', '--out', '{tmp}/a'],
     ['ConfigError', "'pruning.sparsity' was set to 1.5", 'from 0 to below 1']),
    (['prune', '--agent', '{agent}', '--sparsity', '0.99', '--out', '{tmp}/a'],
     ['GroupError', 'removing 99.0%', 'is what the limits leave room for']),
    (['prune', '--agent', '{agent}', '--score', 'fischer', '--out', '{tmp}/a'],
     ['ConfigError', "did you mean 'fisher'?"]),
    (['prune', '--agent', '{agent}', '--out', '{agent}'],
     ['AgentError', 'something is there already']),
    (['prune', '--agent', '{tmp}/none'], ['AgentError', 'there is no such folder', 'train one']),
    (['prune', '--agent', '{torn}', '--out', '{tmp}/a'],
     ['AgentError', 'it is damaged (SafetensorError']),
    (['export', '--agent', '{torn}', '--out', '{tmp}/a'], ['AgentError', 'it is damaged']),
    (['export', '--agent', 'pendulum_dens', '--out', '{tmp}/a'],
     ['AgentError', "did you mean 'pendulum_dense'?"]),
    (['export', '--agent', '{agent}', '--out', '{tmp}'],
     ['BundleError', 'something else is there']),
    (['evaluate', '--agent', 'pendulum_95', '--episodes', '1', '--write'],
     ['ConfigError', 'it ships with the package', 'name the copy']),
    (['evaluate', '--agent', '{unfinished}'],
     ['AgentError', 'its training has not ended', 'start the same train command again']),
    (['evaluate', '--agent', '{site}'], ['AgentError', 'it is a bundle', 'exported from']),
    (['export', '--agent', 'runs/pendulum_quick_80', '--out', '{tmp}/a'],
     ['AgentError', 'there is no such folder; allowed', 'or prune one, first']),
    (['export', '--agent', '{agent}', '--out', '{site}'],
     ['BundleError', 'a bundle is there already', 'add --replace']),
    (['export', '--agent', '{agent}', '--out', '{site}', '--force'],
     ['BundleError', 'a bundle is there already']),
    (['export', '--agent', '{agent}', '--out', '{site}', '--replace'],
     ['BundleError', 'something else is there: thesis.tex']),
    (['export', '--agent', '{agent}', '--out', '{graphs}', '--replace'],
     ['BundleError', 'something else is there: policy.onnx']),
    (['stability', '--agent', 'pendulum_95', '--against', 'double_pendulum', '--policy'],
     ['ConfigError', 'Pendulum-v1', 'InvertedDoublePendulum-v5', 'two agents of one plant']),
    (['stability', '--agent', 'pendulum_95', '--value', '--near'],
     ['ConfigError', '--value alone']),
    (['study', 'latent', '--quick', '--data', '{tmp}/none', '--work', '{tmp}/studies'],
     ['ConfigError', '{tmp}/none']),
    (['report', '{agent}', '--out', '{tmp}/page.html'], ['ConfigError', 'beside --compare']),
    (['zoo', '--out', '{tmp}/zoo'], ['ConfigError', 'zoo make NAME']),
    (['zoo', 'make', 'pendulum_dense'], ['AgentError', 'it ships, and need not be made']),
    (['train', '--config', '{yaml}', '--out', '{tmp}/a', '--set', 'agent.learning_rate=.inf'],
     ['ConfigError', "'agent.learning_rate' was set to inf", 'a finite number']),
    (['prune', '--agent', '{agent}', '--set', 'pruning.gate_latency_share=-1', '--out', '{tmp}/a'],
     ['ConfigError', 'pruning.gate_latency_share', '0 or more']),
    (['evaluate', '--agent', '{agent}', '--set', 'agent.discount=0.9'],
     ['ConfigError', 'settings of planner']),
    (['evaluate', '--agent', '{agent}', '--set', 'planner.momentum=0.2', '--write'],
     ['ConfigError', '--write or --set']),
    (['inspect', '{tmp}'], ['AgentError', f'there is no {AGENT} in it']),
    (['report', '{tmp}/none'], ['AgentError', 'there is no such folder']),
], ids=lambda v: ' '.join(v[:1] + v[-1:]) if len(v) > 2 and v[1][:2] == '--' else '')
def test_what_cannot_be_done(said, yaml_file, copied, tmp_path, arguments, parts):
    """Exit code 2, one line, nothing made."""
    torn = shutil.copytree(copied, tmp_path / 'torn')
    damage(torn)
    site, unfinished = tmp_path / 'site', tmp_path / 'unfinished'
    graphs = tmp_path / 'graphs'
    for folder, files in ((site, ('manifest.json', 'thesis.tex')), (unfinished, (CHECKPOINT,)),
                          (graphs, ('policy.onnx',))):
        folder.mkdir()
        for name in files:
            (folder / name).write_text('{}')
    places = {'yaml': yaml_file, 'agent': copied, 'torn': torn, 'tmp': tmp_path, 'site': site,
              'unfinished': unfinished, 'graphs': graphs}
    before = sorted(tmp_path.rglob('*'))
    err = said(FAILED, *(a.format(**places) for a in arguments))
    for part in parts:
        assert part.format(**places) in err
    assert sorted(tmp_path.rglob('*')) == before


def test_a_bundle_takes_the_place_of_another_where_asked(said, answer, trained, tmp_path):
    first = answer('export', '--agent', trained, '--out', tmp_path / 'b')
    (tmp_path / 'b' / 'fit.json').write_text('{}')
    said(FAILED, 'export', '--agent', trained, '--out', tmp_path / 'b')
    assert (tmp_path / 'b' / 'fit.json').is_file()
    again = answer('export', '--agent', trained, '--out', tmp_path / 'b', '--replace')
    assert again['hash'] == first['hash'] and not (tmp_path / 'b' / 'fit.json').exists()


def test_a_run_folder_is_no_bundle_but_has_one(said, bundled):
    assert f"name '{bundled / 'bundle'}'" in said(FAILED, 'bench', '--bundle', bundled)


@pytest.mark.parametrize('arguments', [
    ['evaluate', '--agent', 'a', '--episodes', '0'],
    ['evaluate', '--agent', 'a', '--samples', '-5'],
    ['evaluate', '--agent', 'a', '--threads', '-1'],
    ['stability', '--agent', 'a', '--seed', '-1'], ['stability', '--agent', 'a', '--periods', '0'],
    ['train', '--config', 'a', '--seed', '99999999999999999999'],
    ['train', '--config', 'a', '--seed', '9' * 400],
    ['record', 'a', '--out', 'b', '--episodes', '1.5'],
    ['bench', '--bundle', 'a', '--share', '-7'],
    ['bench', '--bundle', 'a', '--seconds', 'nan'], ['prune', '--agent', 'a', '--parent', 'zzz'],
], ids=lambda words: ' '.join(words)[:40])
def test_numbers_out_of_range(main, capsys, four_parts, arguments):
    with pytest.raises(SystemExit) as stop:
        main(*arguments, '--json')
    out, err = capsys.readouterr()
    assert stop.value.code == 2 and arguments[-1] in err and '\n' not in err.strip()
    assert 'is out of range: from' in err or 'is no ' in err
    told = json.loads(out)
    assert told['exit'] == 2 and f"{told['kind']}: {told['error']}" == err.strip()
    four_parts(told['error'])


@pytest.mark.parametrize('arguments', [[], ['prun'], ['prune'], ['train', '--out', 'a'],
                                       ['evaluate', '--agent', 'a', '--episodes', 'many']])
def test_usage(main, capsys, arguments):
    with pytest.raises(SystemExit) as stop:
        main(*arguments)
    assert stop.value.code == 2
    assert "'python -m pruning_core" in capsys.readouterr().err


def test_a_missing_library_is_named_with_its_extra(said, monkeypatch, trained, tmp_path):
    for name in ('pruning_core.export', 'pruning_core.graphs'):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, 'onnx', None)
    err = said(FAILED, 'export', '--agent', trained, '--out', tmp_path / 'a')
    assert "'onnx' is not installed" in err and '[export]' in err and 'pip install onnx' in err


def start(*arguments):
    """The program in a process of its own, with a pipe for its standard input."""
    return subprocess.Popen(
        [sys.executable, '-m', 'pruning_core', *map(str, arguments)], cwd=ROOT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, 'OMP_NUM_THREADS': '1'})


def test_help_and_version_need_no_libraries():
    code = ("import sys\nfrom pruning_core.cli import parser\nparser().format_help()\n"
            "print({'torch', 'numpy', 'onnx', 'gymnasium'} & set(sys.modules))")
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True,
                          check=True)
    assert done.stdout.strip() == 'set()'
    done = subprocess.run([sys.executable, '-m', 'pruning_core', '--version'], cwd=ROOT,
                          capture_output=True, text=True, check=True)
    assert done.stdout.strip() == __version__


def stop_by_stdin(process):
    process.stdin.close()
    process.stdin = None


def stop_by_both(process):
    """As a parent that terminates its child and goes away: two interruptions in a row."""
    process.send_signal(signal.SIGTERM)
    stop_by_stdin(process)


@pytest.mark.parametrize(('command', 'stop', 'message'), [
    ('train', stop_by_stdin, 'start the same command again to go on'),
    ('prune', stop_by_both, 'nothing half-written was kept'),
    ('prune', stop_by_stdin, 'with pruning.steps above 1, those done were'),
])
def test_interrupted(yaml_file, copied, tmp_path, contents, command, stop, message):
    """Exit code 130, a line that says how to go on, and a folder that allows it."""
    before, out = contents(copied), tmp_path / 'out'
    options = {'train': ['--config', yaml_file, '--set', 'training.episodes=5000',
                         '--set', 'training.evaluate_every=0'],
               'prune': ['--agent', copied, '--set', 'pruning.recovery_updates=500000']}[command]
    process = start(command, *options, '--out', out, '--progress', 'json', '--stop-with-stdin')
    phase = {'train': 'train', 'prune': 'recover'}[command]
    for line in process.stdout:
        told = json.loads(line)
        if told.get('phase') == phase and told['done'] > 2:
            break
    stop(process)
    stdout, err = process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED, err
    assert message in json.loads(stdout.splitlines()[-1])['error']
    assert message in err and 'Traceback' not in err
    if command == 'train':
        assert {p.name for p in out.iterdir()} == {
            'config.yaml', METRICS, CHECKPOINT, 'checkpoint.previous', HISTORY}
    else:
        assert sorted(p.name for p in tmp_path.iterdir()) == ['agent', 'tiny.yaml']
        assert contents(copied) == before
