# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""One configuration trained from several seeds: returns with their interval, and a picture.

    python benchmarks/seeds.py --config config/pendulum_quick.yaml --seeds 5 --evaluate 20

Each seed has its folder below `--out`; what is finished there is not trained again, and an
interrupted run goes on. The interval is Student's t over seeds (95 %), of each seed's mean return
on the fixed seeds; with `--evaluate 0`, of the last point of its learning curve.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from pruning_core import config as configuration
from pruning_core.checkpoint import AGENT, EVALUATION, METRICS, load_run, write_json
from pruning_core.evaluation import evaluate, evaluation_seeds
from pruning_core.progress import for_people
from pruning_core.training import Trainer


def interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(seeds, ...) -> mean and half of the 95 % interval over seeds, (...)."""
    half = stats.sem(values) * stats.t.ppf(0.975, len(values) - 1)
    return values.mean(0), half


def curve(folder: Path) -> np.ndarray:
    """(points, 2) decisions and return at the evaluations during training."""
    records = [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]
    return np.array([(r['decisions'], r['evaluation']['planned'])
                     for r in records if 'evaluation' in r])


def draw(curves: list[np.ndarray], title: str, path: Path) -> None:
    """Each seed thin, their mean with its interval over it."""
    figure = Figure(figsize=(6.4, 3.6), layout='constrained')
    axes = figure.subplots()
    points = min(len(c) for c in curves)
    decisions = curves[0][:points, 0]
    values = np.array([c[:points, 1] for c in curves])
    for one in values:
        axes.plot(decisions, one, color='0.7', linewidth=0.8)
    mean, half = interval(values)
    axes.plot(decisions, mean, color='tab:blue', label=f'mean of {len(curves)} seeds')
    axes.fill_between(decisions, mean - half, mean + half, color='tab:blue', alpha=0.2,
                      label='95 % interval of the mean')
    axes.set(xlabel='decisions', ylabel='return, planned', title=title)
    axes.legend(loc='lower right', frameon=False)
    axes.spines[['top', 'right']].set_visible(False)
    figure.savefig(path)


def main() -> None:
    """Train what is missing, evaluate, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--config', type=Path, required=True)
    parser.add_argument('--seeds', type=int, default=5)
    parser.add_argument('--evaluate', type=int, default=20,
                        help='fixed seeds a training; 0: the last point of its learning curve')
    parser.add_argument('--out', type=Path, default=Path('runs/seeds'))
    parser.add_argument('--picture', type=Path, help='SVG or PNG (default: in --out)')
    options = parser.parse_args()
    if options.seeds < 2 or options.evaluate < 0:
        parser.error('an interval needs 2 seeds or more')
    name, returns, curves = options.config.stem, [], []
    for seed in range(options.seeds):
        folder = options.out / f'{name}-{seed}'
        settings = configuration.load(options.config, [f'training.seed={seed}'])
        if not (folder / AGENT).is_file():
            Trainer(settings, folder, for_people()).run()
        curves.append(curve(folder))
        if not options.evaluate:
            returns.append(curves[-1][-1, 1])
            continue
        run = load_run(folder)
        if len(run.evaluation.get('planned', {}).get('seeds', ())) != options.evaluate:
            result = evaluate(run.agent, settings.env, evaluation_seeds(options.evaluate),
                              settings.planner.scaled(128, 3), for_people())
            write_json(folder / EVALUATION, {**run.evaluation, 'planned': result.to_json()})
            run = load_run(folder)
        returns.append(run.evaluation['planned']['mean'])
    mean, half = interval(np.array(returns))
    episodes = options.evaluate or settings.training.evaluate_seeds
    sys.stdout.write(f'{name}: {", ".join(f"{r:.1f}" for r in returns)}; mean {mean:.1f}, 95 % '
                     f'interval {mean - half:.1f} to {mean + half:.1f} over {options.seeds} '
                     f'seeds, {episodes} episodes each\n')
    if all(len(c) for c in curves):
        draw(curves, name, options.picture or options.out / f'{name}.svg')


if __name__ == '__main__':
    main()
