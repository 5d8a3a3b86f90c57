"""What a card says of an architecture and its paper: the top of the file of its family says it."""

import re
import sys

from .. import models

_ABOUT = """
{what}

Paper: {paper}
"""

_PAPER = """@misc{{{key},
  title  = {{{{{title}}}}},
  author = {{{author}}},
  year   = {{{year}}},
  url    = {{{url}}}
}}
"""


def _paper(arch: str) -> tuple[str, str]:
    """What the architecture is, and its paper, as its family's file says at its top; empty for models of others."""
    doc = sys.modules[models.entrypoints()[arch].__module__].__doc__ if arch in models.entrypoints() else None
    first, _, rest = (doc or "").strip().partition("\n\nPaper: ")
    return first, " ".join(rest.partition("\nWhat differs:")[0].partition("\n\n")[0].split())


def about(arch: str) -> str:
    """What a model's architecture is, with its paper, as a paragraph of the card; empty for models of others."""
    what, paper = _paper(arch)
    return _ABOUT.format(what=what, paper=paper) if paper else ""


def bibtex(arch: str) -> str:
    """The BibTeX entry of the paper of a model's architecture; empty for models of others."""
    found = re.match(r'(?P<author>[^"]+), "(?P<title>[^"]+)" \((?P<year>\d{4})\), (?P<url>https://[^\s,]+)', _paper(arch)[1])
    if found is None:
        return ""
    key = f"{found['author'].split()[0].lower()}{found['year']}"
    return _PAPER.format(key=key, **found.groupdict() | dict(author=found["author"].replace(" et al.", " and others")))
