"""How the documentation site reads docstrings: as Markdown, with each doctest as a block of code."""

import re

from docutils.nodes import document
from myst_parser.parsers.sphinx_ import MystParser

DOCTEST = re.compile(r"(?:^ *>>> .*\n?(?: *\S.*\n?)*)+", re.MULTILINE)  # up to an empty line


class Parser(MystParser):
    """MyST's parser; a doctest would otherwise be three nested quotations."""

    def parse(self, inputstring: str, document: document) -> None:
        """Parse a docstring."""
        fenced = DOCTEST.sub(lambda found: f"```pycon\n{found[0].rstrip()}\n```\n", inputstring)
        super().parse(fenced, document)
