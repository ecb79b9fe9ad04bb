"""Pages as a browser would parse them, and what in them would be obeyed instead of shown."""

from __future__ import annotations

import re
from html.parser import HTMLParser

HTML_OF_OTHERS = (  # beside `small_work.HOSTILE`: what a sanitiser or a converter of Markdown could let through
    "![c](javascript:window.ran=1)", "[b](<javascript:window.ran=1>)", "[g]: javascript:window.ran=1\n\n[g]",
    "[k](&#106;avascript:window.ran=1)", '[e](x "t\\" onclick=\\"window.ran=1")', '[f](<x" onclick="window.ran=1>)',
    "[d](../figures/report/javascript:window.ran=1)", '<a href="../figures/report/javascript:window.ran=1">l</a>',
    "<a href='../figures/javascript:window.ran=1'>m</a>", '<a href="java\tscript:window.ran=1">n</a>',
    '<a href="&#1;javascript:window.ran=1">o</a>', "[h](vbscript:x)",
    "[i](data:text/html,<script>window.ran=1</script>)",
    "<javascript:window.ran=1>", "&lt;script&gt;window.ran=1&lt;/script&gt;", "`&lt;script&gt;`",
    "```\n<script>window.ran=1</script>\n```", "$$<img src=x onerror=window.ran=1>$$",
    "$`<script>window.ran=1</script>`$",
    '<math><mi//xlink:href="data:x,<script>window.ran=1</script>">', "<iframe srcdoc='<script>parent.ran=1</script>'>",
    "<style>body { display: none }</style>", "<base href='https://example.org/'>",
    "<meta http-equiv=refresh content=0>",
    "<form action='https://example.org/'><button>p</button></form>", "![q](https://example.org/x.png)",
    "<table><caption><b onclick=window.ran=1>c</caption></table>", "| a |\n|---|\n| <script>window.ran=1</script> |",
    "<div style='background: url(https://example.org/x)'>r</div>", "<noscript><p title='</noscript><img src=x onerror="
    "window.ran=1>'>", "<svg><style><img src=x onerror=window.ran=1></style></svg>",
)  # fmt: skip


class Tags(HTMLParser):
    """The start tags of a page, each with its attributes, in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))


def obeyed(page: str, scripts: int = 1) -> list[tuple[str, dict[str, str]]]:
    """The tags of a page that run, load, style or send something, but for its own first script, style and policy."""
    found = Tags(page).found
    wrong = [(tag, attrs) for tag, attrs in found if _obeyed(tag, attrs)]
    for tag, own in (("script", scripts), ("style", 1), ("meta", 4)):
        wrong += [entry for entry in found if entry[0] == tag][own:]
    return wrong


def _obeyed(tag: str, attrs: dict[str, str]) -> bool:
    addresses = [
        re.sub(r"[\x00-\x20]", "", attrs.get(name, "")).lower() for name in ("href", "src", "srcset", "action")
    ]
    return (
        tag in {"iframe", "object", "embed", "base", "form", "link", "math", "noscript", "frame", "foreignobject"}
        or any(name.startswith("on") or name in ("style", "srcdoc") for name in attrs)
        or any(re.match(r"(javascript|vbscript|data:text)", address) for address in addresses)
        or (tag != "a" and any(re.match(r"(https?:)?//", address) for address in addresses))
        or (tag == "img" and not attrs.get("src", "").startswith("data:image/"))
    )
