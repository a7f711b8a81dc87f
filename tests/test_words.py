"""The language of code, errors and docs: plain sentences, and one word for one thing (CONTRIBUTING.md, "Words")."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: Patterns that a reader stumbles over. A question may open with a pronoun.
STUMBLES = {
    "opens with a pronoun and has no subject": (
        r"(?:^|[.;!]\s+)(?:Who|Whoever|Whom|Whose|What|Of which|But for)\s(?![^.]*\?)"
    ),
    "says 'is no'": r"\b(?i:(?<!there )(?:is|are|was|were) no)\s(?!longer\b|(?:more|fewer|less) than\b|later\b)",
    "uses a word that CONTRIBUTING.md replaces": (
        r"\b(?i:so many|anew|be it|whoever|whomever|befalls?|befell|but for|(?:is|are|was|were|be|been) told)\b"
    ),
    "uses a retired name": r"\b(?:placeVersion|catchup|backbone|LookUp|Unfit|ledger|witness)\b",
}

#: Lines that may stay: a part of the file's path, and a part of the line.
ALLOWED = [
    ("CONTRIBUTING.md", "|"),  # the table itself
    ("tests/test_words.py", ""),
]


_COMMENT = re.compile(r"(?:^|\s)#[#: ]*(.*)$")


def texts_of(path: Path) -> list[tuple[int, str]]:
    """What a file shows to people, line by line: of Python its comments and texts, of other files everything."""
    source = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        return list(enumerate(source.splitlines(), 1))
    # A regular expression finds comments a hundred times faster than `tokenize`. It also finds parts of texts.
    lines = enumerate(source.splitlines(), 1)
    found = [(number, comment[1]) for number, line in lines if (comment := _COMMENT.search(line))]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            found += [(node.lineno + at, line.strip()) for at, line in enumerate(node.value.splitlines())]
    return found


def stumbles_in(texts: list[tuple[int, str]]) -> list[tuple[int, str, str]]:
    return [
        (number, what, text) for number, text in texts for what, pattern in STUMBLES.items() if re.search(pattern, text)
    ]


def tracked() -> list[str]:
    command = ["git", "ls-files", "*.py", "*.md", "*.toml", "*.ipynb"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="lists the files of a git checkout")
def test_texts_are_plain():
    found = [
        f"{name}:{number}: {what}: {text.strip()[:100]}"
        for name in tracked()
        for number, what, text in stumbles_in(texts_of(ROOT / name))
        if not any(part in name and phrase in text for part, phrase in ALLOWED)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "text",
    [
        "Who gave this?  Whoever has it is told.",
        "What the client sends.",
        "There it is no name.",
        "so many users",
        "the backbone",
    ],
)
def test_check_finds_stumbles(text):
    assert stumbles_in([(1, text)])


@pytest.mark.parametrize("text", ["What does a message cost?", "There is no such file.", "is no longer a member"])
def test_check_accepts_plain_texts(text):
    assert not stumbles_in([(1, text)])
