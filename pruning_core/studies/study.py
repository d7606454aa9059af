# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""What a study is: settings, trials, and how their results become one table and its pictures.

Every experiment of this folder is a `Study`; this is the one way to run them. Settings and
overrides in; `NAME.json` and its pictures out, that say by which command they were made, how many
seeds they are of, and whether they are the quick form.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pruning_core import checkpoint as files
from pruning_core.config import SCHEDULES, SCORES, override
from pruning_core.errors import ConfigError, JobError, MissingExtra, explain, nearest
from pruning_core.progress import Progress, silent
from pruning_core.studies.runner import Outcome, Pool, Trial, plain, run_trials

Results = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Study:
    """One experiment.

    Attributes:
        name: of the command, its results and its section of overrides.
        question: that it answers, in one sentence.
        settings: frozen dataclass; its defaults are the full form.
        quick: fields that `--quick` replaces.
        cost: of the quick and of the full form on two cores, for people.
        trials: from settings to runs; names begin with the folder that is passed.
        summarise: from settings and results by the trial's name (without that folder) to what
            goes into NAME.json; results of trials that failed are missing.
        draw: from that to SVG by file name.
        tell: from that to what a person wants to read first.
    """

    name: str
    question: str
    settings: Callable[..., Any]
    quick: Mapping[str, Any]
    cost: str
    trials: Callable[[Any, str], list[Trial]]
    summarise: Callable[[Any, Results], dict[str, Any]]
    draw: Callable[[Mapping[str, Any]], dict[str, str]]
    tell: Callable[[Mapping[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class Asked:
    """What the command line asked for.

    Attributes:
        quick: the quick form.
        overrides: `NAME.KEY=VALUE`; values are YAML.
        given: settings by name that have an option of their own; those that are None or empty
            were not given.
        work: folder of what is measured on the way, of all studies.
        out: folder of the result.
    """

    quick: bool = False
    overrides: Sequence[str] = ()
    given: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    work: Path = Path('runs/studies')
    out: Path | None = None


# What numbers may be, by the name of their setting, which means the same in every study; of a
# tuple, what each of its values may be. The last word says whether the ends themselves may be.
RANGES: dict[str, tuple[float, float, str]] = {
    **dict.fromkeys((
        'seeds', 'agents', 'states', 'updates', 'recovery_epochs', 'recovery_updates', 'delays',
        'strength', 'seed'), (0, math.inf, 'low')),
    **dict.fromkeys((
        'epochs', 'episodes', 'samples', 'iterations', 'latent', 'latents', 'hidden', 'every',
        'record_every', 'window', 'warmup', 'periods', 'cells', 'local_states', 'delay_states'),
        (1, math.inf, 'low')),
    **dict.fromkeys(('share', 'shares', 'sparsity'), (0, 1, '')),
    **dict.fromkeys(('sparsities', 'gammas'), (0, 1, 'low')),
    'coupling_share': (0, 1, 'low high')}
KNOWN: dict[str, Sequence[str]] = {
    'scores': SCORES, 'schedules': SCHEDULES, 'ways': ('once', 'steps')}
_MAY_REPEAT = ('hidden', 'cells')


def _check(name: str, values: Mapping[str, Any]) -> None:
    """Refuse settings that no trial could use, before any of them runs."""
    for key, value in values.items():
        each = value if isinstance(value, tuple) else (value,)
        if not each:
            found, allowed = 'it is empty', '1 or more values'
        elif key not in _MAY_REPEAT and len(set(each)) < len(each):
            found, allowed = 'a value stands twice', 'each value once'
        elif wrong := [said for v in each if (said := _refused(key, v))]:
            found, allowed = wrong[0]
        else:
            continue
        raise ConfigError(explain(f'{name}.{key} was set to {value!r}', found, allowed,
                                  'correct --set'))


def _refused(key: str, value: Any) -> tuple[str, str] | None:
    """What is wrong with one value, and what is allowed; None where nothing is."""
    if key in KNOWN and value not in KNOWN[key]:
        return f"'{value}' is not known{nearest(value, KNOWN[key])}", ', '.join(KNOWN[key])
    if key in RANGES:
        low, high, ends = RANGES[key]
        if not (low < value < high or (value == low and 'low' in ends)
                or (value == high and 'high' in ends)):
            first = f'{low:g} or more' if 'low' in ends else f'more than {low:g}'
            last = f', {high:g} at most' if 'high' in ends else f', less than {high:g}'
            return f'{value!r} is out of range', first + last * (high < math.inf)
    return None


def settings_from(study: Study, asked: Asked) -> Any:
    """Settings of a study: its defaults, the quick form, options, and `--set`, in this order.

    Raises:
        ConfigError: an unknown key, a value of another kind or out of range, or an option that the
            study has not.
    """
    start = study.settings(**(study.quick if asked.quick else {}))
    values = {f.name: getattr(start, f.name) for f in dataclasses.fields(start)}
    for key, given in asked.given.items():
        if given and key not in values:
            raise ConfigError(
                explain(f"--{key} was given with study '{study.name}'", 'it has no use for that',
                        f'settings {", ".join(values)}', f'leave --{key} out'))
        if given:
            values[key] = given
    for name, value in override({study.name: {}}, asked.overrides).items():
        unknown = set(value) - set(values) if name == study.name else {name}
        if unknown:
            raise ConfigError(
                explain(f'{", ".join(sorted(unknown))} was to be set',
                        'it is not known' + nearest(min(unknown), values),
                        ', '.join(f'{study.name}.{k}' for k in values), 'correct --set'))
        for key, given in value.items():
            values[key] = _converted(f'{study.name}.{key}', values[key], given)
    _check(study.name, values)
    return study.settings(**values)


def _converted(key: str, before: Any, given: Any) -> Any:
    """A value as YAML read it, of the kind that the setting has."""
    if isinstance(before, tuple):
        if not isinstance(given, list):
            raise _of_another_kind(key, given, f'a list, such as {list(before)}')
        return tuple(_converted(key, before[0], v) if before else v for v in given)
    if type(before) is float and type(given) is int:
        given = float(given)
    if type(given) is not type(before):
        raise _of_another_kind(key, given, f'a {type(before).__name__}')
    return given


def _of_another_kind(key: str, value: Any, allowed: str) -> ConfigError:
    return ConfigError(explain(f'{key} was set to {value!r}', f'a {type(value).__name__}', allowed,
                               'correct --set'))


def run_study(study: Study, settings: Any, asked: Asked, pool: Pool,
              progress: Progress = silent) -> dict[str, Any]:
    """Run what is missing of a study, write its result and pictures, and say what was found.

    Args:
        study: which.
        settings: from `settings_from`.
        asked: by whom, for the record.
        pool: where trials run.
        progress: told twice a second.

    Returns:
        What a person wants to read first.

    Raises:
        JobError: some trials failed; what the others found is written nevertheless.
        ConfigError: the work folder holds trials with other settings.
    """
    folder = study.name + ('_quick' if asked.quick else '')
    trials = study.trials(settings, folder)
    if not trials:
        raise ConfigError(
            explain(f"study '{study.name}' was asked for", 'its settings ask for no trial',
                    'settings with 1 seed or agent at least', 'correct --set'))
    outcome = run_trials(trials, asked.work, pool, progress, study.name)
    out = asked.out or asked.work / folder
    told: dict[str, Any] = {}
    mine = {name.removeprefix(f'{folder}/'): values for name, values in outcome.results.items()}
    try:
        if mine:
            out.mkdir(parents=True, exist_ok=True)
            _publish(study, settings, asked, mine, outcome, out, told)
    except Exception:
        if not outcome.failed:  # else what is there may well be too little to make anything of
            raise
    if outcome.failed:
        reasons = '; '.join(f'{n}: {w}' for n, w in list(outcome.failed.items())[:3])
        raise JobError(explain(
            f"study '{study.name}' was asked for",
            f'{len(outcome.failed)} of {len(outcome.failed) + len(outcome.results)} trials failed '
            f'({reasons[:600]})', 'trials that end' + (
                f"; what the others found is in {told['result']}" if told else ''),
            f'see error.txt below {asked.work}, mend it, and start the same command again'))
    return told


def _publish(study: Study, settings: Any, asked: Asked, results: Results, outcome: Outcome,
             out: Path, told: dict[str, Any]) -> None:
    """Write the result and its pictures; `told` is filled with what there is."""
    result = plain({
        'study': study.name, 'question': study.question, 'quick': asked.quick,
        'command': command(study, settings, asked),
        'trials': len(results), 'failed': outcome.failed,
        'settings': _public(settings), **study.summarise(settings, results)})
    files.write_json(out / f'{study.name}.json', result)
    told['result'] = str(out / f'{study.name}.json')
    try:
        pictures = {name: text for name, text in study.draw(result).items() if text}
        for name, text in pictures.items():
            files.write_atomically(out / name, partial(Path.write_text, data=text))
    except MissingExtra:
        pictures = {}
    told |= {'pictures': ', '.join(pictures) or 'none', **study.tell(result)}


def _public(settings: Any) -> dict[str, Any]:
    """Settings without the place of the data, which means nothing elsewhere."""
    kept: dict[str, Any] = json.loads(json.dumps(asdict(settings)))
    return {k: 'DIR' if k == 'data' and v else v for k, v in kept.items()}


def command(study: Study, settings: Any, asked: Asked) -> str:
    """The command that makes a result again; the place of the data is `DIR`."""
    words = ['python', '-m', 'pruning_core', 'study', study.name]
    words += ['--quick'] * asked.quick
    if getattr(settings, 'data', ''):
        words += ['--data', 'DIR']
    start = study.settings(**(study.quick if asked.quick else {}))
    for field in dataclasses.fields(start):
        value = getattr(settings, field.name)
        if field.name != 'data' and value != getattr(start, field.name):
            words += ['--set', f'{study.name}.{field.name}={json.dumps(value)}']
    return shlex.join(words)


