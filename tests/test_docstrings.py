"""Everything public says what it is for, and what it names exists."""

import ast
import builtins
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from secfed import errors
from secfed.federated.training import TrainingOptions
from tests.every_file import every_file

Documented = ast.Module | ast.ClassDef | ast.FunctionDef
# In this order, where they apply.
SECTIONS = ["Args:", "Returns:", "Yields:", "Raises:", "Attributes:", "Security:", "Source:"]


def public(node: ast.Module | ast.ClassDef, prefix: str = "") -> Iterator[tuple[str, Documented]]:
    """Yield a module or class and everything public in it, by dotted name."""
    yield prefix or "module", node
    for child in node.body:
        if isinstance(child, ast.FunctionDef) and any(ast.unparse(line) == "overload" for line in child.decorator_list):
            continue  # the docstring is that of what it overloads
        if isinstance(child, ast.ClassDef | ast.FunctionDef) and not child.name.startswith("_"):
            name = f"{prefix}.{child.name}".removeprefix(".")
            if isinstance(child, ast.ClassDef):
                yield from public(child, name)
            else:
                yield name, child


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


@cache  # several tests look at each file
def docstrings(path: Path) -> list[tuple[str, str]]:
    found = ((name, ast.get_docstring(node)) for name, node in public(tree(path)))
    return [(name, text) for name, text in found if text]


def section(text: str, title: str) -> list[str]:
    """Return the entries of a section: what stands before the colon in its least indented lines."""
    lines = text.splitlines()
    if title not in lines:
        return []
    entries = []
    for line in lines[lines.index(title) + 1 :]:
        if line and not line.startswith(" "):
            break
        if line.startswith("    ") and not line.startswith("     "):
            entries.append(line.strip().partition(":")[0])
    return entries


@cache
def known_names(path: Path) -> set[str]:
    """Names that a module defines or imports, and those of Python."""
    found = set(dir(builtins)) | {name for name in vars(errors) if not name.startswith("_")}
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
    return found


@every_file
def test_everything_public_has_a_docstring(path: Path) -> None:
    missing = [name for name, node in public(tree(path)) if not ast.get_docstring(node)]
    assert missing == []


@every_file
def test_docstring_begins_with_a_sentence(path: Path) -> None:
    for name, text in docstrings(path):
        first = text.split("\n\n")[0].rstrip()
        assert first.endswith((".", ":", "?")), f"{name}: {first}"
        assert first[0].isupper() or not first[0].isalpha() or first[:1] == "`", f"{name}: {first}"


@every_file
def test_errors_that_docstrings_name_exist(path: Path) -> None:
    for name, text in docstrings(path):
        odd = set(section(text, "Raises:")) - known_names(path)
        assert odd == set(), name


@every_file
def test_errors_that_are_raised_exist(path: Path) -> None:
    names = known_names(path)
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Raise) and node.exc is not None:
            called = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            if isinstance(called, ast.Name) and called.id[0].isupper():
                assert called.id in names, f"line {node.lineno}"
                assert called.id not in {"Exception", "BaseException"}, f"line {node.lineno}"


@every_file
def test_arguments_that_docstrings_name_exist(path: Path) -> None:
    for name, node in public(tree(path)):
        described = section(ast.get_docstring(node) or "", "Args:")
        found = arguments_of(node)
        for base in node.bases if isinstance(node, ast.ClassDef) else []:  # those in the same file
            bases = [of for other, of in public(tree(path)) if other == ast.unparse(base)]
            found = found.union(*map(arguments_of, bases))
        assert set(described) <= found, name


@every_file
def test_errors_that_a_function_raises_itself_are_named_in_its_docstring(path: Path) -> None:
    """Only errors of secfed, raised in the function's own lines; the command line's docstrings are its help texts."""
    own = set() if path.parent.name == "cli" else {name for name in vars(errors) if name.endswith("Error")}
    missing = {}
    for name, node in public(tree(path)):
        if not isinstance(node, ast.FunctionDef):
            continue
        raised = {
            call.func.id
            for call in (inner.exc for inner in ast.walk(node) if isinstance(inner, ast.Raise))
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
        }
        text = ast.get_docstring(node) or ""
        odd = {error for error in raised & own if error not in text}
        if odd and "see `" not in text.lower():
            missing[name] = odd
    assert missing == {}


@every_file
def test_sections_come_in_one_order(path: Path) -> None:
    for name, text in docstrings(path):
        titles = [line.split(" ")[0] for line in text.splitlines()]
        found = [title for title in titles if title in SECTIONS]
        assert found == sorted(found, key=SECTIONS.index), name
        assert len(set(found)) == len(found), name


def arguments_of(node: Documented) -> set[str]:
    """Names of a function's parameters, or of a class's: those of `__init__` and its annotated fields."""
    if isinstance(node, ast.FunctionDef):
        parameters = node.args
        every = [*parameters.posonlyargs, *parameters.args, *parameters.kwonlyargs]
        every += [argument for argument in (parameters.vararg, parameters.kwarg) if argument]
        found = {argument.arg for argument in every}
        if parameters.kwarg and "TrainingOptions" in ast.unparse(parameters.kwarg):
            found |= set(TrainingOptions.__annotations__)
        return found - {"self", "cls"}
    found = set()
    for child in node.body:
        if isinstance(child, ast.AnnAssign) and isinstance(child.target, ast.Name):
            found.add(child.target.id)
        elif isinstance(child, ast.FunctionDef) and child.name == "__init__":
            found |= arguments_of(child)
    return found
