# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""The documentation: links lead somewhere, commands run or are marked, what is made agrees."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from pruning_core.cli import DONE, parser

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / 'docs'
PAGES = sorted(DOCS.rglob('*.md'))
# Pages whose commands are run here, in order: a later one goes on where an earlier one stopped.
TRIED = ('getting_started.md', 'howto/reports.md', 'howto/record.md', 'tutorials/robot.md',
         'tutorials/study.md', 'install.md', 'howto/live.md')
BLOCK = re.compile(r'(?:<!-- (run|not run)(?:: (.*?))? -->\n)?```(\w*)\n(.*?)^```', re.M | re.S)
SMALLER = {
    'env': {'max_episode_steps': 20},
    'network': {'latent': 8, 'encoder_hidden': 24, 'hidden': 24},
    'planner': {'horizon': 2, 'samples': 16, 'policy_samples': 2, 'elites': 4, 'iterations': 2},
    'training': {'update_ratio': 1.0},
    'importance': {'every': 1, 'warmup': 3},
    'pruning': {'multiple': 4, 'floor': 4, 'gate_samples': 8, 'gate_iterations': 1},
}
# Pages that the hook of mkdocs makes.
MADE = {DOCS / 'reference' / 'commands.md', DOCS / 'reference' / 'settings.md'}


def name(page):
    return str(page.relative_to(ROOT))


@pytest.fixture(scope='module')
def pages():
    """The module with which the site makes pages of the code."""
    sys.path.insert(0, str(ROOT / 'tools'))
    try:
        import docs_pages
        import notebook
    finally:
        sys.path.pop(0)
    return docs_pages, notebook


@pytest.mark.parametrize(
    'page', [*PAGES, *(ROOT / f for f in ('README.md', 'CONTRIBUTING.md', 'CHANGELOG.md',
                                          'QUALITY_DECLARATION.md'))], ids=name)
def test_links_lead_somewhere(page):
    text = re.sub(r'^```.*?^```', '', page.read_text(), flags=re.M | re.S)
    for target in re.findall(r'\]\(([^)\s]+)\)', text):
        if re.match(r'[a-z]+:', target):
            assert target.startswith('https://'), target
            continue
        path, _, anchor = target.partition('#')
        file = (page.parent / path).resolve() if path else page
        assert file.is_file() or file in MADE, target
        if anchor:
            headings = re.findall(r'^#+ (.*)$', file.read_text(), re.M)
            slugs = {re.sub(r'[^\w-]', '', h.lower().replace(' ', '-')) for h in headings}
            assert anchor in slugs, target


@pytest.mark.parametrize('page', TRIED)
def test_every_command_is_run_or_says_why_not(page):
    for mark, why, language, code in BLOCK.findall((DOCS / page).read_text()):
        if language != 'sh':
            continue
        assert mark, f'{page}: neither run nor marked: {code}'
        if mark == 'not run':
            assert why, code
        else:
            assert all(line.startswith('python -m pruning_core ')
                       for line in code.strip().splitlines()), code


@pytest.mark.parametrize('page', PAGES, ids=name)
def test_every_command_of_ours_parses(page):
    for _, _, language, code in BLOCK.findall(page.read_text()):
        for line in re.findall(r'^python -m pruning_core (.*)$', code, re.M):
            assert language in ('sh', '')
            parser().parse_args(shlex.split(line))


def run_page(page):
    """Write the files of a page, and run its commands with what makes them short."""
    from pruning_core.cli import main

    text = (DOCS / page).read_text()
    for file, content in re.findall(r'^```\w+\n# file: (\S+)\n(.*?)^```', text, re.M | re.S):
        Path(file).write_text(content)
    count = 0
    for mark, extra, language, code in BLOCK.findall(text):
        if language == 'sh' and mark == 'run':
            for line in code.strip().splitlines():
                words = shlex.split(line)[3:] + shlex.split(extra)
                assert main(words) == DONE, line
                count += 1
    return count


@pytest.mark.slow
def test_the_commands_run_in_their_order(tmp_path, monkeypatch, capsys, main):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)  # as of a shell's current folder
    shutil.copytree(ROOT / 'config', 'config')
    # Smaller than small, so that the walk through all pages is short.
    quick = Path('config/pendulum_quick.yaml')
    settings = yaml.safe_load(quick.read_text())
    for section, changed in SMALLER.items():
        settings.setdefault(section, {}).update(changed)
    quick.write_text(yaml.safe_dump(settings))
    assert run_page('getting_started.md') >= 4
    assert run_page('howto/reports.md') == 2
    assert run_page('howto/record.md') == 2
    assert run_page('tutorials/robot.md') == 6
    shutil.rmtree('runs/pendulum_quick')
    assert run_page('tutorials/study.md') == 6
    assert '"comparison": "runs/scores.html"' in capsys.readouterr().out
    assert Path('runs/scores.html').is_file() and Path('both.html').is_file()


def program(page):
    return '\n'.join(code for _, _, language, code in BLOCK.findall(page) if language == 'python')


def test_the_tutorial_on_a_model_of_ones_own_is_a_program():
    page, said = (DOCS / 'tutorials/own_model.md').read_text(), io.StringIO()
    names: dict[str, object] = {}
    with contextlib.redirect_stdout(said):
        exec(compile(program(page), 'page', 'exec'), names)
    out = said.getvalue()
    for line in re.search(r'```text\n(.*?)```', page, re.S)[1].splitlines():
        assert line in out
    before, after = map(float, re.search(r'loss (\S+) before, (\S+) after', out).groups())
    assert 'of the parameters gone' in out and after < 2 * before + 0.01


def test_the_notebook_is_that_page(pages):
    page = (DOCS / 'tutorials/own_model.md').read_text()
    text = (DOCS / 'notebooks/own_model.ipynb').read_text()
    assert text == pages[1].notebook(page), 'run: python tools/notebook.py'
    cells = json.loads(text)['cells']
    code = '\n'.join(''.join(c['source']) for c in cells if c['cell_type'] == 'code')
    assert code.split() == program(page).split()


def test_made_pages_have_every_command_and_setting(pages):
    import dataclasses
    import typing

    from pruning_core.config import Config

    settings, commands = pages[0].settings(), pages[0].commands()
    for section, kind in typing.get_type_hints(Config).items():
        assert f'## {section}\n' in settings
        for field in dataclasses.fields(kind):
            row = re.search(rf'^\| `{field.name}` \| `(.*)` \| (.+) \|$', settings, re.M)
            assert row and len(row[2]) > 5, f'{section}.{field.name} has no comment above it'
    for words in ('## train\n', '`--sparsity`', '(default: 20)', '130 interrupted'):
        assert words in commands


TOPICS = {f'/{name}' for name in re.findall(r'^\| `/?([\w/]+)`', (ROOT / 'README.md').read_text(),
                                            re.M)} | {'/diagnostics', '/command', '/reward'}


def topics_of(text):
    return set(re.findall(r'(?<![\w/])(/(?:controller/\w+|pruner/\w+|command|reward|diagnostics))',
                          text))


@pytest.mark.parametrize('layout', ['foxglove.json', 'plotjuggler.xml', 'rqt.perspective'])
def test_layouts_are_whole_and_name_topics_that_exist(layout):
    from xml.etree import ElementTree

    text = (ROOT / 'config' / layout).read_text()
    found = topics_of(text)
    assert found <= TOPICS, found - TOPICS
    assert {'/controller/latency', '/controller/stability', '/controller/reward'} <= found
    if layout == 'plotjuggler.xml':
        root = ElementTree.fromstring(text)
        splitter, = root.iter('DockSplitter')
        assert int(splitter.get('count')) == len(list(root.iter('DockArea'))) == len(
            splitter.get('sizes').split(';'))
        # Without them the plots stay empty: curves that are not there yet are dropped, unless the
        # layout itself begins to stream.
        streamer = root.find('previouslyLoaded_Streamer').get('name')
        plugin, = (p for p in root.iter('plugin') if p.get('ID') == streamer)
        assert set(plugin.find('selected_topics').get('value').split(';')) == {
            curve.get('name').rpartition('/data')[0] for curve in root.iter('curve')}
    elif layout == 'foxglove.json':
        values = json.loads(text)
        placed = []

        def walk(node):
            if isinstance(node, str):
                placed.append(node)
            else:
                walk(node['first'])
                walk(node['second'])

        walk(values['layout'])
        assert sorted(placed) == sorted(values['configById'])
        for name, panel in values['configById'].items():
            assert panel['foxglovePanelTitle'] == panel['lichtblickPanelTitle']
            # Plots that follow, beside a bar of states, stay empty on a bag.
            assert 'followingViewWidth' not in panel, name
    else:
        manager = json.loads(text)['groups']['pluginmanager']
        import ast

        running = ast.literal_eval(manager['keys']['running-plugins']['repr'])
        assert set(manager['groups']) == {
            f'plugin__{plugin.replace("/", "__")}__{serial}'
            for plugin, serials in running.items() for serial in serials}
        # A plugin that is not installed spoils the whole file: these come with every desktop.
        assert set(running) <= {'rqt_plot/Plot', 'rqt_topic/TopicPlugin',
                                'rqt_service_caller/ServiceCaller'}
        plots = [group['groups']['plugin']['keys'] for name, group in manager['groups'].items()
                 if 'rqt_plot' in name]
        assert len(plots) == 3 and all({'x_limits', 'y_limits'} <= set(p) for p in plots)
        assert {'geometry', 'state'} == set(json.loads(text)['groups']['mainwindow']['keys'])


def instructions():
    text = re.sub(r'^#.*\n', '', (ROOT / 'Dockerfile').read_text(), flags=re.M)
    return [line.split(None, 1) for line in text.replace('\\\n', ' ').splitlines() if line.strip()]


def test_the_dockerfile_is_sound():
    """What hadolint would say: no latest, no sudo, no apt lists left, no root at the end."""
    lines = instructions()
    assert lines[0][0] == 'FROM'
    for keyword, rest in lines:
        assert keyword in {'FROM', 'SHELL', 'RUN', 'WORKDIR', 'COPY', 'ENV', 'USER', 'ENTRYPOINT',
                           'CMD', 'ARG'}, keyword
        if keyword == 'FROM':
            image = rest.split()[0]
            assert image == 'edge' or (':' in image and not image.endswith(':latest'))
        if keyword in ('CMD', 'ENTRYPOINT', 'SHELL'):
            assert isinstance(json.loads(rest), list)
        if keyword == 'WORKDIR':
            assert rest.startswith('/')
        if keyword == 'RUN':
            assert 'sudo' not in rest.split()
            if 'apt-get install' in rest:
                assert '--no-install-recommends' in rest and 'rm -rf /var/lib/apt/lists' in rest
                assert rest.index('apt-get update') < rest.index('apt-get install')
            if 'pip install' in rest:
                assert '--no-cache-dir' in rest and '-r ' in rest
        if keyword == 'COPY':
            source = rest.split()[0]
            assert (ROOT / source).exists(), source
    assert [rest for keyword, rest in lines if keyword == 'USER'][-1] == 'robot'


def test_the_robot_gets_three_libraries():
    lines = [re.split(r'[=; ]', line)[0] for line in
             (ROOT / 'requirements' / 'edge.txt').read_text().splitlines()
             if line and not line.startswith('#')]
    assert set(lines) == {'numpy', 'onnxruntime', 'PyYAML'}
