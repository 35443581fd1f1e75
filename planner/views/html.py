"""Content as one HTML page that needs nothing else: no script, no font, no picture from elsewhere."""

from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined

from planner.diagnostics import escaped
from planner.views.content import Section

GENERATOR = "gptplan report"
"""By which a page is known."""


def is_page(content: bytes) -> bool:
    """Whether a file holds a page that gptplan wrote."""
    return f'<meta name="generator" content="{GENERATOR}">'.encode() in content


def page(title: str, lead: str, sections: Sequence[Section], *, made_by: str, digest: str) -> str:
    """A page under a title: a first sentence, the sections, and what it was made of. All text is escaped."""
    loader = PackageLoader("planner.views")
    environment = Environment(
        loader=loader,
        autoescape=True,
        finalize=lambda value: escaped(value) if type(value) is str else value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["kind"] = lambda block: type(block).__name__
    environment.filters["capitalized"] = capitalized
    environment.filters["percent"] = "{:.3%}".format
    template = environment.get_template("page.html.j2")
    return template.render(
        generator=GENERATOR, title=title, lead=lead, sections=sections, made_by=made_by, digest=digest
    ).lstrip()


def capitalized(words: str) -> str:
    """Words as the beginning of a sentence; letters behind the first stay as they are."""
    return words[:1].upper() + words[1:]
