"""The pages: every Python block runs, every link leads somewhere."""

import ast
import doctest
import io
import re
import shlex
import sys
import textwrap
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from secfed.cli.__main__ import main

ROOT = Path(__file__).parent.parent
PAGES = [path for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))] if path.exists()]
LINKED = sorted({*PAGES, *ROOT.glob("*.md"), *(ROOT / "protocols").rglob("*.md")})
# Pages whose comments say what the code prints: every block prints, and prints just that.
HELD = ("audit.md", "budgets.md", "choose.md", "from-dp-accounting.md", "from-phe.md", "quickstart.md")
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
    framework = re.compile(r"secfed\.integrations|dp_accounting")
    marks = [pytest.mark.integrations] * any(framework.search(text) for _, text in python_blocks(path))
    # Keys of full size take most of the time of its page; README.md has one too.
    return pytest.param(path, marks=[*marks, *[pytest.mark.slow] * (path.name == "paillier.md")])


def same(said: str, found: str) -> bool:
    """Whether text is as announced, where `...` stands for anything and the width of white space does not matter."""
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    return doctest.OutputChecker().check_output(said.strip() + "\n", found.strip() + "\n", flags)


def announced(lines: list[str], last: int) -> str:
    """Return the comment at the end of a statement's last line, or those on the lines after it."""
    if inline := re.search(r"\)  # (.*)$", lines[last - 1]):
        return inline[1]
    found = []
    for line in lines[last:]:
        if not line.startswith("#"):
            break
        found.append(line.removeprefix("#").removeprefix(" "))
    return "\n".join(found)


def run_and_compare(text: str, line: int, page: str, names: dict[str, object]) -> None:
    """Run a block, one statement after the other, and compare what each prints with the comments after it."""
    lines, printed_any = text.split("\n"), False
    for statement in ast.parse(text).body:
        first, last = statement.lineno, statement.end_lineno or statement.lineno
        source = "\n" * (line + first - 2) + "\n".join(lines[first - 1 : last])
        with redirect_stdout(io.StringIO()) as output:
            exec(compile(source, page, "exec", dont_inherit=True), names)
        if found := output.getvalue():
            printed_any, said = True, announced(lines, last)
            assert same(said, found), f"{page}:{line + last - 1} printed\n{found}the page says\n{said}"
    assert printed_any, f"{page}:{line} prints nothing"


def run_commands(text: str, line: int, page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each `$ secfed ...` and compare what it prints with the lines after it; if that is nothing, stderr."""
    for command in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        # A backslash at the end of a line continues the command.
        called, _, said = re.sub(r"\\\n", " ", command).partition("\n")
        monkeypatch.setattr(sys, "argv", shlex.split(called, comments=True))
        output, errors = io.StringIO(), io.StringIO()
        with redirect_stdout(output), redirect_stderr(errors), pytest.raises(SystemExit):
            main()
        found = output.getvalue() or errors.getvalue()
        assert same(said, found), f"{page}:{line} `{called}` printed\n{found}the page says\n{said}"


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


def test_pages_with_held_comments_exist() -> None:
    assert [name for name in HELD if not (ROOT / "docs" / name).exists()] == []


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("print(1)  # 1", True),
        ("print(1)  # 2", False),
        ("print(1)\n# 1", True),
        ("print(1)\n# 2", False),
        ("print(1)", False),
        ("one = 1", False),
        ("for i in (1, 2):\n    print(i / 3)\n# 0.333...\n# 0.666...\n\n# then\none = 1", True),
    ],
)
def test_comments_are_held_against_what_is_printed(text: str, right: bool) -> None:
    if right:
        run_and_compare(text, 1, "a page", {})
    else:
        with pytest.raises(AssertionError):
            run_and_compare(text, 1, "a page", {})


def test_what_commands_print_is_held_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    limit = "$ secfed budget limit b.db \\\n    --epsilon 3 --delta 1e-5\n"
    with pytest.raises(AssertionError):
        run_commands(limit + "b.db: at most epsilon 2 ...", 1, "a page", monkeypatch)
    run_commands(limit + "secfed: ... already exists and is never overwritten", 1, "a page", monkeypatch)


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
    for line, language, text, untested in blocks(path):
        where = f"{page_name(path)}:{line}"
        if language == "console":
            run_commands(text, line, page_name(path), monkeypatch)
        elif language != "python" or untested:
            continue
        elif path.name in HELD:
            run_and_compare(text, line, page_name(path), names)
        elif text.lstrip().startswith(">>>"):
            test = doctest.DocTestParser().get_doctest(text, names, where, page_name(path), line - 1)
            failed, _ = doctest.DocTestRunner().run(test, clear_globs=False)
            assert not failed, where
            names = test.globs
        else:
            exec(compile("\n" * (line - 1) + text, page_name(path), "exec", dont_inherit=True), names)


@pytest.mark.parametrize("path", LINKED, ids=page_name)
def test_tables_are_whole(path: Path) -> None:
    """A blank line cuts a table in two, and a line break cuts a row: the rest is shown as text."""
    lines = ["", *prose(path).splitlines(), ""]
    headless = [
        f"line {number}"
        for number, line in enumerate(lines)
        if line.startswith("|")
        and not lines[number - 1].startswith("|")
        and not re.match(r"^\|[ :|-]+$", lines[number + 1])
    ]
    unended = [f"line {number}" for number, line in enumerate(lines) if re.match(r"\|.*[^|\s]\s*$", line)]
    assert (headless, unended) == ([], [])


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
