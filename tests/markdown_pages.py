"""Parses the Markdown pages of the repository: code blocks, links, anchors and code spans."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from . import REPOSITORY

PAGES = sorted(
    [
        *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
        *REPOSITORY.glob("docs/**/*.md"),
        *REPOSITORY.glob("examples/**/*.md"),
    ]
)
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[\w-]*) *$")
MARKER = re.compile(r"^<!-- (?P<name>[\w ]+): (?P<value>[\w ]+) -->$")
LINK = re.compile(r"!?\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")
SPAN = re.compile(r"`([^`\n]+)`")
HEADING = re.compile(r"^#{1,6} +(.+?) *$")


def page_name(path: Path) -> str:
    """How a test names a page."""
    return path.relative_to(REPOSITORY).as_posix()


@dataclass(frozen=True)
class Block:
    """A fenced block of code.

    Attributes:
        page: the file that holds it.
        line: number of its first line of code.
        language: what follows the fence.
        code: its lines.
        marker: (name, value) of a comment such as `<!-- needs: data -->` on the line before the fence.
    """

    page: Path
    line: int
    language: str
    code: str
    marker: tuple[str, str] | None

    def __str__(self) -> str:
        return f"{page_name(self.page)}:{self.line}"

    @property
    def needs(self) -> str | None:
        """What the block needs that the tests do not have: data, a download or a network."""
        return self.marker[1] if self.marker and self.marker[0] == "needs" else None


def blocks_of(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page."""
    lines = page.read_text(encoding="utf-8").splitlines()
    start, language, marker = None, "", None
    for number, line in enumerate(lines):
        fence = FENCE.match(line)
        if start is None and fence:
            before = MARKER.match(lines[number - 1].strip()) if number else None
            start, language = number + 1, fence["language"]
            marker = (before["name"], before["value"]) if before else None
        elif start is not None and line.strip() == "```":
            yield Block(page, start + 1, language, "\n".join(lines[start:number]) + "\n", marker)
            start = None
    if start is not None:
        raise ValueError(f"{page}: the block of line {start} has no end")


def prose_of(page: Path) -> str:
    """The page without its fenced blocks; the lines keep their numbers."""
    kept, inside = [], False
    for line in page.read_text(encoding="utf-8").splitlines():
        if FENCE.match(line) or (inside and line.strip() == "```"):
            inside = not inside
            kept.append("")
        else:
            kept.append("" if inside else line)
    return "\n".join(kept)


def links_of(page: Path) -> list[str]:
    """Targets of the links and pictures of a page."""
    return [found["target"] for found in LINK.finditer(SPAN.sub("", prose_of(page)))]


def spans_of(page: Path) -> list[str]:
    """The pieces of code within the text of a page."""
    return SPAN.findall(prose_of(page))


def anchors_of(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and MkDocs make them."""
    headings = (HEADING.match(line) for line in prose_of(page).splitlines())
    plain = (re.sub(r"[^\w\s-]", "", found[1].lower()).strip() for found in headings if found)
    return {re.sub(r"\s", "-", heading) for heading in plain}


def commands_of(block: Block) -> Iterator[list[str]]:
    """The words of each command of a block of shell, continued lines and lists of commands taken apart."""
    for line in block.code.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="&;|")
        lexer.whitespace_split, lexer.commenters = True, "#"
        words: list[str] = []
        for word in lexer:
            if word in ("&&", ";", "|", "&", "||"):
                yield words
                words = []
            else:
                words.append(word)
        if words:
            yield words
