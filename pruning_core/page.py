# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Pieces of one self-contained HTML page: texts in, escaped HTML out.

The page needs no network and no script. Styles and pictures stand in it, it follows the reader's
light or dark setting, and it is laid out for a phone as well as for a wide screen. Pictures are
drawn on white; here their colours become those of the page (`render`).
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Callable, Sequence
from itertools import count

from pruning_core.figures import NARROW, WIDE

_CSS = """
:root{color-scheme:light dark;--paper:#fff;--ink:#222;--line:#444;--soft:#666;--limit:#8a8a8a;
--faint:#bbb;--grid:#e4e4e4;--shade:#f4f4f4;--removed:#e6d5c3;--dense:#d9741a;--pruned:#2166ac;
--good:#1a7f37;--bad:#b3261e}
@media(prefers-color-scheme:dark){:root{--paper:#15181c;--ink:#e6e6e6;--line:#c4c8cc;
--soft:#a3a9b0;--limit:#8d949b;--faint:#5b626a;--grid:#30363d;--shade:#22272e;--removed:#5a4a3a;
--dense:#f0923e;--pruned:#6aa9e9;--good:#56c271;--bad:#ff8a80}}
*{box-sizing:border-box}
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);
max-width:76rem;margin:0 auto;padding:1rem 1.2rem 3rem}
h1{font-size:1.5rem;line-height:1.25;margin:.6rem 0 .2rem;overflow-wrap:anywhere}
h2{font-size:1.1rem;margin:2rem 0 .5rem}
p{max-width:46rem;margin:.4rem 0}p.lead{font-size:1.1rem}
a{color:var(--pruned)}nav{margin:.6rem 0;display:flex;flex-wrap:wrap;gap:0 1rem}
table{border-collapse:collapse;margin:.5rem 0;max-width:100%}
td,th{padding:.25rem 1rem .25rem 0;text-align:left;vertical-align:top;
border-bottom:1px solid var(--grid);font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
th{font-weight:600;overflow-wrap:normal}td.n,th.n{text-align:right;white-space:nowrap}td:last-child,th:last-child{
padding-right:0}
figure{margin:.8rem 0;min-width:0}figcaption{color:var(--soft);font-size:.85rem;max-width:46rem}
figure svg,figure img{display:block;max-width:100%;height:auto}
figure img{background:#fff;border-radius:4px}
td:first-child{overflow-wrap:break-word}
.row{display:flex;flex-wrap:wrap;gap:0 2.5rem;align-items:flex-start}
.row>*{flex:0 1 auto;min-width:0;max-width:100%}.row figcaption{max-width:26rem}
.narrow{display:none}
.small{color:var(--soft);font-size:.85rem}
.pass{color:var(--good);white-space:nowrap}.fail{color:var(--bad);font-weight:600}
code,pre{background:var(--shade);border-radius:3px;font-size:.85em}
code{padding:.1rem .3rem;overflow-wrap:anywhere}
pre{padding:.7rem;white-space:pre-wrap;overflow-wrap:anywhere}
summary{cursor:pointer;margin:.8rem 0 .3rem}
@media(max-width:44rem){body{font-size:15px;padding:.6rem 1rem 2rem}
table{font-size:.82rem}td,th{padding-right:.5rem}
td.n{white-space:normal;overflow-wrap:normal}.wide{display:none}.narrow{display:block}}
@media print{body{max-width:none}}
"""
# What a figure is drawn with, and what it becomes in a page.
_COLOURS = {
    '#ffffff': 'paper', '#000000': 'ink', '#222222': 'ink', '#444444': 'line', '#555555': 'soft',
    '#666666': 'soft', '#8a8a8a': 'limit', '#bbbbbb': 'faint', '#cccccc': 'grid',
    '#e4e4e4': 'grid', '#e6d5c3': 'removed', '#d9741a': 'dense', '#2166ac': 'pruned',
}


def text(value: object) -> str:
    """Escape anything for HTML."""
    return html.escape(str(value))


def code(value: object) -> str:
    """Something to type, or a name of the program."""
    return f'<code>{text(value)}</code>'


def section(title: str, *parts: str) -> str:
    """A heading with what stands below it; nothing where nothing does."""
    body = '\n'.join(part for part in parts if part)
    if not body:
        return ''
    return f'<section><h2 id="{_anchor(title)}">{text(title)}</h2>\n{body}</section>'


def table(rows: Sequence[Sequence[str]], *, numeric: bool = True) -> str:
    """Rows of plain text; the first is the header.

    Args:
        rows: equally long.
        numeric: right-align the columns after the first, where there are more than two.
    """
    return markup_table([[text(cell) for cell in row] for row in rows], numeric=numeric)


def markup_table(rows: Sequence[Sequence[str]], *, numeric: bool = True) -> str:
    """`table` whose cells are HTML already."""
    def cells(row: Sequence[str], tag: str) -> str:
        right = ' class="n"' if numeric and len(row) > 2 else ''
        return ''.join(f'<{tag}{right if i else ""}>{cell}</{tag}>' for i, cell in enumerate(row))

    return ('<table><thead><tr>' + cells(rows[0], 'th') + '</tr></thead><tbody>'
            + ''.join(f'<tr>{cells(row, "td")}</tr>' for row in rows[1:]) + '</tbody></table>')


def figure(caption: str, drawing: str | Callable[[float], str]) -> str:
    """A picture with its caption.

    Args:
        caption: one sentence; what one sees and how to read it.
        drawing: an SVG element; or what draws one for a width in inches, for pictures whose
            writing would be too small where they are shrunk to a phone.
    """
    if callable(drawing):
        body = (f'<div class="wide">{drawing(WIDE)}</div>'
                f'<div class="narrow">{drawing(NARROW)}</div>')
    else:
        body = drawing
    return f'<figure>{body}<figcaption>{text(caption)}</figcaption></figure>'


def image(caption: str, svg: bytes) -> str:
    """A finished SVG file that somebody else made: shown as an image, in which no script runs."""
    data = base64.b64encode(svg).decode()
    return (f'<figure><img alt="{text(caption)}" src="data:image/svg+xml;base64,{data}">'
            f'<figcaption>{text(caption)}</figcaption></figure>')


def row(*parts: str) -> str:
    """Parts beside each other where there is room."""
    return '<div class="row">' + '\n'.join(f'<div>{part}</div>' for part in parts) + '</div>'


def folded(summary: str, body: str) -> str:
    """Something long, behind a line that opens it."""
    return f'<details><summary>{text(summary)}</summary>{body}</details>'


def render(title: str, body: str) -> str:
    """The whole page: with links to its sections, and pictures in the colours of the page."""
    headings = re.findall(r'<h2 id="([^"]*)">(.*?)</h2>', body)
    links = ''.join(f'<a href="#{anchor}">{name}</a>' for anchor, name in headings)
    number = count(1)
    body = re.sub(r'<svg\b.*?</svg>', lambda m: _themed(m.group(), f'p{next(number)}-'), body,
                  flags=re.DOTALL)
    return (f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<meta name="viewport" content="width=device-width,initial-scale=1">'
            f'<title>{text(title)}</title><style>{_CSS}</style></head>\n<body>'
            f'<h1>{text(title)}</h1>\n<nav>{links}</nav>\n{body}\n</body></html>\n')


def _anchor(title: str) -> str:
    return re.sub(r'\W+', '-', title.lower()).strip('-')


def _themed(svg: str, prefix: str) -> str:
    """Give a picture the page's colours, and names of its own beside other pictures."""
    svg = re.sub(r'(fill|stroke): (#[0-9a-f]{6})', lambda m: (
        f'{m[1]}: var(--{_COLOURS[m[2]]})' if m[2] in _COLOURS else m[0]), svg)
    svg = re.sub(r'\bid="', f'id="{prefix}', svg)
    return re.sub(r'(href="|url\()#', rf'\1#{prefix}', svg)
