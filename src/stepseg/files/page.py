"""What our HTML pages share: one file that asks for nothing, in which text stays text.

Templates escape every value. Behind that, a policy tells browsers to run our own script, known by
its hash, and nothing else: no other script, no handler in an attribute, no request.
"""

import base64
import hashlib
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup


def render(template: Path, *, script: str, style: str, **values: Any) -> str:
    """Fill a template.

    Args:
        template: a file of Jinja; it holds ``{{ policy }}``, ``<style>{{ style }}</style>`` and
            ``<script>{{ script }}</script>``, without a space more.
        values: shown as text; only `Markup` is taken for HTML.

    """
    environment = Environment(
        loader=FileSystemLoader(template.parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    own = {"policy": policy(script), "script": Markup(script), "style": Markup(style)}
    return environment.get_template(template.name).render(values | own)


def policy(script: str) -> str:
    """The Content-Security-Policy of a page with this script."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # Plots are SVG of matplotlib, whose looks stand in style attributes, which no hash can name.
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
