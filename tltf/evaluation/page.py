"""What all pages have in common: the style, the filters, and that nothing printed is interpreted.

Every value goes through :func:`tltf.errors.printable` and then through Jinja2's autoescape.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from tltf.errors import printable
from tltf.evaluation.summary import shown

_FOLDER = Path(__file__).parent


def rendered(template: str, view: Mapping[str, Any]) -> str:
    """A page as text; save it as UTF-8."""
    return _template(template).render(style=_style(), **view)


@functools.cache
def _template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    environment.filters["percent"] = lambda v, digits=1: (
        "–" if v is None else f"{100 * v:.{digits}f} %"
    )
    environment.filters["decimal"] = lambda v, digits=3: "–" if v is None else f"{v:.{digits}f}"
    environment.filters["shown"] = lambda value, name: shown(name, value)
    environment.filters["count"] = lambda v: f"{v:,}"
    return environment.from_string((_FOLDER / name).read_text(encoding="utf-8"))


@functools.cache
def _style() -> Markup:
    """Our own file, which is no value of anybody's."""
    return Markup((_FOLDER / "page.css").read_text(encoding="utf-8"))


def _finalize(value: object) -> object:
    """Jinja2 calls this on every printed value, before it escapes it."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value
