# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Make docs/notebooks/own_model.ipynb of the tutorial of that name: `python tools/notebook.py`.

Prose becomes cells of text, Python blocks become cells of code, and other blocks stay in the text.
A test checks that the notebook is that of the page.
"""

import json
import re
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent / 'docs'
PAGE, NOTEBOOK = DOCS / 'tutorials' / 'own_model.md', DOCS / 'notebooks' / 'own_model.ipynb'


def notebook(page: str) -> str:
    """Return the notebook of a page in Markdown, as text."""
    cells: list[dict[str, object]] = []
    for i, part in enumerate(re.split(r'^```python\n(.*?)^```\n', page, flags=re.M | re.S)):
        source = part.strip('\n')
        if not source or source.startswith('The notebook `'):
            continue
        cell: dict[str, object] = {
            'cell_type': 'code' if i % 2 else 'markdown', 'id': f'cell-{len(cells)}',
            'metadata': {}, 'source': source.splitlines(keepends=True)}
        if i % 2:
            cell |= {'execution_count': None, 'outputs': []}
        cells.append(cell)
    kernel = {'display_name': 'Python 3', 'language': 'python', 'name': 'python3'}
    return json.dumps({'cells': cells, 'metadata': {'kernelspec': kernel}, 'nbformat': 4,
                       'nbformat_minor': 5}, indent=1) + '\n'


if __name__ == '__main__':
    NOTEBOOK.parent.mkdir(exist_ok=True)
    NOTEBOOK.write_text(notebook(PAGE.read_text('utf-8')), 'utf-8')
