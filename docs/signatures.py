"""Sphinx extension for the reference: defaults as they are written, and every keyword that a class takes.

Sphinx shows the value of a default of a dataclass, so `2 / 3` would read `0.6666666666666666`. It leaves out the
keywords of `**options: Unpack[...]`.
"""

import ast
import dataclasses
import inspect
import re
import textwrap
from typing import Any, get_args

from sphinx.application import Sphinx

# What a reader would write, where the code has a name of its own for it.
PLAIN = {"NO_MODEL": "bytes(32)", "dict()": "{}", "list()": "[]"}


class Text:
    """A default in words of source code."""

    def __init__(self, text: str) -> None:
        self._text = PLAIN.get(text, text)

    def __repr__(self) -> str:
        return self._text


def written(of: type) -> dict[str, str]:
    """Return the defaults of a dataclass's fields, those of its bases among them, as its source has them."""
    found: dict[str, str] = {}
    for base in reversed(of.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        [body] = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        for line in body.body if isinstance(body, ast.ClassDef) else []:
            if not isinstance(line, ast.AnnAssign) or not isinstance(line.target, ast.Name) or line.value is None:
                continue
            value = line.value
            if isinstance(value, ast.Call) and ast.unparse(value.func) == "field":
                given = {keyword.arg: ast.unparse(keyword.value) for keyword in value.keywords}
                if "default" in given:
                    found[line.target.id] = given["default"]
                elif "default_factory" in given:
                    found[line.target.id] = f"{given['default_factory']}()"
            else:
                found[line.target.id] = ast.unparse(value)
    return found


def keywords(parameter: inspect.Parameter) -> list[inspect.Parameter]:
    """Return the parameters that `**options: Unpack[...]` stands for; others stay as they are."""
    named = get_args(parameter.annotation)
    if parameter.kind is not inspect.Parameter.VAR_KEYWORD or not named:
        return [parameter]
    [options] = named
    return [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if name in options.__required_keys__ else None,
        )
        for name in options.__annotations__
    ]


def readable(of: Any) -> str | None:
    """Return a signature in which a reader recognizes every default; None where Sphinx's own is as good."""
    try:
        signature = inspect.signature(of)
    except (TypeError, ValueError):
        return None
    defaults = written(of) if inspect.isclass(of) and dataclasses.is_dataclass(of) else {}
    every = [each for parameter in signature.parameters.values() for each in keywords(parameter)]
    if not defaults and len(every) == len(signature.parameters):
        return None
    plain = [
        each.replace(
            annotation=inspect.Parameter.empty,
            default=Text(defaults[each.name]) if each.name in defaults else each.default,
        )
        for each in every
    ]
    return str(signature.replace(parameters=plain, return_annotation=inspect.Signature.empty))


def process(
    app: Sphinx, what: str, name: str, of: Any, options: Any, signature: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """Hand Sphinx the readable signature of a class; of functions it knows the written defaults itself."""
    if what == "exception":  # users catch errors and do not make them
        return signature and "", returned
    shown = (readable(of) if what == "class" else None) or signature
    for name_in_code, text in PLAIN.items():
        shown = shown and shown.replace(f"={name_in_code}", f"={text}")
    return shown, returned


def drop_broken_links(app: Sphinx, page: str, template: str, context: dict[str, Any], tree: Any) -> None:
    """Drop links from source code to names that the reference documents under another package.

    `sphinx.ext.viewcode` takes all names of a module for those of one package.
    """
    if not page.startswith("_modules/") or "body" not in context:
        return
    documented = app.env.get_domain("py").objects

    def kept(link: re.Match[str]) -> str:
        of = documented.get(link["name"])
        return link[0] if of and link["page"].endswith(f"{of.docname}.html") else ""

    context["body"] = re.sub(
        r'<a class="viewcode-back" href="(?P<page>[^"#]*)#(?P<name>[^"]*)">.*?</a>', kept, context["body"]
    )


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("autodoc-process-signature", process)
    app.connect("html-page-context", drop_broken_links)
    return {"parallel_read_safe": True}
