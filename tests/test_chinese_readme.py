"""The Chinese README stays in step with the English one: if you change one, make the same change in the other.

The tests compare blocks, headings, links, numbers, inline code, tables and paragraphs. They cannot tell whether the
prose says the same. `tests/test_docs.py` runs the blocks of the English README and follows the links of both.
"""

import re
from collections import Counter
from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path

import pytest

from .test_docs import LINK, LINKED, PAGES, ROOT, blocks, prose

ENGLISH, CHINESE = ROOT / "README.md", ROOT / "README.zh.md"
HEADING = re.compile(r"^(#{1,6}) +(.+)$")
ELEMENT = re.compile(r"^(?:#+ |```\w+|<!--.*-->|!\[|\d+\. |\|)", re.MULTILINE)
NUMBER = re.compile(r"(\d+(?:,\d{3})*(?:\.\d+)?(?:e-?\d+)?)(?:[ -]?(%|s\b|byte|bit|秒|字节|位))?")
UNITS = {"秒": "s", "字节": "byte", "位": "bit"}
# English names the month of the comparison, Chinese writes it as a number.
NO_NUMBER = re.compile(r"\]\([^)]*\)|(?<=年) ?\d{1,2} ?月")


def outside_blocks(path: Path) -> str:
    """The page without the text in its blocks; their fences stay."""
    lines = path.read_text().splitlines()
    for first, _, text, _ in blocks(path):
        for number in range(first - 1, first - 1 + len(text.splitlines())):
            lines[number] = ""
    return "\n".join(lines)


def sections(path: Path) -> list[tuple[int, str, str]]:
    """Each heading's level and words, and the prose below it."""
    found: list[tuple[int, str, str]] = []
    for line in prose(path).splitlines():
        if heading := HEADING.match(line):
            found.append((len(heading[1]), heading[2], ""))
        else:
            level, words, text = found[-1]
            found[-1] = level, words, f"{text}{line}\n"
    return found


def links(text: str) -> Counter[str]:
    return Counter(link["target"] for link in LINK.finditer(text) if link["target"] not in (ENGLISH.name, CHINESE.name))


def quantities(text: str) -> Counter[str]:
    """The numbers with their units."""
    return Counter(number + UNITS.get(unit, unit) for number, unit in NUMBER.findall(NO_NUMBER.sub(" ", text)))


def numbers(text: str) -> Counter[str]:
    """The numbers without units: in prose, one language may name a unit once and the other twice."""
    return Counter(number + "%" * (unit == "%") for number, unit in NUMBER.findall(NO_NUMBER.sub(" ", text)))


def paragraphs(path: Path) -> list[tuple[list[str], str]]:
    """Each paragraph as the elements that its lines start, and its first line."""
    found = [text.strip() for text in re.split(r"\n\s*\n", outside_blocks(path)) if text.strip(" \n`")]
    return [(ELEMENT.findall(text) or ["prose"], text.splitlines()[0]) for text in found]


def cells(path: Path) -> list[list[str]]:
    return [line.split("|")[1:-1] for line in prose(path).splitlines() if line.startswith("|")]


def difference(english: Counter[str], chinese: Counter[str]) -> str:
    missing, extra = (sorted(some.elements()) for some in (english - chinese, chinese - english))
    return f"only in {ENGLISH.name}: {missing}; only in {CHINESE.name}: {extra}"


def test_each_readme_links_to_the_other_at_its_top() -> None:
    for path, other in ((ENGLISH, CHINESE), (CHINESE, ENGLISH)):
        top = path.read_text().splitlines()[:3]
        assert f"]({other.name})" in "".join(top), f"the first three lines of {path.name} have no link to {other.name}"


def test_headings_have_the_same_levels_in_the_same_order() -> None:
    outlines = [[f"{'#' * level} {words}" for level, words, _ in sections(path)] for path in (ENGLISH, CHINESE)]
    side_by_side = "\n".join(f"{one}  |  {other}" for one, other in zip_longest(*outlines, fillvalue="(none)"))
    english, chinese = ([level for level, *_ in sections(path)] for path in (ENGLISH, CHINESE))
    assert english == chinese, f"the headings of {ENGLISH.name} and {CHINESE.name} differ:\n{side_by_side}"


def test_blocks_are_equal_in_the_same_order() -> None:
    for number, (english, chinese) in enumerate(zip_longest(blocks(ENGLISH), blocks(CHINESE)), start=1):
        assert english, f"block {number} is only in {CHINESE.name}, at line {chinese[0]}:\n{chinese[2]}"
        assert chinese, f"block {number} is only in {ENGLISH.name}, at line {english[0]}:\n{english[2]}"
        where = f"block {number} differs: {ENGLISH.name}:{english[0]} and {CHINESE.name}:{chinese[0]}"
        assert english[1:] == chinese[1:], where


def test_paragraphs_blocks_lists_tables_and_figures_alternate_in_the_same_way() -> None:
    """The comments in front of blocks too: continuous integration finds the commands by them."""
    for number, (english, chinese) in enumerate(zip_longest(paragraphs(ENGLISH), paragraphs(CHINESE)), start=1):
        assert english, f"paragraph {number} is only in {CHINESE.name}: {chinese[1]}"
        assert chinese, f"paragraph {number} is only in {ENGLISH.name}: {english[1]}"
        assert english[0] == chinese[0], f"paragraph {number} differs in form:\n{english[1]}\n{chinese[1]}"


@pytest.mark.parametrize("what", [links, numbers])
def test_sections_have_the_same(what: Callable[[str], Counter[str]]) -> None:
    for (_, english, one), (_, chinese, other) in zip(sections(ENGLISH), sections(CHINESE), strict=True):
        found = what(one), what(other)
        assert found[0] == found[1], f"'{english}' and '{chinese}': {difference(*found)}"


def test_inline_code_is_the_same() -> None:
    english, chinese = (Counter(re.findall(r"`([^`\n]+)`", outside_blocks(path))) for path in (ENGLISH, CHINESE))
    assert english == chinese, difference(english, chinese)


def test_tables_have_the_same_numbers_in_the_same_cells() -> None:
    for english, chinese in zip_longest(cells(ENGLISH), cells(CHINESE)):
        assert english and chinese, f"the row is in one README only: {english or chinese}"
        assert len(english) == len(chinese), f"the rows differ in length:\n{english}\n{chinese}"
        for one, other in zip(english, chinese, strict=True):
            found = quantities(one), quantities(other)
            assert found[0] == found[1], f"'{one.strip()}' and '{other.strip()}': {difference(*found)}"


def test_the_chinese_readme_has_its_links_followed_and_its_blocks_not_run_twice() -> None:
    assert CHINESE in LINKED
    assert CHINESE not in PAGES
