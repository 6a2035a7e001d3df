"""What every page is made of: templates, styles, scripts, and data that is safe inside of HTML."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from arena_ray.json_files import strict_json
from arena_ray.records import Metric
from arena_ray.results.table import interval

_HERE = Path(__file__).parent
_STATIC = _HERE / "static"

#: Libraries from elsewhere, each with its licence beside it; see ``static/vendor/README.md``.
LIBRARIES = ("d3.min.js", "plot.umd.min.js")

#: What would end a script element, or a line of JavaScript.
_UNSAFE = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}


def embedded_json(content: Any) -> Markup:
    """Return JSON that cannot end the script element in which it stands; parsed, it is what it was."""
    return Markup(strict_json(content, separators=(",", ":")).translate(_UNSAFE))


@functools.cache
def script(name: str) -> Markup:
    """Return a script of the page.

    Args:
        name: Of a file in ``static``.
    """
    text = (_STATIC / name).read_text(encoding="utf-8").strip()
    assert "</script" not in text.lower()
    return Markup(text)


@functools.cache
def content_policy(scripts: tuple[str, ...]) -> str:
    """Return the Content-Security-Policy of a page: these scripts and no others, nothing from any other place."""
    hashes = " ".join(f"'sha256-{_digest(script(name))}'" for name in scripts)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; "
        "media-src 'self' file:; connect-src 'self'; base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def licences() -> dict[str, str]:
    """Return the licence of each library of the page."""
    names = {name: name.split(".")[0] for name in LIBRARIES}
    return {
        script(name).splitlines()[0].lstrip("/ "): (_STATIC / "vendor" / f"{stem}.LICENSE.txt").read_text("utf-8")
        for name, stem in ((f"vendor/{name}", stem) for name, stem in names.items())
    }


@functools.cache
def templates() -> jinja2.Environment:
    """Return the templates; everything that they show is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        value=value_text, interval=interval_text, href=href, duration=duration_text, pretty=pretty_json
    )
    return environment


def render(template: str, scripts: tuple[str, ...], **content: Any) -> str:
    """Return a page.

    Args:
        template: Name of the template.
        scripts: Of ``static``, in the order in which they run.
        **content: What it shows.
    """
    return (
        templates()
        .get_template(template)
        .render(
            style=Markup((_STATIC / "page.css").read_text("utf-8")),
            scripts=[script(name) for name in scripts],
            content_policy=content_policy(scripts),
            licences=licences() if scripts else {},
            **content,
        )
    )


def _figure(metric: Metric, name: str) -> tuple[str, str]:
    """Return a metric's value and its interval (empty without one), as the table in the terminal has them."""
    value, *limits = interval(metric, as_percent=name == "success_rate")
    return value.replace("-", "\N{MINUS SIGN}"), " ".join(limits).replace("-", "\N{MINUS SIGN}")


def value_text(metric: Metric, name: str) -> str:
    """Return a metric's value for people."""
    return _figure(metric, name)[0]


def interval_text(metric: Metric, name: str) -> str:
    """Return a metric's interval for people; empty without one."""
    return _figure(metric, name)[1]


def pretty_json(content: Any) -> str:
    """Return JSON for people."""
    return json.dumps(content, indent=2, ensure_ascii=False)


def href(path: str) -> str:
    """Return a relative address of a file; no path is read as an address of elsewhere."""
    from urllib.parse import quote

    return "./" + quote(path, safe="/")


def duration_text(seconds: float | None) -> str:
    """Return a duration as ``1:02:03``, ``2:03`` or ``4.2 s``."""
    if seconds is None:
        return "\N{EN DASH}"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
