"""The documentation site, which `make docs` builds into build/site: documents, API reference and executed notebooks.

The source folder is the repository's top, so that README.md and all links between documents stay as they are.
"""

import sys
from pathlib import Path
from typing import Any

from pygments.lexers.special import TextLexer

sys.path.insert(0, str(Path(__file__).parent))

project, author, copyright = "MC3", "the MC3 authors", "2026, the MC3 authors"
extensions = ["myst_parser", "autodoc2"]
root_doc = "README"
include_patterns = ["*.md", "docs/*.md", "benchmarks/*.md", "data/*/README.md", "build/api/**"]
html_theme, html_title = "furo", "MC3"
html_extra_path = ["../figures"]  # report/ has the executed notebooks as pages
html_copy_source = False

myst_heading_anchors = 3
suppress_warnings = ["autodoc2.dup_item"]  # mc3.cli has a function with the name of its module

autodoc2_packages = ["mc3"]  # relative to the source folder
autodoc2_output_dir = "build/api"
autodoc2_render_plugin = "myst"
autodoc2_docstring_parser_regexes = [(r".*", "docstrings")]
autodoc2_hidden_objects = {"private", "inherited", "dunder"}
autodoc2_skip_module_regexes = [r"mc3\.cli.*"]  # the commands are in `mc3 --help`

CONTENTS = """
```{toctree}
:hidden:
:caption: Use
docs/own_video
docs/benchmark
docs/leaderboard
docs/ego4d
docs/epic
docs/real_audio
```
```{toctree}
:hidden:
:caption: Understand
docs/notebooks
docs/training
docs/reliability
docs/glossary
SECURITY
LOG
benchmarks/README
data/release/README
data/foreign/README
```
```{toctree}
:hidden:
:caption: Extend
CONTRIBUTING
CHANGELOG
API reference <build/api/index>
```
<p><a href="report/index.html">The report: the executed notebooks</a></p>
"""


def add_contents(_: Any, name: str, source: list[str]) -> None:
    """Give README.md the site's table of contents, which GitHub would show as code."""
    if name == root_doc:
        source[0] += CONTENTS


def write_index(app: Any, error: Exception | None) -> None:
    """README.html is also the site's index.html."""
    if error is None:
        Path(app.outdir, "index.html").write_bytes(Path(app.outdir, f"{root_doc}.html").read_bytes())


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.add_lexer("mermaid", TextLexer)  # shown as text; GitHub draws it
    app.connect("source-read", add_contents)
    app.connect("build-finished", write_index)
