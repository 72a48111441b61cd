"""The reference: every public name is in it, and every parameter of what it shows is described where it is used."""

import inspect
import re
from enum import Enum
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest

from secfed import federated
from secfed.federated.training import TrainingOptions
from secfed.secagg.stages import EXCHANGES
from tests.every_file import every_file
from tests.test_docstrings import docstrings, section

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "docs" / "reference.md", *(ROOT / "docs" / "reference").glob("*.md")])
DIRECTIVE = re.compile(r"^\.\. (?:auto|py:)(\w+):: (secfed[\w.]*)\n(?: +:members:(.*)\n)?", re.MULTILINE)
PACKAGES = [
    "secfed",
    *(
        "secfed." + name
        for name in ["aggregation", "attacks", "dp", "federated", "paillier", "preflight", "secagg", "transport"]
    ),
]
FLOWER = "secfed.integrations.flower"
IMPORTED_LATER = (FLOWER, "secfed.integrations.nvflare", "secfed.integrations.torch")


def resolved(target: str) -> Any:
    """Return what a dotted name stands for; a function hides the module of its name."""
    first, *names = target.split(".")
    found, path = import_module(first), first
    for name in names:
        path = f"{path}.{name}"
        found = getattr(found, name) if hasattr(found, name) else import_module(path)
    return found


def shown() -> list[tuple[str, str, str | None]]:
    """Return each directive of the pages: its kind, its target, its members."""
    return [(found[1], found[2], found[3]) for page in PAGES for found in DIRECTIVE.finditer(page.read_text())]


def marked(target: str) -> object:
    """A target as a parameter: one of a framework runs with the tests of the frameworks."""
    return pytest.param(target, marks=[pytest.mark.integrations] * target.startswith(IMPORTED_LATER))


def described(of: Any) -> set[str]:
    """Return the parameters that a docstring describes, the attributes of a class among them."""
    text = inspect.getdoc(of) or ""
    return {name.lstrip("*") for title in ("Args:", "Attributes:") for name in section(text, title)}


def missing(of: Any, descriptions: set[str]) -> set[str]:
    """Return the parameters of a callable that are not described."""
    found = set()
    for parameter in inspect.signature(of).parameters.values():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD and "TrainingOptions" in str(parameter.annotation):
            found |= set(TrainingOptions.__annotations__)
        else:
            found.add(parameter.name)
    return found - {"self", "cls"} - descriptions


@pytest.mark.parametrize("package", [*PACKAGES, marked(FLOWER)])
def test_every_public_name_is_in_the_reference(package: str) -> None:
    module = import_module(package)
    targets = {target for _, target, _ in shown()}
    objects = [resolved(target) for target in targets if not target.startswith(IMPORTED_LATER)]
    objects += [of for kind, target, _ in shown() if kind == "module" for of in vars(resolved(target)).values()]
    for name in module.__all__:
        of = getattr(module, name)
        if isinstance(of, ModuleType):
            assert f"secfed.{name}" in PACKAGES
        else:
            assert f"{package}.{name}" in targets or any(of is other for other in objects), f"{package}.{name}"


@pytest.mark.parametrize("target", [marked(target) for kind, target, _ in shown() if kind != "data"])
def test_every_parameter_is_described_where_it_is_used(target: str) -> None:
    [(kind, members)] = [(kind, members) for kind, other, members in shown() if other == target]
    of = resolved(target)
    if kind == "module":
        callables = {name: each for name, each in vars(of).items() if getattr(each, "__module__", "") == target}
    elif kind in ("exception", "function"):
        callables = {of.__name__: of}
    else:
        names = [name.strip() for name in (members or "").split(",") if name.strip()]
        if members is not None and not names:
            names = [name for name in vars(of) if not name.startswith("_")]
        found = {name: getattr(of, name) for name in names}
        callables = {name: each for name, each in found.items() if inspect.isfunction(each) or inspect.ismethod(each)}
        if not issubclass(of, Enum):
            callables[of.__name__] = of
    odd = {}
    for name, each in callables.items():
        if name.startswith("_") and name != "__call__":
            continue
        if inspect.isclass(each) and issubclass(each, BaseException):
            continue  # users catch errors and do not make them: the pages show no signature
        if inspect.isfunction(each) or inspect.ismethod(each) or inspect.isclass(each):
            odd[name] = missing(each, described(each))
    assert {name: names for name, names in odd.items() if names} == {}


@every_file
def test_no_parameter_sends_the_reader_elsewhere(path: Path) -> None:
    for name, text in docstrings(path):
        odd = re.findall(r"^ {4}[a-z]\w*: (?:See|As for|As in) `.*", text, re.MULTILINE)
        assert odd == [], name


def test_algorithms_describe_what_they_share_in_the_same_words() -> None:
    def entries(of: type) -> dict[str, str]:
        text = (inspect.getdoc(of) or "").split("Args:\n")[1].split("\n\n")[0]
        found = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", text, re.MULTILINE)
        return {name: " ".join(words.split()) for name, words in found}

    whole = entries(federated.FedAvg)
    for of in (federated.FedAvgM, federated.FedAdagrad, federated.FedAdam, federated.FedYogi):
        found = entries(of)
        assert {name: found[name] for name in TrainingOptions.__annotations__} == {
            name: whole[name] for name in TrainingOptions.__annotations__
        }


def test_the_drawing_of_a_session_has_every_stage_and_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    lines = ElementTree.fromstring(import_module("message_flow").drawing()).itertext()
    words = " ".join(" ".join(lines).split())
    for stage, exchange in EXCHANGES.items():
        assert stage.name in words
        for message in (exchange.request, exchange.response):
            first = (inspect.getdoc(message) or "").split("\n\n")[0].removesuffix(".")
            assert " ".join(first.split()) in words
