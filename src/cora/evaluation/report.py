"""The parts of a self-contained HTML report: tables, plots as inline SVG, embedded images, in light and dark mode.

Only arguments called `html`, and the sections and images made here, are inserted as they are. All other text, such as
class and file names, is escaped.
"""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from PIL import Image
from rich.table import Table

from cora.evaluation.bootstrap import FloatArray
from cora.evaluation.matching import RECALL_THRESHOLDS
from cora.files import shipped_text

#: CSS classes of the colours of series in a histogram, in the order of the series.
_COLOURS = ("base", "novel", "all", "other")
#: Longest side of an embedded image in pixels, of which a page shows about 0.7, and its JPEG quality.
PICTURE_SIDE, _QUALITY = 480, 72


@dataclass(frozen=True)
class Section:
    """A section of a report: its heading, a note on how to read it, and its content as HTML."""

    title: str
    note: str
    html: str


def page(title: str, facts: Mapping[str, str], sections: Sequence[Section]) -> str:
    """The whole file; `facts` (name -> text) stand at its top."""
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{_whole_options(text)}</dd>" for name, text in facts.items())
    body = "".join(
        f'<section><h2>{escape(part.title)}</h2><p class="note">{escape(part.note)}</p>{part.html}</section>'
        for part in sections
    )
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{escape(title)}</title>'
        f"<style>\n{shipped_text('evaluation/data/report.css')}</style></head>\n<body><h1>{escape(title)}</h1><dl>{listed}</dl>\n{body}</body></html>\n"
    )


def _whole_options(text: str) -> str:
    """The escaped text, in which options of a command stay in one line."""
    return re.sub(r"(?<!\S)-\S+", lambda option: f'<span class="option">{option[0]}</span>', escape(text))


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, text_columns: Sequence[int] = ()) -> str:
    """A table whose first column names the rows; `text_columns`, indices from 0, hold words and may wrap."""

    def cells(tag: str, row: Sequence[str]) -> str:
        kind = (' class="text"' if place in text_columns else "" for place in range(len(row)))
        return "".join(f"<{tag}{of}>{escape(cell)}</{tag}>" for of, cell in zip(kind, row, strict=True))

    heads = cells("th", head)
    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>'


def of_table(shown: Table) -> str:
    """A table of rich, which commands print, as HTML."""
    columns = [[str(cell) for cell in column.cells] for column in shown.columns]
    return table([str(column.header) for column in shown.columns], list(zip(*columns, strict=True)))


def curves(lines: Mapping[str, FloatArray]) -> str:
    """A plot of precision over recall; `lines`: group -> precision [101]."""
    left, top, width, height = 66, 12, 560, 300
    parts = []
    for step in range(6):
        x, y, share = left + width * step / 5, top + height * (1 - step / 5), f"{20 * step}"
        parts.append(f'<path class="grid" d="M{left} {y:.1f}h{width}M{x:.1f} {top}v{height}"/>')
        parts.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{share}</text>')
        parts.append(f'<text x="{x:.1f}" y="{top + height + 18}" text-anchor="middle">{share}</text>')
    for group, precision in lines.items():
        points = zip(left + width * RECALL_THRESHOLDS, top + height * (1 - np.clip(precision, 0, 1)), strict=True)
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        parts.append(f'<path class="curve {_colour(group)}" d="M{path}"/>')
    label = f'<text x="{left + width / 2}" y="{top + height + 36}" text-anchor="middle">recall, %</text>'
    label += f'<text transform="translate(18 {top + height / 2}) rotate(-90)" text-anchor="middle">precision, %</text>'
    box = f'viewBox="0 0 {left + width + 20} {top + height + 44}"'
    svg = f'<svg class="plot" {box} role="img" aria-label="precision over recall">'
    return f"{_key(list(lines))}{svg}{''.join(parts)}{label}</svg>"


def bars(values: Mapping[str, float], group_of: Mapping[str, str]) -> str:
    """A horizontal bar for each class, in the given order and coloured by its group.

    Args:
        values: class name -> value in 0..1.
        group_of: class name -> group; "all" for classes without one.
    """
    left, width, row = 190, 230, 18
    parts = []
    for place, (name, value) in enumerate(values.items()):
        y, length = place * row, max(width * value, 0.5)
        parts.append(
            f'<text x="{left - 8}" y="{y + 13}" text-anchor="end">{escape(_short(name))}</text>'
            f'<rect class="bar {_colour(group_of.get(name, "all"))}" x="{left}" y="{y + 3}" width="{length:.1f}" '
            f'height="{row - 5}"/><text x="{left + length + 6:.1f}" y="{y + 13}">{100 * value:.1f}</text>'
        )
    box = f'viewBox="0 0 {left + width + 50} {max(len(values) * row, 1)}"'
    groups = list(dict.fromkeys(group_of.get(name, "all") for name in values))
    return f'{_key(groups)}<svg class="bars" {box} role="img" aria-label="a bar for each class">{"".join(parts)}</svg>'


def histogram(shares: Mapping[str, Sequence[float]], *, label: str) -> str:
    """Histograms of up to four series, side by side, over equal bins of 0..1.

    Args:
        shares: name of a series -> share in percent of each bin.
        label: label of the horizontal axis.
    """
    left, top, width, height = 44, 12, 560, 220
    # A multiple of 5, so that the labels of the 5 steps are whole numbers.
    highest = 5 * max(1, math.ceil(max((max(values) for values in shares.values()), default=0) / 5))
    parts = []
    for step in range(6):
        x, y = left + width * step / 5, top + height * (1 - step / 5)
        parts.append(f'<path class="grid" d="M{left} {y:.1f}h{width}"/>')
        parts.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{highest * step // 5}</text>')
        parts.append(f'<text x="{x:.1f}" y="{top + height + 18}" text-anchor="middle">{step / 5:.1f}</text>')
    colours = dict(zip(shares, _COLOURS, strict=False))
    for place, (name, values) in enumerate(shares.items()):
        room = width / len(values)
        bar = 0.85 * room / len(shares)
        for index, value in enumerate(values):
            tall = height * value / highest
            parts.append(
                f'<rect class="bar {colours[name]}" x="{left + index * room + place * bar:.1f}" '
                f'y="{top + height - tall:.1f}" width="{bar:.1f}" height="{tall:.1f}"/>'
            )
    text = f'<text x="{left + width / 2}" y="{top + height + 36}" text-anchor="middle">{escape(label)}</text>'
    box = f'viewBox="0 0 {left + width + 20} {top + height + 44}"'
    key = "".join(f'<span class="{colours[name]}"><i></i>{escape(name)}</span>' for name in shares)
    svg = f'<svg class="plot" {box} role="img" aria-label="histogram">'
    return f'<p class="key">{key}</p>{svg}{"".join(parts)}{text}</svg>'


def picture(image: Image.Image, caption: str) -> str:
    """An image, embedded as a small JPEG, with its caption."""
    small = image.convert("RGB")
    small.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=_QUALITY)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    size = f'width="{small.width}" height="{small.height}"'
    source = f'src="data:image/jpeg;base64,{data}"'
    return f'<figure><img {source} {size} alt="{escape(caption)}"><figcaption>{escape(caption)}</figcaption></figure>'


def folded(summary: str, html: str) -> str:
    """Content that shows only its summary until a reader opens it."""
    return f"<details><summary>{escape(summary)}</summary>{html}</details>"


def gallery(pictures: Sequence[str]) -> str:
    """Images made by `picture`, in as many columns as fit."""
    return f'<div class="pictures">{"".join(pictures)}</div>'


def _key(groups: Sequence[str]) -> str:
    names = "".join(f'<span class="{_colour(group)}"><i></i>{escape(group)}</span>' for group in groups)
    return f'<p class="key">{names}</p>'


def _colour(group: str) -> str:
    return group if group in ("novel", "base", "all") else "other"


def _short(name: str) -> str:
    return name if len(name) <= 22 else name[:21] + "…"
