"""The pages: every Python block runs, every link leads somewhere."""

import doctest
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [path for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))] if path.exists()]
LINKED = sorted({*PAGES, *ROOT.glob("*.md"), *(ROOT / "protocols").rglob("*.md")})
MOST_UNTESTED = 2
MOST_COLUMNS = 88
FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,}|~{3,})(?P<language>[^\n`]*)$")
NO_TEST = re.compile(r"^\s*<!--\s*no test:\s*\S.*-->\s*$")
LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(\s*<?(?P<target>[^()\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")


def page_name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(path: Path) -> Iterator[tuple[int, str, str, bool]]:
    """Yield each fenced block: first line's number, language, text, and whether it is marked `no test`."""
    lines = path.read_text().splitlines()
    number = 0
    while number < len(lines):
        opening = FENCE.match(lines[number])
        if not opening:
            number += 1
            continue
        before = next((line for line in reversed(lines[:number]) if line.strip()), "")
        closing = re.compile(rf"^ *{re.escape(opening['fence'][0])}{{{len(opening['fence'])},}} *$")
        end = next((i for i in range(number + 1, len(lines)) if closing.match(lines[i])), None)
        assert end is not None, f"{page_name(path)}:{number + 1}: the block has no end"
        text = textwrap.dedent("\n".join(lines[number + 1 : end]))
        yield number + 2, opening["language"].strip(), text, bool(NO_TEST.match(before))
        number = end + 1


def python_blocks(path: Path) -> list[tuple[int, str]]:
    return [(line, text) for line, language, text, untested in blocks(path) if language == "python" and not untested]


def marked(path: Path) -> object:
    """A page as a parameter: one whose code imports a framework runs with the tests of the frameworks."""
    marks = [pytest.mark.integrations] * any("secfed.integrations" in text for _, text in python_blocks(path))
    # Keys of full size take most of the time of its page; README.md has one too.
    return pytest.param(path, marks=[*marks, *[pytest.mark.slow] * (path.name == "paillier.md")])


def prose(path: Path) -> str:
    """The page without its blocks and inline code, line by line in place."""
    lines = path.read_text().splitlines()
    for first, _, text, _ in blocks(path):
        for number in range(first - 2, first + text.count("\n") + (1 if text else 0)):
            lines[number] = ""
    return re.sub(r"(`+)(?!`).+?(?<!`)\1(?!`)", "code", "\n".join(lines))


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and MyST make them, and those set by hand."""
    found: set[str] = set()
    in_block: set[int] = set()
    for first, _, text, _ in blocks(path):
        in_block.update(range(first - 1, first + text.count("\n") + 2))
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if number not in in_block and (heading := re.match(r"^#{1,6} +(.*?) *#*$", line)):
            words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[1]).lower()
            slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
            found.add(slug if slug not in found else f"{slug}-1")
        found |= set(re.findall(r"^\(([\w-]+)\)=", line)) | set(re.findall(r"<a (?:id|name)=\"([^\"]+)\"", line))
    return found


@pytest.mark.parametrize("path", [*PAGES, ROOT / "README.zh.md"], ids=page_name)
def test_code_has_at_most_88_columns(path: Path) -> None:
    """So a block is read on a small window without scrolling; directives are not shown as code."""
    wide = [
        f"line {first + number} has {len(line)}"
        for first, language, text, _ in blocks(path)
        if not language.startswith("{")
        for number, line in enumerate(text.split("\n"))
        if len(line) > MOST_COLUMNS
    ]
    assert wide == []


def test_readme_exists() -> None:
    assert (ROOT / "README.md").exists()


@pytest.mark.parametrize("primes", ["known_primes", pytest.param("new_primes", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "path",
    [marked(path) for path in PAGES],
    ids=page_name,
)
def test_every_python_block_runs(
    path: Path, primes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """The blocks of a page share their names, as a reader who types them in order would have it."""
    if primes == "known_primes":
        request.getfixturevalue("known_primes")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    for line, text in python_blocks(path):
        where = f"{page_name(path)}:{line}"
        if text.lstrip().startswith(">>>"):
            test = doctest.DocTestParser().get_doctest(text, names, where, page_name(path), line - 1)
            failed, _ = doctest.DocTestRunner().run(test, clear_globs=False)
            assert not failed, where
            names = test.globs
        else:
            exec(compile("\n" * (line - 1) + text, page_name(path), "exec", dont_inherit=True), names)


def test_hardly_any_python_block_is_left_out() -> None:
    left_out = [
        f"{page_name(path)}:{line}"
        for path in PAGES
        for line, language, _, untested in blocks(path)
        if untested and language == "python"
    ]
    assert len(left_out) <= MOST_UNTESTED, left_out


@pytest.mark.parametrize("path", LINKED, ids=page_name)
def test_links_within_the_project_lead_somewhere(path: Path) -> None:
    broken = []
    for link in LINK.finditer(prose(path)):
        target = link["target"]
        if re.match(r"^[a-z][a-z0-9+.-]*:", target):  # another site, or a mail address
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        if not file.exists() or ROOT not in [file, *file.parents]:
            broken.append(target)
        elif anchor and file.suffix == ".md" and anchor not in anchors(file):
            broken.append(f"{target} (no such heading)")
    assert broken == []
