"""One page of pictures and numbers in one file: nothing is loaded from anywhere else."""

import base64
import io
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from vitjax.pictures.sheet import DPI


class Picture(NamedTuple):
    """alt: what is to be seen, for those who do not see it. caption: how to read it."""

    image: Path | np.ndarray  # a PNG file, or uint8 [H, W, 3]
    alt: str
    caption: str = ""


class Table(NamedTuple):
    """The first cell of a row names it. Numbers are shown with four digits."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str | int | float | None]]


class Section(NamedTuple):
    heading: str
    paragraphs: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()


def page(title: str, sections: Sequence[Section], summary: str = "") -> str:
    """A whole HTML document: title, contents, then each section: text, tables, pictures.

    All text is plain: every name is escaped. Light or dark as the reader's system; one column on a
    phone, where wide tables and pictures scroll in their own box, by touch or by arrow keys.
    Raises ValueError for a picture without alt text.
    """
    names = [anchor(place, section.heading) for place, section in enumerate(sections, start=1)]
    links = "".join(
        f'<li><a href="#{name}">{escape(section.heading)}</a></li>'
        for name, section in zip(names, sections, strict=True)
    )
    body = "\n".join(_section(name, s) for name, s in zip(names, sections, strict=True))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<style>{STYLE}</style>
</head>
<body>
<a class="skip" href="#content">Skip to the pictures</a>
<header>
<h1>{escape(title)}</h1>
{_paragraph(summary)}
<nav aria-label="Contents"><ul>{links}</ul></nav>
</header>
<main id="content" tabindex="-1">
{body}
</main>
</body>
</html>
"""


def anchor(place: int, heading: str) -> str:
    """A name for a section that can stand in an address; its place keeps equal headings apart."""
    return f"s{place}-{re.sub(r'[^a-z0-9]+', '-', heading.lower()).strip('-')}"


def _section(name, section):
    parts = [
        *map(_paragraph, section.paragraphs),
        *map(_table, section.tables),
        *map(_picture, section.pictures),
    ]
    heading = f'<h2 id="{name}-heading">{escape(section.heading)}</h2>'
    inside = "\n".join([heading, *parts])
    return f'<section id="{name}" aria-labelledby="{name}-heading">\n{inside}\n</section>'


def _paragraph(text):
    return f"<p>{escape(text)}</p>" if text else ""


def _table(table):
    columns = list(zip(*table.rows, strict=True)) or [()] * len(table.header)
    numeric = [any(map(_is_number, column)) for column in columns]
    kinds = ['class="number"' if right else 'class="text"' for right in numeric]
    head = "".join(
        f'<th scope="col" {kind}>{escape(name)}</th>'
        for kind, name in zip(kinds, table.header, strict=True)
    )
    body = ""
    for first, *rest in table.rows:
        cells = "".join(
            f"<td {kind}>{escape(_cell(cell))}</td>"
            for kind, cell in zip(kinds[1:], rest, strict=True)
        )
        body += f'<tr><th scope="row">{escape(_cell(first))}</th>{cells}</tr>'
    return (
        f'<div class="scroll" tabindex="0" role="group" aria-label="{escape(table.caption)}">'
        f"<table><caption>{escape(table.caption)}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _is_number(cell):
    return isinstance(cell, int | float | np.number)


def _cell(cell):
    """Whole numbers whole, others with four significant digits, None as a dash."""
    if cell is None:
        return "–"
    if isinstance(cell, float | np.floating):
        return f"{cell:.4g}"
    return str(cell)


def _picture(picture):
    if not picture.alt.strip():
        raise ValueError(f"a picture has alt={picture.alt!r}: expected what is to be seen on it")
    file = isinstance(picture.image, Path)
    image = Image.open(picture.image) if file else Image.fromarray(picture.image)
    width, height = image.size
    shown = round(width * 96 / DPI) if file else width  # CSS counts 96 pixels to the inch
    caption = f"<figcaption>{escape(picture.caption)}</figcaption>" if picture.caption else ""
    return (
        '<figure><div class="scroll paper" tabindex="0" role="group" aria-label="picture">'
        f'<img src="{_inline(image)}" width="{width}" height="{height}" '
        f'alt="{escape(picture.alt)}" style="--width: {shown}px"></div>{caption}</figure>'
    )


def _inline(image):
    """As WebP: photos take a tenth of their PNG, and maps keep their edges."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "WEBP", quality=90)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


# Figures are drawn on white: they lie on paper in the dark too. They shrink to the page, but no
# further than can be read; then they scroll.
STYLE = """
:root {
  color-scheme: light dark;
  --ground: #fbfaf8; --ink: #1f2933; --soft: #55616d; --line: #dcdfe3; --card: #ffffff;
  --link: #14588a; --stripe: #f1f3f5;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #14181d; --ink: #e6e9ec; --soft: #a5b0ba; --line: #333b44; --card: #1b2127;
    --link: #8cc4f0; --stripe: #20272e;
  }
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }
@media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto; } }
body {
  margin: 0 auto; max-width: 76rem; padding: 1.5rem clamp(1rem, 4vw, 3rem) 4rem;
  background: var(--ground); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
}
h1 { font-size: clamp(1.6rem, 4vw, 2.3rem); line-height: 1.2; margin: 0.5rem 0; }
h2 { font-size: 1.35rem; margin: 0 0 0.5rem; padding-top: 1.2rem; }
h1, h2, p, li { overflow-wrap: anywhere; }
p, figcaption { max-width: 44rem; }
a { color: var(--link); text-underline-offset: 0.2em; }
:focus-visible { outline: 3px solid var(--link); outline-offset: 3px; border-radius: 4px; }
main:focus { outline: none; }
.skip { position: absolute; left: -100vw; }
.skip:focus { position: static; }
nav ul {
  list-style: none; display: flex; flex-wrap: wrap; gap: 0.5rem; padding: 0; margin: 1.2rem 0 2rem;
}
nav a {
  display: block; padding: 0.45rem 0.8rem; border: 1px solid var(--line); border-radius: 1.5rem;
  background: var(--card); text-decoration: none;
}
nav a:hover { border-color: var(--link); }
section { border-top: 1px solid var(--line); margin-bottom: 2.5rem; }
figure { margin: 1.5rem 0; }
figcaption { color: var(--soft); font-size: 0.92rem; margin-top: 0.5rem; }
.scroll { overflow-x: auto; max-width: 100%; }
.paper {
  width: fit-content; padding: 0.6rem;
  background: #ffffff; border: 1px solid var(--line); border-radius: 8px;
}
.paper img { display: block; height: auto; width: var(--width); margin: 0 auto;
  max-width: max(100%, calc(0.85 * var(--width)));
}
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 1rem 0; }
caption { text-align: left; color: var(--soft); font-size: 0.92rem; padding-bottom: 0.4rem; }
th, td { padding: 0.4rem 0.9rem; text-align: left; border-bottom: 1px solid var(--line); }
thead th { border-bottom: 2px solid var(--line); }
tbody tr:nth-child(even) { background: var(--stripe); }
tbody th { font-weight: 500; }
.number { text-align: right; white-space: nowrap; }
@media print { .scroll { overflow: visible; } .paper img { width: 100%; } nav { display: none; } }
"""
