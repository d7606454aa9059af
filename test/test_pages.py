# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Pages in a real browser: everything opened, nothing cut off, on a phone and on a wide screen."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pruning_core.cli import DONE
from pruning_core.page import render, section, table
from pruning_core.report import write_report

BROWSER = next(filter(None, map(shutil.which, (
    'chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable'))), None)
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason='no Chromium is installed (Debian: apt install chromium)')

# Runs in the page: click through it, then measure. Texts of a picture must lie in the picture,
# boxes in the window, and their content in them.
_MEASURE = """<script>addEventListener('load', () => {
  document.querySelectorAll('summary').forEach(s => s.click());
  const found = [], width = document.documentElement.clientWidth;
  const say = (what, e) => found.push(what + ': ' + e.tagName + ' ' + e.textContent.slice(0, 60));
  document.querySelectorAll('body *').forEach(e => {
    const box = e.getBoundingClientRect();
    if (!box.width || e.closest('defs')) return;
    if (!e.closest('svg') && (box.right > width + 1 || box.left < -1)) say('outside', e);
    if (!e.closest('svg') && e.clientWidth && e.scrollWidth > e.clientWidth + 1)
      say('overflows', e);
    if (e.tagName === 'text') {
      const picture = e.closest('svg').getBoundingClientRect();
      if (box.right > picture.right + 1 || box.left < picture.left - 1 ||
          box.bottom > picture.bottom + 1 || box.top < picture.top - 1) say('clipped', e);
    }
  });
  document.querySelectorAll('nav a').forEach(a => {
    a.click();
    if (!document.querySelector(a.getAttribute('href'))) say('leads nowhere', a);
  });
  const ids = [...document.querySelectorAll('[id]')].map(e => e.id);
  ids.filter((id, i) => ids.indexOf(id) !== i).forEach(id => found.push('twice: #' + id));
  parent.postMessage(JSON.stringify({number: NUMBER, found, width,
    opened: document.querySelectorAll('details[open]').length,
    texts: document.querySelectorAll('svg text').length}), '*');
});</script>"""


@pytest.fixture(scope='session')
def look(tmp_path_factory):
    """Open pages in one browser; returns what a reader of each would complain of."""
    def at(*views: tuple[Path, int]):
        folder = tmp_path_factory.mktemp('browser')
        frames = ''
        # In frames, because windows of Chromium cannot be as narrow as a phone.
        for i, (page, width) in enumerate(views):
            (folder / f'{i}.html').write_text(page.read_text('utf-8').replace(
                '</body>', _MEASURE.replace('NUMBER', str(i)) + '</body>'), 'utf-8')
            frames += f'<iframe src="{i}.html" style="width:{width}px;height:900px"></iframe>'
        (folder / 'all.html').write_text(
            '<!DOCTYPE html><style>iframe{border:0;display:block}</style><script>'
            "addEventListener('message', e => {const said = document.createElement('pre');"
            f"said.textContent = e.data; document.body.append(said)}})</script><body>{frames}")
        done = subprocess.run(
            [BROWSER, '--headless', '--no-sandbox', '--disable-gpu', '--hide-scrollbars',
             f'--user-data-dir={folder / "profile"}', '--window-size=1500,1000',
             '--virtual-time-budget=20000', '--dump-dom', (folder / 'all.html').as_uri()],
            capture_output=True, text=True, timeout=240, check=True)
        said = [json.loads(html.unescape(text))
                for text in re.findall(r'<pre>(.+?)</pre>', done.stdout, re.DOTALL)]
        assert len(said) == len(views), done.stdout[-2000:] + done.stderr[-2000:]
        return sorted(said, key=lambda each: each['number'])

    return at


@pytest.fixture(scope='module')
def pages(trained, tmp_path_factory):
    """A page of each kind, of real runs."""
    from pruning_core.checkpoint import EVALUATION, load_run, write_json
    from pruning_core.comparison import write_comparison
    from pruning_core.evaluation import evaluate, evaluation_seeds
    from pruning_core.pruner import prune

    top = tmp_path_factory.mktemp('pages')
    training = shutil.copytree(trained, top / 'training')
    run = load_run(training)
    evaluation = evaluate(run.agent, run.config.env, evaluation_seeds(3),
                          run.config.planner.scaled(8, 1))
    write_json(training / EVALUATION, {'planned': evaluation.to_json()})
    cut = prune(run, run.config.pruning, top / 'a_name_long_enough_to_be_wrapped_on_a_phone')
    demo = top / 'demo'
    demo.mkdir()
    (demo / 'result.json').write_text(json.dumps(demo_result(cut.folder)))
    return {'training': write_report(training), 'pruning': write_report(cut.folder),
            'demo': write_report(demo),
            'comparison': write_comparison([training, cut.folder], top / 'comparison.html')}


def demo_result(pruned_folder):
    ticks = [{'t': 0.05 * i, 'latency_s': 0.1 + 0.001 * (i % 7) if i < 300 else 0.008,
              'lateness_s': 0.0, 'reward': -1.0, 'stability': 0.5,
              'model': ('d' if i < 300 else 'a') * 16} for i in range(600)]
    side = {'parameters': 1_489_512, 'macs': 12_049_000_000, 'samples': 512, 'iterations': 6,
            'bytes': 17_894_000, 'ticks': 300, 'missed': 582, 'modes': {'planning': 300},
            'latency': {'count': 300, 'p50_s': 0.111, 'p90_s': 0.12, 'p99_s': 0.489,
                        'max_s': 0.5}, 'returns': [-898.8, -1846.7]}
    plan = json.loads((pruned_folder / 'plan.json').read_text())
    return {'kind': 'demo', 'command': 'make demo ARGS="--samples 128 --iterations 3"',
            'env_id': 'Pendulum-v1', 'period_s': 0.05, 'seeds': [0, 1], 'seconds': 30.0,
            'machine': {'cpu': 'AMD EPYC 7000 Series Processor With A Long Name', 'cores': 2},
            'versions': {'pruned_controller': '0.1.0', 'python': '3.11.7'}, 'plan': plan,
            'events': [{'t': 1.0, 'what': 'dense runs'},
                       {'t': 8.0, 'what': 'prune requested: job 1 accepted'},
                       {'t': 15.0, 'what': 'swapped in'}, {'t': 30.0, 'what': 'done'}],
            'ticks': ticks, 'rewards': [{'t': x['t'], 'reward': -1.0} for x in ticks],
            'dense': {'hash': 'd' * 64, **side},
            'pruned': {'hash': 'a' * 64, **side, 'returns': [-120.0, -140.0], 'missed': 0}}


@pytest.fixture(scope='module')
def seen(pages, look):
    """What is wrong with each page at each width."""
    views = [(kind, width) for kind in pages for width in (400, 1400)]
    return dict(zip(views, look(*((pages[kind], width) for kind, width in views)), strict=True))


@pytest.mark.parametrize('width', [400, 1400])
@pytest.mark.parametrize('kind', ['training', 'pruning', 'demo', 'comparison'])
def test_nothing_is_cut_off(seen, kind, width):
    view = seen[kind, width]
    assert view['width'] == width
    assert view['found'] == []
    assert view['texts'] > 10
    assert view['opened'] == (0 if kind in ('demo', 'comparison') else 1)


def test_the_measurement_sees_what_is_cut_off(look, tmp_path):
    """A page that is wrong on purpose, so that an empty list above means something."""
    wrong, right = tmp_path / 'wrong.html', tmp_path / 'right.html'
    wrong.write_text(render('wrong', section('Too wide', (
        '<table><tr><td style="white-space:nowrap">' + 'wide ' * 200 + '</td></tr></table>'
        '<svg width="90" height="9"><text x="80" y="8">far too long</text></svg>'
        '<nav><a href="#nowhere">x</a></nav>'))))
    right.write_text(render('right', section('Fits', table([('a', 'b'), ('1', '2')]))))
    complaints, none = look((wrong, 400), (right, 400))
    for word in ('outside: TABLE', 'clipped: text far', 'leads nowhere'):
        assert word in ' '.join(complaints['found'])
    assert none['found'] == []


def test_the_command_line_writes_the_comparison(main, pages, tmp_path):
    out = tmp_path / 'both.html'
    folders = [pages[kind].parent for kind in ('training', 'pruning')]
    assert main('report', '--compare', *folders, '--out', out) == DONE
    assert out.read_text('utf-8') == pages['comparison'].read_text('utf-8')
