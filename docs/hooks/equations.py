"""Equations of the documentation as MathML, converted when the site is built.

Pages hold TeX between dollars. Browsers render MathML themselves, so that the site needs no script
and no network.
"""

import html
import re

from latex2mathml.converter import convert

EQUATION = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<tex>.*?)\\[)\]]</(?P=tag)>', re.DOTALL
)
"""What `pymdownx.arithmatex` leaves of one equation with `generic: true`."""


def on_page_content(content: str, **_: object) -> str:
    """Replace the TeX of a rendered page; MkDocs calls it."""
    return EQUATION.sub(_to_mathml, content)


def _to_mathml(match: re.Match[str]) -> str:
    block = match["tag"] == "div"
    mathml = convert(html.unescape(match["tex"]), display="block" if block else "inline")
    return f'<div class="equation">{mathml}</div>' if block else mathml
