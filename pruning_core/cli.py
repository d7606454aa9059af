# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
# PYTHON_ARGCOMPLETE_OK
"""The commands of `python -m pruning_core`.

Results go to standard output, progress and errors to standard error. Exit codes: 0 done, 1 a gate
refused the result, the doctor found something or `replay --exact` a difference, 2 something asked
for cannot be done, 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import math
import os
import shlex
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruning_core import __version__, studies
from pruning_core.arguments import Parser, at_least, bundle_hash
from pruning_core.errors import (
    BundleError,
    ConfigError,
    GateError,
    MissingExtra,
    PruningError,
    explain,
    missing,
)
from pruning_core.progress import JsonLines, Progress, for_people

if TYPE_CHECKING:  # the commands import what they need, so that --help is instant
    from pruning_core.checkpoint import Run
    from pruning_core.runtime.bundle import Bundle

DONE, REFUSED, FAILED, INTERRUPTED = 0, 1, 2, 130
_ORPHAN_S = 10.0  # that a command without its parent has to end in good order
_EXTRAS = {'torch': 'train', 'gymnasium': 'train', 'scipy': 'train', 'tqdm': 'train',
           'safetensors': 'train', 'onnx': 'export', 'matplotlib': 'viz',
           'rosbags': 'bags', 'sklearn': 'studies', 'distributed': 'cluster'}


def parser() -> argparse.ArgumentParser:
    """Build the argument parser."""
    top = Parser(
        prog='python -m pruning_core',
        description='Train TD-MPC agents, prune them by structural groups, and export bundles.',
        epilog='Exit codes: 0 done, 1 a gate refused the result, the doctor found something or '
               'replay --exact a difference, 2 something asked for cannot be done, 130 '
               'interrupted. Results go to standard output, everything else to standard error; '
               'with --json the result is JSON, also where it is an error.')
    top.add_argument('--version', action='version', version=__version__)
    commands = top.add_subparsers(dest='command', required=True, metavar='COMMAND')

    def add(name: str, does: Callable[[argparse.Namespace], int], text: str, example: str
            ) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name, help=text, description=f'{text}.', epilog=f'example: {example}')
        command.set_defaults(does=does)
        command.add_argument('--json', action='store_true',
                             help='print the result, or the error, as JSON')
        return command

    def add_long(command: argparse.ArgumentParser) -> None:
        command.add_argument('--progress', choices=('bar', 'json'), default='bar',
                             help='for people on standard error (on a terminal a bar), '
                             'or JSON lines on standard output')
        command.add_argument('--nice', type=int, default=0, help='lower the priority by this much')
        command.add_argument('--threads', type=at_least(0), default=0,
                             help='torch threads; 0 = its choice')
        command.add_argument('--stop-with-stdin', action='store_true',
                             help='stop cleanly when standard input closes (for a parent process)')

    def add_set(command: argparse.ArgumentParser) -> None:
        command.add_argument('--set', action='append', default=[], metavar='SECTION.KEY=VALUE',
                             help='override a setting; may be repeated')

    train = add('train', _train, 'Train an agent; goes on where an interrupted run stopped',
                'python -m pruning_core train --config config/pendulum_quick.yaml')
    train.add_argument('--config', required=True, type=Path, help='YAML file')
    train.add_argument('--out', type=Path, help='run folder (default: runs/NAME_OF_CONFIG)')
    train.add_argument('--seed', type=at_least(0), help='same as --set training.seed=SEED')
    train.add_argument('--evaluate', type=at_least(0), default=10, metavar='EPISODES',
                       help='fixed seeds to evaluate on afterwards; 0 = none')
    add_set(train)
    add_long(train)

    told = add('import-tdmpc', _import, 'Turn a checkpoint of the TD-MPC reference into an agent',
               'python -m pruning_core import-tdmpc told.pt --env Pendulum-v1 --out runs/imported')
    told.add_argument('file', type=Path, help="what the reference's TDMPC.save wrote")
    told.add_argument('--env', required=True, metavar='ID',
                      help='the plant it was trained on: Gymnasium id, or module:Class')
    told.add_argument('--out', required=True, type=Path, help='new run folder')
    told.add_argument('--episodes', type=at_least(0), default=10,
                      help='played afterwards, for recovery and importance (default: %(default)s)')
    add_set(told)
    add_long(told)

    check = add('check-env', _check_env,
                'Tell what will not work in training an environment; exit code 2 where something '
                'is wrong', 'python -m pruning_core check-env Pendulum-v1')
    check.add_argument('env', metavar='ID', help='Gymnasium id, or module:Class')
    check.add_argument('--config', type=Path, help='YAML file it is to be trained with')
    add_set(check)

    zoo = add('zoo', _zoo, 'List the shipped agents with returns and the command that made each, '
              'or make one that does not ship', 'python -m pruning_core zoo make pendulum_70')
    zoo.add_argument('action', nargs='?', choices=('make',), help='nothing: list')
    zoo.add_argument('name', nargs='?', help='with make: which one; the list names them')
    zoo.add_argument('--out', type=Path, help='with make: new folder (default: runs/zoo/NAME)')
    add_long(zoo)

    prune = add('prune', _prune, 'Prune an agent, recover it, check its gates, export its bundle',
                'python -m pruning_core prune --agent pendulum_dense --sparsity 0.9')
    prune.add_argument('--agent', required=True, help='run folder, or name of a shipped agent')
    prune.add_argument('--out', type=Path,
                       help='new run folder (default: runs/AGENT_SPARSITY)')
    prune.add_argument('--sparsity', type=float,
                       help='share of the parameters to remove, at least (default: 0.95)')
    prune.add_argument('--budget', metavar='latency_ms=MS',
                       help='cut until the measured plan fits, instead of to a sparsity')
    prune.add_argument('--score', help='importance to rank by: gradient, fisher, bayesian, '
                       'combined (default), ucb, random, l1, l2, lamp, taylor, activation or '
                       'ablation; see docs/importance.md')
    prune.add_argument('--parent', type=bundle_hash,
                       help='hash of the bundle that this one replaces')
    add_set(prune)
    add_long(prune)

    export = add('export', _export, 'Write the bundle of an agent, proven equal to torch',
                 'python -m pruning_core export --agent pendulum_dense --out runs/dense_bundle')
    export.add_argument('--agent', required=True, help='run folder, or name of a shipped agent')
    export.add_argument('--out', required=True, type=Path, help='bundle folder')
    export.add_argument('--force', action='store_true',
                        help='export an agent that failed its gates, too')
    export.add_argument('--replace', action='store_true',
                        help='let the bundle take the place of one that is there')

    evaluate = add('evaluate', _evaluate, 'Returns of an agent on fixed seeds',
                   'python -m pruning_core evaluate --agent pendulum_dense --episodes 20')
    evaluate.add_argument('--agent', required=True, help='run folder, or name of a shipped agent')
    evaluate.add_argument('--episodes', type=at_least(1), default=20,
                          help='fixed seeds 1000, 1001, ... (default: %(default)s)')
    evaluate.add_argument('--samples', type=at_least(0), default=128,
                          help="plans per iteration; 0: the agent's own (default: %(default)s)")
    evaluate.add_argument('--iterations', type=at_least(0), default=3,
                          help="refinements; 0: the agent's own (default: %(default)s)")
    evaluate.add_argument('--write', action='store_true',
                          help='keep the result as evaluation.json in the folder')
    add_set(evaluate)
    add_long(evaluate)

    stability = add('stability', _stability, 'Test from where an agent gets to its goal and stays',
                    'python -m pruning_core stability --agent pendulum_dense --states 200')
    tested = stability.add_mutually_exclusive_group(required=True)
    tested.add_argument('--agent', help='run folder, or name of a shipped agent')
    tested.add_argument('--bundle', type=Path, help='the bundle, as the robot runs it: its '
                        'folder, or the name of an agent that ships with one')
    stability.add_argument('--against', help='another agent, from the same states with the same '
                           'noise: what differs')
    stability.add_argument('--states', type=at_least(1), default=1000,
                           help='initial states (default: %(default)s)')
    stability.add_argument('--near', action='store_true',
                           help='states near the goal alone, where the linear law passes, and '
                                'V has to fall within one second')
    stability.add_argument('--periods', type=at_least(1), default=100,
                           help='control periods that a run may take (default: %(default)s; with '
                                '--near those of one second)')
    stability.add_argument('--samples', type=at_least(0), default=128,
                           help="plans per iteration; 0: the agent's own (default: %(default)s)")
    stability.add_argument('--iterations', type=at_least(0), default=3,
                           help="refinements; 0: the agent's own (default: %(default)s)")
    stability.add_argument('--policy', action='store_true', help='the policy alone, no planning')
    stability.add_argument('--value', action='store_true',
                           help='the value and the residual along episodes: for plants without a '
                                'goal, and weaker evidence')
    stability.add_argument('--sweeps', action='store_true',
                           help='mass, length, torque, noise and delay too (Pendulum-v1)')
    stability.add_argument('--bounds', action='store_true',
                           help='norm and interval bounds of the policy network too')
    stability.add_argument('--seed', type=at_least(0), default=0, help='of states and noise')
    stability.add_argument('--processes', type=at_least(1), default=1,
                           help='processes of one thread each (default: %(default)s)')
    stability.add_argument('--out', type=Path, help='folder for the states that fail')
    add_long(stability)

    study = add('study', _study, 'Run an experiment; goes on where an interrupted one stopped',
                'python -m pruning_core study latent --quick')
    study.add_argument('name', choices=studies.NAMES, help='which experiment')
    study.add_argument('--quick', action='store_true',
                       help='the short form; its numbers are marked as quick')
    study.add_argument('--data', default='', metavar='DIR',
                       help="folder with MNIST's IDX files (default: the digits of scikit-learn)")
    study.add_argument('--download', action='store_true',
                       help="fetch MNIST's images into the folder of --data first")
    study.add_argument('--agent', action='append', default=[],
                       help='run folder or shipped agent; repeat it for intervals over agents')
    study.add_argument('--work', type=Path, default=Path('runs/studies'),
                       help='folder for what is measured on the way (default: %(default)s)')
    study.add_argument('--out', type=Path, help='folder for NAME.json and its pictures '
                       '(default: NAME in the work folder)')
    study.add_argument('--processes', type=at_least(1), default=os.cpu_count() or 1,
                       help='processes of one thread each (default: one per core)')
    study.add_argument('--executor', metavar='dask://HOST:PORT',
                       help='run on a Dask cluster whose workers see the work folder, instead of '
                       'on processes of this machine')
    add_set(study)
    add_long(study)

    inspect = add('inspect', _inspect, 'Tell what an agent folder or a bundle holds',
                  'python -m pruning_core inspect pendulum_dense')
    inspect.add_argument('path', help='run folder, bundle folder, or name of a shipped agent')

    doctor = add('doctor', _doctor, 'Look for break conditions of importance in a training run; '
                 'exit code 1 where one is met',
                 'python -m pruning_core doctor runs/pendulum_quick')
    doctor.add_argument('folder', type=Path, help='run folder of training')

    record = add('record', _record, 'Let a bundle control its plant in lock step, into a bag',
                 'python -m pruning_core record runs/bundle --out runs/bag')
    record.add_argument('bundle', type=Path,
                        help='bundle folder, or name of an agent that ships with one')
    record.add_argument('--out', required=True, type=Path, help='new bag')
    record.add_argument('--episodes', type=at_least(1), default=1,
                        help='with seeds SEED, SEED + 1, ... (default: %(default)s)')
    record.add_argument('--seed', type=at_least(0), default=0,
                        help='of plant and planner (default: %(default)s)')
    record.add_argument('--samples', type=at_least(0), default=0,
                        help="plans per iteration; 0: the bundle's own (default: %(default)s)")
    record.add_argument('--iterations', type=at_least(0), default=0,
                        help="refinements; 0: the bundle's own (default: %(default)s)")

    replay = add('replay', _replay, 'Make every plan of a bag again: does the same come out? '
                 'Or run an agent from one state, as its stability gate did',
                 'python -m pruning_core replay --agent pendulum_dense --state=3.1,0')
    replay.add_argument('bag', type=Path, nargs='?', help='bag folder or .mcap file')
    replay.add_argument('--bundle', type=Path, action='append', default=[],
                        help='bundle that ran; may be repeated; those published in the bag count')
    replay.add_argument('--exact', action='store_true',
                        help='exit code 1 where a plan of the bag comes out differently, or '
                        'its bundle is not at hand')
    replay.add_argument('--agent', help='with --state: run folder, or name of a shipped agent')
    replay.add_argument('--state', metavar='A,B,...', help='instead of a bag: the initial state, '
                        'such as --state=-3.1,0.5 (angle and speed)')
    replay.add_argument('--seed', type=at_least(0),
                        help="with --state: of the noise (default: that of the agent's table of "
                        'failing states, else 0)')

    report = add('report', _report, 'Write the page and picture of a run folder',
                 'python -m pruning_core report runs/pendulum_quick')
    report.add_argument('folders', type=Path, nargs='+', metavar='FOLDER',
                        help='run folder of training, pruning or the demo')
    report.add_argument('--compare', action='store_true',
                        help='one page with two or more folders side by side')
    report.add_argument('--out', type=Path,
                        help='page of the comparison (default: runs/comparison.html)')

    bench = add('bench', _bench, 'Time a bundle on this machine, and fit its planner to it',
                'python -m pruning_core bench --bundle runs/bundle')
    bench.add_argument('--bundle', required=True, type=Path,
                       help='bundle folder, or name of an agent that ships with one')
    bench.add_argument('--threads', type=at_least(1), default=1,
                       help='onnxruntime threads for the timings (default: %(default)s)')
    bench.add_argument('--seconds', type=at_least(0.0), default=20.0,
                       help='to spend on the timings (default: %(default)s)')
    bench.add_argument('--share', type=at_least(0.0), default=0.5,
                       help='of the control period that a fitted plan may take; 0 = fit nothing '
                       '(default: %(default)s)')
    bench.add_argument('--again', action='store_true',
                       help='fit again, even if it was done on this machine')

    keys = add('keys', _keys, 'Make a pair of keys to sign bundles with',
               'python -m pruning_core keys --private signing.pem --public robot.pem')
    keys.add_argument('--private', required=True, type=Path, help='new file; keep it secret')
    keys.add_argument('--public', required=True, type=Path, help='new file; goes onto robots')

    sign = add('sign', _sign, 'Sign a bundle; its hash stays the same',
               'python -m pruning_core sign runs/bundle --key signing.pem')
    sign.add_argument('bundle', type=Path, help='bundle folder')
    sign.add_argument('--key', required=True, type=Path, help='private key')
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    commands = parser()
    with contextlib.suppress(ModuleNotFoundError):  # tab completion is an extra
        import argcomplete

        argcomplete.autocomplete(commands)
    options = commands.parse_args(arguments)
    options.arguments = arguments
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    if getattr(options, 'nice', 0):
        os.nice(options.nice)
    if getattr(options, 'stop_with_stdin', False):
        threading.Thread(target=_watch_stdin, daemon=True).start()
    if '' not in sys.path and not getattr(sys.flags, 'safe_path', False):
        with contextlib.suppress(OSError):  # the folder is gone
            sys.path.append(os.getcwd())  # a plant may lie here; python -m finds it, too
    try:
        code: int = options.does(options)
        return code
    except GateError as error:
        return _fail(options, error, REFUSED)
    except PruningError as error:
        return _fail(options, error, FAILED)
    except ModuleNotFoundError as error:
        name = (error.name or '').partition('.')[0]
        if name not in _EXTRAS:
            raise
        return _fail(options, missing(f"'{options.command}' was asked for", name, _EXTRAS[name]),
                     FAILED)
    except OSError as error:
        left = ('nothing half-written was kept' if options.command != 'record' else
                f"what lies in '{options.out}' is cut off")
        full = PruningError(
            explain(f"'{options.command}' was asked for", f'the system refused: {error}',
                    'a folder that can be written, with room on its disk',
                    f'give another --out, or make room; {left}'))
        return _fail(options, full, FAILED)
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and "can't allocate memory" not in str(error):
            raise
        large = PruningError(
            explain(f"'{options.command}' was asked for",
                    f'there is not enough memory for it ({" ".join(str(error).split())[-80:]})',
                    'networks and batches that fit into this machine',
                    'lower network.hidden, agent.batch_size or the samples'))
        return _fail(options, large, FAILED)
    except KeyboardInterrupt:
        again = 'nothing half-written was kept'
        if options.command in ('train', 'study'):
            again = 'start the same command again to go on'
        elif options.command == 'record':
            again = f"'{options.out}' holds what was recorded until then"
        elif options.command == 'prune':
            again += ('; with pruning.steps above 1, those done were: the same command goes on '
                      'there')
        return _fail(options, PruningError(f'interrupted; {again}'), INTERRUPTED)


def _interrupt(signum: int, frame: object) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)  # a second one must not cut the cleaning up short
    raise KeyboardInterrupt


def _watch_stdin() -> None:
    """Interrupt the main thread when the parent that holds our standard input is gone."""
    while os.read(sys.stdin.fileno(), 4096):  # not sys.stdin: its lock would be held at exit
        pass
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(_ORPHAN_S)
    os.kill(os.getpid(), signal.SIGKILL)  # it did not listen; an orphan must not work on


def _fail(options: argparse.Namespace, error: PruningError, code: int) -> int:
    said = {'error': str(error), 'kind': type(error).__name__, 'exit': code}
    if getattr(options, 'progress', 'bar') == 'json':
        JsonLines().write(said)
    elif options.json:
        print(json.dumps(said, indent=1))
    print(f'{type(error).__name__}: {error}', file=sys.stderr)
    return code


def _progress(options: argparse.Namespace) -> Progress:
    import torch

    if options.threads:
        torch.set_num_threads(options.threads)
    return JsonLines() if options.progress == 'json' else for_people()


def _tell(options: argparse.Namespace, facts: dict[str, Any]) -> int:
    if getattr(options, 'progress', 'bar') == 'json':
        JsonLines().write({'result': facts})
    elif options.json:
        print(json.dumps(facts, indent=1))
    else:
        width = max(len(k) for k in facts)
        for key, value in facts.items():
            print(f'{key:{width}s}  {value}')
    return DONE


def _train(options: argparse.Namespace) -> int:
    from pruning_core import checkpoint, config
    from pruning_core.training import Trainer

    overrides = list(options.set)
    if options.seed is not None:
        overrides.append(f'training.seed={options.seed}')
    settings = config.load(options.config, overrides)
    folder = options.out or Path('runs') / options.config.stem
    progress = _progress(options)
    trainer = Trainer(settings, folder, progress)
    if trainer.resumed_from:
        print(f'going on from {trainer.resumed_from}, episode {trainer.episode}', file=sys.stderr)
    trainer.run()
    facts = {'folder': str(folder), 'updates': trainer.agent.updates,
             'seconds': round(trainer.seconds, 1)}
    if trainer.best is not None:
        facts['kept'] = (f'the agent after episode {trainer.best["episode"]}, '
                         f'return {trainer.best["return"]:.4g}')
    if options.evaluate:
        run = checkpoint.load_run(folder)
        facts.update(_evaluated(run, options.evaluate, 128, 3, progress, write=True))
    _remember(folder, options)
    _draw(folder)
    return _tell(options, facts)


def _remember(folder: Path, options: argparse.Namespace) -> None:
    """Keep the command line beside its result."""
    from pruning_core import checkpoint

    line = shlex.join(['python', '-m', 'pruning_core', *options.arguments])
    checkpoint.write_atomically(folder / checkpoint.COMMAND, lambda p: p.write_text(line + '\n'))


def _import(options: argparse.Namespace) -> int:
    from pruning_core import config
    from pruning_core.checkpoint import load_run
    from pruning_core.importing import REFERENCE, import_tdmpc
    from pruning_core.networks import count_parameters

    settings = config.from_dict(config.override(REFERENCE, [
        f'env.id={json.dumps(options.env)}', *options.set]))
    folder = import_tdmpc(options.file, settings, options.out, options.episodes,
                          _progress(options))
    _remember(folder, options)
    run = load_run(folder)
    return _tell(options, {
        'folder': str(folder), 'parameters': count_parameters(run.agent.components),
        'replay': f'{len(run.replay) if run.replay else 0} decisions'})


def _check_env(options: argparse.Namespace) -> int:
    from pruning_core import config
    from pruning_core.env_check import check

    overrides = [f'env.id={json.dumps(options.env)}', *options.set]
    settings = config.load(options.config, overrides) if options.config else config.from_dict(
        config.override({}, overrides))
    findings = check(settings)
    if options.json:
        print(json.dumps([dataclasses.asdict(f) for f in findings], indent=1))
    else:
        for f in findings:
            print(f'{f.level:9s} {f.about:13s} {f.text}')
    return FAILED if any(f.level == 'wrong' for f in findings) else DONE


def _zoo(options: argparse.Namespace) -> int:
    from pruning_core import zoo

    if options.action:
        return _make(options)
    if options.out:
        raise ConfigError(
            explain(f"the zoo was to be listed into '{options.out}'", '--out is for making one',
                    'zoo, or zoo make NAME --out FOLDER', 'leave --out out'))
    agents = [zoo.describe(name) for name in (*zoo.names(), *zoo.to_make())]
    if options.json:
        print(json.dumps(agents, indent=1))
        return DONE
    for facts in agents:
        width = max(len(key) for key in facts)
        print('\n'.join(f'{key:{width}s}  {value}' for key, value in facts.items()), end='\n\n')
    return DONE


def _make(options: argparse.Namespace) -> int:
    """Run the command that makes an agent of the zoo, and write its page."""
    from pruning_core import zoo
    from pruning_core.report import write_report

    name = options.name or ''
    folder = options.out or zoo.MADE / name
    command = zoo.command(name, folder)
    made = parser().parse_args([*command, '--progress', options.progress,
                                '--threads', str(options.threads),
                                *(('--json',) if options.json else ())])
    made.arguments = command
    code: int = made.does(made)
    try:
        write_report(folder)
    except MissingExtra as error:
        print(f'no page: {error}', file=sys.stderr)
    return code


def _draw(folder: Path) -> None:
    """Draw the curves where matplotlib is there."""
    from pruning_core.report import draw_training

    try:
        draw_training(folder)
    except MissingExtra as error:
        print(f'no picture: {error}', file=sys.stderr)


def _opened(path: Path) -> Bundle:
    """The bundle of a folder, or of a shipped agent where there is no folder of that name."""
    from pruning_core import zoo
    from pruning_core.runtime.bundle import open_bundle

    named = not path.exists() and str(path) in zoo.names()
    return open_bundle(zoo.bundle(str(path)) if named else path)


def _evaluated(run: Run, episodes: int, samples: int, iterations: int, progress: Progress,
               write: bool) -> dict[str, Any]:
    from pruning_core import checkpoint
    from pruning_core.evaluation import evaluate, evaluate_random, evaluation_seeds

    seeds = evaluation_seeds(episodes)
    planned = evaluate(run.agent, run.config.env, seeds,
                       run.config.planner.scaled(samples, iterations), progress)
    policy = evaluate(run.agent, run.config.env, seeds, None, progress)
    random = evaluate_random(run.config.env, seeds)
    if write:
        checkpoint.write_json(run.folder / checkpoint.EVALUATION,
                              {**run.evaluation, 'planned': planned.to_json(),
                               'policy': policy.to_json(), 'random': random.to_json()})
    low, high = planned.interval()
    return {'seeds': episodes, 'return, planned': round(planned.mean, 2),
            '95 % interval': [round(low, 2), round(high, 2)],
            'worst': round(min(planned.returns), 2),
            'return, policy alone': round(policy.mean, 2),
            'chatter, planned': round(planned.chatter, 4),
            'chatter, policy alone': round(policy.chatter, 4),
            'return, random actions': round(random.mean, 2)}


def _with(run: Run, overrides: Sequence[str], *sections: str) -> Run:
    """The same agent with other settings of some sections."""
    from pruning_core import config

    for text in overrides:
        if text.partition('.')[0] not in sections:
            raise ConfigError(
                explain(f"override '{text}' was given", 'it would change what the agent is',
                        f'settings of {" and ".join(sections)}',
                        'train another agent with it')
            )
    settings = config.from_dict(config.override(config.to_dict(run.config), list(overrides)))
    return dataclasses.replace(run, config=settings)


def _prune(options: argparse.Namespace) -> int:
    from pruning_core import checkpoint, zoo
    from pruning_core.pruner import prune

    run = checkpoint.load_run(zoo.find(options.agent))
    overrides = list(options.set)
    if options.budget is not None:
        if not options.budget.startswith('latency_ms=') or options.sparsity is not None:
            raise ConfigError(
                explain(f"--budget '{options.budget}' was given",
                        'it is no budget in milliseconds, or a sparsity stands beside it',
                        '--budget latency_ms=8, or --sparsity 0.9', 'give one of these'))
        overrides.append(f'pruning.{options.budget}')
    for name in ('sparsity', 'score'):
        if getattr(options, name) is not None:
            overrides.append(f'pruning.{name}={getattr(options, name)}')
    run = _with(run, overrides, 'pruning', 'planner')
    settings = run.config
    goal = f'{settings.pruning.latency_ms:g}ms' if settings.pruning.latency_ms else str(
        round(100 * settings.pruning.sparsity))
    folder = options.out or Path('runs') / f'{run.folder.name}_{goal}'
    try:
        result = prune(run, settings.pruning, folder, parent=options.parent,
                       progress=_progress(options))
    except GateError:  # the folder is kept, without a bundle
        _remember(folder, options)
        raise
    _remember(folder, options)
    manifest, gates = result.bundle.manifest, result.gates
    return _tell(options, {
        'folder': str(result.folder), 'bundle': str(result.bundle.path),
        'hash': result.bundle.hash, 'parameters': manifest.parameters,
        'of': manifest.dense_parameters, 'removed': round(manifest.sparsity, 4),
        'bytes': result.bundle.size,
        'return, pruned': round(gates['return']['pruned'], 2),
        'return, dense': round(gates['return']['dense'], 2),
        'plan p50 ms': round(gates['latency']['p50_s'] * 1e3, 2),
        'plan p99 ms': round(gates['latency']['p99_s'] * 1e3, 2),
        'stability': (f"{gates['stability']['violations']} of {gates['stability']['states']} "
                      f"states fail, at most {gates['stability']['bound']:.1%}"
                      if 'stability' in gates else
                      'not tested: the gate is off, or the plant states no goal'),
        'seconds': round(result.seconds, 1),
    })


def _export(options: argparse.Namespace) -> int:
    from pruning_core import checkpoint, zoo
    from pruning_core.export import export
    from pruning_core.runtime.bundle import MANIFEST

    run = checkpoint.load_run(zoo.find(options.agent))
    failed = run.lineage.get('failed')
    if failed and not options.force:
        raise GateError(
            explain(f"the bundle of '{run.folder}' was asked for",
                    f'it failed its gates: {"; ".join(failed)}',
                    'an agent that passed, or --force', 'prune less, or recover longer')
        )
    if (options.out / MANIFEST).is_file() and not options.replace:
        raise BundleError(
            explain(f"the bundle of '{run.folder}' was to be written to '{options.out}'",
                    'a bundle is there already', 'a new folder or an empty one, or --replace',
                    'choose another folder, or add --replace'))
    bundle, parity = export(run, options.out)
    return _tell(options, {'bundle': str(bundle.path), 'hash': bundle.hash,
                           'parameters': bundle.manifest.parameters, 'bytes': bundle.size,
                           'torch - onnxruntime': f'{parity.worst:.1e}'})


def _evaluate(options: argparse.Namespace) -> int:
    from pruning_core import checkpoint, zoo

    if options.write and options.set:
        raise ConfigError(
            explain('an evaluation under --set was to be kept',
                    'pruning compares with what is kept, under the settings of the agent',
                    '--write or --set', 'leave one of them out'))
    if options.write and zoo.find(options.agent).resolve().parent == zoo.ROOT.resolve():
        raise ConfigError(
            explain(f"an evaluation of '{options.agent}' was to be kept",
                    'it ships with the package', 'a run folder of your own',
                    'leave --write out, or copy its folder and name the copy'))
    run = _with(checkpoint.load_run(zoo.find(options.agent)), options.set, 'planner')
    return _tell(options, _evaluated(run, options.episodes, options.samples, options.iterations,
                                     _progress(options), options.write))


def _stability(options: argparse.Namespace) -> int:
    from pruning_core import checkpoint, zoo
    from pruning_core.stability_report import Asked, describe_bundle, describe_stability

    against = checkpoint.load_run(zoo.find(options.against)) if options.against else None
    asked = Asked(
        states=options.states, near=options.near, periods=options.periods,
        samples=options.samples, iterations=options.iterations, policy=options.policy,
        value=options.value, sweeps=options.sweeps, bounds=options.bounds, seed=options.seed,
        processes=options.processes, out=options.out, against=against)
    if options.bundle:
        return _tell(options, describe_bundle(_opened(options.bundle), asked,
                                              _progress(options)))
    run = checkpoint.load_run(zoo.find(options.agent))
    return _tell(options, describe_stability(run, asked, _progress(options)))


def _study(options: argparse.Namespace) -> int:
    from pruning_core import images
    from pruning_core.studies.runner import Cluster, Pool
    from pruning_core.studies.study import Asked, run_study, settings_from

    study = studies.find(options.name)
    asked = Asked(options.quick, options.set,
                  {'data': options.data, 'agent': tuple(options.agent)}, options.work, options.out)
    settings = settings_from(study, asked)
    if options.data and not (options.download or options.executor):
        images.load(options.data)  # refused here, before any trial is begun with it
    if options.download:
        if not options.data:
            raise ConfigError(explain('--download was given', 'no folder to fetch into',
                                      '--data DIR beside it', 'name the folder'))
        images.download(Path(options.data),
                        told=lambda name: print(f'fetching {name}', file=sys.stderr))
    pool = Cluster(options.executor) if options.executor else Pool(options.processes)
    return _tell(options, run_study(study, settings, asked, pool, _progress(options)))


def _keys(options: argparse.Namespace) -> int:
    from pruning_core.runtime.signature import make_keys

    make_keys(options.private, options.public)
    return _tell(options, {'private': str(options.private), 'public': str(options.public)})


def _sign(options: argparse.Namespace) -> int:
    from pruning_core.runtime import bundle, signature

    signed = bundle.sign(options.bundle, signature.load_private(options.key))
    return _tell(options, {'bundle': str(signed.path), 'hash': signed.hash})


def _inspect(options: argparse.Namespace) -> int:
    from pruning_core.runtime.bundle import MANIFEST, open_bundle

    path = Path(options.path)
    if (path / MANIFEST).is_file():
        bundle = open_bundle(path)
        m = bundle.manifest
        return _tell(options, {
            **({'FAILED ITS GATES': '; '.join(m.failed_gates)} if m.failed_gates else {}),
            'bundle': str(path), 'hash': bundle.hash, 'parent': m.parent, 'plant': m.env_id,
            'period s': m.period_s, 'observation': ', '.join(m.observation.names),
            'action': ', '.join(m.action.names), 'parameters': m.parameters,
            'of': m.dense_parameters, 'removed': round(m.sparsity, 4),
            'MACs per plan': m.macs, 'of MACs': m.dense_macs, 'bytes': bundle.size,
            'widths': dict(m.widths), 'gates': dict(m.gates)})
    from pruning_core import checkpoint, zoo
    from pruning_core.networks import count_parameters

    run = checkpoint.load_run(zoo.find(options.path))
    facts: dict[str, Any] = {
        'agent': str(run.folder), 'plant': run.config.env.id, 'updates': run.agent.updates,
        'parameters': count_parameters(run.agent.components),
        'replay': f'{len(run.replay) if run.replay else 0} decisions'}
    for name, result in run.evaluation.items():
        facts[f'return, {name}'] = f"{result['mean']:.1f} on {len(result['seeds'])} seeds"
    for group in run.agent.graph().free:
        line = f'{group.size} units, {group.params_per_unit} parameters each'
        if run.importance is not None:
            score = run.importance.group_scores('combined')[group.name]
            line += (f', importance {score:.2f}' if math.isfinite(score) else
                     f', importance not known before {run.config.importance.warmup} updates')
        facts[group.name] = line
    return _tell(options, facts)


def _doctor(options: argparse.Namespace) -> int:
    from pruning_core.doctor import examine

    diagnosis = examine(options.folder)
    if options.json:
        print(json.dumps({'findings': [f._asdict() for f in diagnosis.findings],
                          'facts': diagnosis.facts}, indent=1))
    else:
        for finding in diagnosis.findings:
            print(finding)
        if not diagnosis.findings:
            print('none of the break conditions was met')
        _tell(options, diagnosis.facts)
    return REFUSED if diagnosis.findings else DONE


def _record(options: argparse.Namespace) -> int:
    from pruning_core.recording import record

    facts = record(_opened(options.bundle), options.out, episodes=options.episodes,
                   seed=options.seed, samples=options.samples, iterations=options.iterations)
    return _tell(options, {'bag': str(options.out), **facts})


def _replay_state(options: argparse.Namespace) -> int:
    import numpy as np

    from pruning_core import checkpoint, zoo
    from pruning_core.stability_gate import replay

    run = checkpoint.load_run(zoo.find(options.agent))
    try:
        state = np.array([float(x) for x in options.state.split(',')])
    except ValueError:
        raise ConfigError(
            explain(f"state '{options.state}' was given", 'it is not a list of numbers',
                    'numbers with commas between them', 'write it as --state=-3.1,0.5')
        ) from None
    found = replay(run, state, options.seed)
    values = found.runs.values[:, 0]
    return _tell(options, {
        'agent': str(run.folder), 'state': options.state, 'seed': found.seed,
        'passes': not found.failed, 'V': [round(float(v), 4) for v in values]})


def _replay(options: argparse.Namespace) -> int:
    if (options.bag is None) == (options.state is None) or (
            (options.state is None) != (options.agent is None)):
        raise ConfigError(
            explain('a replay was asked for', 'not one bag, nor one agent with one state',
                    'a bag, or --agent FOLDER --state=A,B', 'name one of the two')
        )
    if options.state is not None:
        if options.exact:
            raise ConfigError(
                explain('a replay from one state was asked for, with --exact',
                        'there are no plans to compare with', '--exact with a bag',
                        'leave it out'))
        return _replay_state(options)
    if options.seed is not None:
        raise ConfigError(
            explain(f'a replay of a bag was asked for, with --seed {options.seed}',
                    'the bag itself says where the noise stood', '--seed with --state',
                    'leave it out'))
    from pruning_core import recording
    from pruning_core.runtime.archive import unpack

    bundles = [_opened(path) for path in options.bundle]
    bag = recording.read(options.bag)
    with tempfile.TemporaryDirectory() as store:
        bundles += [unpack(archive, Path(store), hash) for hash, archive in bag.archives.items()]
    facts: dict[str, Any] = {'bag': str(options.bag), 'decisions': len(bag.ticks)}
    replayed = recording.replay(bag, bundles, progress=for_people())
    results = [result.to_json() for result in replayed]
    if options.json:
        facts['models'] = results
    else:
        for result in results:
            name = result.pop('model')
            facts |= {f'{name} {key}': value for key, value in result.items()}
    _tell(options, facts)
    same = sum(result.equal for result in replayed) == len(bag.ticks)
    return DONE if same or not options.exact else REFUSED


def _report(options: argparse.Namespace) -> int:
    from pruning_core.comparison import write_comparison
    from pruning_core.report import write_report

    if options.out and not options.compare:
        raise ConfigError(
            explain(f"a report was to be written to '{options.out}'",
                    'every run folder has its own, report.html', '--out beside --compare',
                    'leave --out out, or add --compare'))
    if options.compare:
        page = write_comparison(options.folders, options.out or Path('runs/comparison.html'))
        return _tell(options, {'comparison': str(page)})
    pages = [str(write_report(folder)) for folder in options.folders]
    return _tell(options, {'report': pages[0] if len(pages) == 1 else pages})


def _bench(options: argparse.Namespace) -> int:
    for name in ('OPENBLAS_NUM_THREADS', 'OMP_NUM_THREADS', 'MKL_NUM_THREADS'):
        os.environ[name] = '1'  # the floor is that of one thread; numpy reads it once, below
    from pruning_core.runtime.bench import bench, rss_mb
    from pruning_core.runtime.fit import fit

    bundle = _opened(options.bundle)
    rows = bench(bundle, options.threads, options.seconds)
    facts: dict[str, Any] = {'bundle': str(options.bundle), 'hash': bundle.hash[:16],
                             'bytes': bundle.size, 'rss MB': round(rss_mb(), 1)}
    for row in rows:
        ms, ratio = 1e3 * row.timing.p50_s, row.floor_ratio
        facts[row.name] = f'{ms:.3f} ms, 99 % {1e3 * row.timing.p99_s:.3f} ms' + (
            f', {ratio:.2f} x its floor' if 'fp32' in row.name else '')
    if options.share:
        # Beside a bundle that ships nothing is kept.
        kept = bundle if options.bundle.exists() else dataclasses.replace(bundle, path=None)
        found = fit(kept, share=options.share, again=options.again, told=for_people())
        c = found.choice
        facts[f'fitted to {1e3 * found.budget_s:g} ms'] = (
            f'{c.samples} x {c.iterations}, horizon {c.horizon}, {c.precision}, threads '
            f'{c.threads}: {1e3 * found.p50_s:.3f} ms, 99 % {1e3 * found.p99_s:.3f} ms, expected '
            f'loss {found.loss:.3g} +- {found.error:.1g}')
    return _tell(options, facts)
