"""The arrows between the rooms, and what may happen in which: read from the sources, not remembered."""

import ast
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.every_file import FILES, LIBRARY, every_file

ROOT = Path(__file__).parent.parent

# Who may import whom. A name with a dot is one module, one without a whole room; "__init__" is the face of the library.
ARROWS: dict[str, set[str]] = {
    "errors": set(),
    "staging": {"errors"},
    "wire": {"staging", "errors"},
    "concurrency": {"errors"},
    "crypto": {"errors"},
    "encoding": {"crypto.prg", "crypto.ring", "errors"},
    "secagg": {"crypto", "wire", "staging", "concurrency", "errors"},
    "paillier": {"crypto", "wire", "concurrency", "errors"},
    "dp": {"crypto.prg", "crypto.entropy", "wire", "concurrency", "errors"},
    "attacks": {"errors"},
    "aggregation": {
        "encoding",
        "secagg",
        "paillier",
        "dp",
        "wire",
        "crypto.entropy",
        "crypto.packing",
        "crypto.prg",
        "crypto.ring",
        "errors",
    },
    "federated": {"aggregation", "dp", "encoding.flatten", "secagg.stages", "errors"},
    "integrations": {
        "aggregation",
        "crypto.entropy",
        "crypto.signing",
        "dp",
        "encoding.flatten",
        "errors",
        "federated.spending",
        "paillier",
        "secagg",
        "wire",
    },
    "preflight": {
        "aggregation",
        "crypto.packing",
        "crypto.prg",
        "dp",
        "encoding.flatten",
        "errors",
        "paillier",
        "secagg",
    },
    "transport": {
        "aggregation",
        "crypto.entropy",
        "crypto.signing",
        "encoding.flatten",
        "errors",
        "secagg",
        "staging",
        "wire",
    },
    "cli": {
        "preflight",
        "transport",
        "__init__",
        "attacks",
        "federated",
        "aggregation",
        "dp",
        "secagg",
        "paillier",
        "crypto",
        "errors",
    },
    "__init__": {"aggregation", "attacks", "dp", "errors", "federated", "paillier", "secagg"},
    "__main__": {"cli"},
}
MOST_LINES = 450
FORBIDDEN_NAMES = {"utils", "util", "common", "helpers", "helper", "core", "base", "internal", "misc"}

# Outside the command line nothing talks to the world.
PURE_ROOMS = ("crypto", "encoding", "secagg", "paillier")
IMPURE = {
    "asyncio", "concurrent", "http", "logging", "multiprocessing", "queue", "requests", "selectors", "signal", "socket",
    "ssl", "subprocess", "threading", "time", "datetime", "urllib", "warnings",
}  # fmt: skip
# Locks only: the parties start no thread.
IMPURE_ALLOWED = {
    ("crypto/prg.py", "concurrent"),
    ("secagg/session.py", "time"),
    ("secagg/answer.py", "threading"),
    ("secagg/client.py", "threading"),
    ("secagg/server.py", "threading"),
    ("concurrency.py", "threading"),
    ("paillier/integers.py", "concurrent"),
    ("paillier/integers.py", "warnings"),  # gmpy2 is missing
    ("paillier/session.py", "time"),
    ("paillier/client.py", "threading"),
    ("paillier/server.py", "threading"),
    ("paillier/key_holder.py", "threading"),
    ("paillier/noise.py", "threading"),
}
IMPURE_CALLS = {"print", "input", "open", "exec", "eval", "breakpoint"}

# Where secrets, or chance of any kind, come from.
CHANCE = {"os.urandom", "os.getrandom", "secrets", "random", "numpy.random", "uuid"}
CHANCE_ALLOWED = {
    ("crypto/entropy.py", "os.urandom"),
    ("crypto/shamir.py", "secrets"),  # find_wrong: coefficients that no sender of shares can foresee
    ("federated/schedule.py", "numpy.random"),  # which clients are sampled; no secret
    ("cli/simulation/random.py", "numpy.random"),  # simulations
    ("attacks/exact.py", "numpy.random"),  # where searches start; no secret
    ("attacks/inversion.py", "numpy.random"),  # where searches start; no secret
    ("attacks/shadow_models.py", "numpy.random"),  # weights and orders of the adversary's own models; no secret
}
KEY_GENERATION_ALLOWED = {"crypto/signing.py"}  # SigningKey.generate

# These load the names of their own tables when they are first used.
LOAD_LATER = (LIBRARY / "__init__.py", LIBRARY / "aggregation" / "__init__.py")

FRAMEWORKS = {"torch", "flwr", "nvflare", "tensorflow", "jax"}


def name_of(path: Path) -> str:
    """The module's dotted name without `secfed.`; that of a package is the package's, of the root `__init__`."""
    parts = path.relative_to(LIBRARY).with_suffix("").parts
    return ".".join(parts if len(parts) == 1 or parts[-1] != "__init__" else parts[:-1])


MODULES = {name_of(path): path for path in FILES}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


@cache  # several tests look at each file
def nodes(path: Path, typing_only: bool = True) -> list[ast.AST]:
    """All nodes, with or without those that only a type checker runs."""
    found: list[ast.AST] = []
    pending: list[ast.AST] = [tree(path)]
    while pending:
        node = pending.pop()
        found.append(node)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING") and not typing_only:
            pending += node.orelse
        else:
            pending += ast.iter_child_nodes(node)
    return found


@cache
def imported(path: Path, typing_only: bool = True) -> list[str]:
    """Dotted names that a file imports, `from a import b` as `a.b`."""
    found: list[str] = []
    for node in nodes(path, typing_only):
        if isinstance(node, ast.Import):
            found += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found += (f"{node.module}.{alias.name}" for alias in node.names)
    return found


def own_imports(path: Path, typing_only: bool = True) -> set[str]:
    """Modules of the library that a file imports."""
    found = set()
    for name in imported(path, typing_only):
        if name == "secfed" or name.startswith("secfed."):
            parts = name.split(".")[1:]
            while parts and ".".join(parts) not in MODULES:  # drop the names of functions and classes
                parts.pop()
            found.add(".".join(parts) or "__init__")
    return found


def room(module: str) -> str:
    return module.partition(".")[0]


def allowed(module: str, other: str) -> bool:
    arrows = ARROWS[room(module)]
    return room(module) == room(other) or room(other) in arrows or other in arrows


@cache
def uses(path: Path) -> set[str]:
    """Dotted names that a file imports or reaches through an import, with `np` written as `numpy`."""
    aliases = {}
    for node in nodes(path):
        if isinstance(node, ast.Import | ast.ImportFrom):
            prefix = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            aliases |= {alias.asname or alias.name: prefix + alias.name for alias in node.names}
    inner = {id(node.value) for node in nodes(path) if isinstance(node, ast.Attribute)}
    found = {name for name in aliases.values() if name not in {"numpy", "os"}}
    for node in nodes(path):
        if isinstance(node, ast.Attribute) and id(node) not in inner:
            first, _, rest = ast.unparse(node).partition(".")
            if first in aliases:
                found.add(f"{aliases[first]}.{rest}")
    return found


@every_file
def test_imports_follow_the_arrows(path: Path) -> None:
    module = name_of(path)
    assert room(module) in ARROWS, f"the table of arrows lacks {room(module)}"
    assert {other for other in own_imports(path) if not allowed(module, other)} == set()


def test_every_arrow_is_used() -> None:
    """An arrow that nobody needs any more leaves the table."""
    used: dict[str, set[str]] = {name: set() for name in ARROWS}
    for module, path in MODULES.items():
        used[room(module)] |= own_imports(path)
    idle = {
        (name, target)
        for name, targets in ARROWS.items()
        for target in targets
        if not any(other == target or room(other) == target for other in used[name])
    }
    assert idle == set()


def test_table_has_no_room_that_is_not_there() -> None:
    assert set(ARROWS) == {room(module) for module in MODULES}


def test_modules_do_not_import_each_other_in_circles() -> None:
    graph = {module: own_imports(path, typing_only=False) - {module} for module, path in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"imports in a circle: {' <- '.join(error.args[1])}")


def test_client_and_server_do_not_know_each_other() -> None:
    assert "secagg.server" not in own_imports(MODULES["secagg.client"], typing_only=False)
    assert "secagg.client" not in own_imports(MODULES["secagg.server"], typing_only=False)


@pytest.mark.parametrize("path", [path for path in FILES if room(name_of(path)) in (*PURE_ROOMS, "wire", "errors")])
def test_protocols_own_no_socket_thread_clock_or_log(path: Path) -> None:
    here = path.relative_to(LIBRARY).as_posix()
    found = {(here, name.partition(".")[0]) for name in imported(path) if name.partition(".")[0] in IMPURE}
    assert found <= IMPURE_ALLOWED
    if (here, "concurrent") in found:
        names = {name for name in imported(path) if name.startswith("concurrent")}
        assert names == {"concurrent.futures.ThreadPoolExecutor"}
    calls = {node.func.id for node in nodes(path) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    own = {node.name for node in nodes(path) if isinstance(node, ast.FunctionDef)}
    assert calls & IMPURE_CALLS - own == set()


@every_file
def test_chance_comes_from_one_place(path: Path) -> None:
    here = path.relative_to(LIBRARY).as_posix()
    found = set()
    for name in uses(path):
        for source in CHANCE:
            if (name == source or name.startswith(f"{source}.")) and not name.endswith(".Generator"):
                found.add((here, source))
    assert found <= CHANCE_ALLOWED
    made = [node for node in nodes(path) if isinstance(node, ast.Attribute) and node.attr == "generate"]
    private = [node for node in made if ast.unparse(node.value).endswith("PrivateKey")]
    assert not private or here in KEY_GENERATION_ALLOWED


def test_every_exception_for_chance_and_clocks_is_still_needed() -> None:
    for here, source in CHANCE_ALLOWED:
        assert any(name == source or name.startswith(f"{source}.") for name in uses(LIBRARY / here)), (here, source)
    for here, source in IMPURE_ALLOWED:
        assert any(name.partition(".")[0] == source for name in imported(LIBRARY / here)), (here, source)


@every_file
def test_only_integrations_import_frameworks(path: Path) -> None:
    if path.is_relative_to(LIBRARY / "integrations"):
        return
    assert {name for name in imported(path) if name.partition(".")[0] in FRAMEWORKS} == set()


@every_file
def test_library_and_protocols_do_not_know_each_other(path: Path) -> None:
    assert not any(name.partition(".")[0] in {"protocols", "tests"} for name in imported(path))
    text = ast.unparse(tree(path))  # without comments
    assert "import_module" not in text or path in LOAD_LATER
    assert "__import__" not in text


@pytest.mark.parametrize("path", sorted((ROOT / "protocols").rglob("*.py")), ids=lambda path: path.parent.name)
def test_references_do_not_import_the_library(path: Path) -> None:
    assert {name for name in imported(path) if name.partition(".")[0] == "secfed"} == set()


@pytest.mark.parametrize("folder", ["secfed", "protocols", "tests", "examples", "benchmarks", "docs"])
def test_no_path_is_called_after_nothing(folder: str) -> None:
    for path in (ROOT / folder).rglob("*"):
        names = {part.removesuffix(".py").strip("_") for part in path.relative_to(ROOT).parts}
        assert not names & FORBIDDEN_NAMES, path


@every_file
def test_file_is_not_too_long(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MOST_LINES


@every_file
def test_package_files_only_hand_names_on(path: Path) -> None:
    if path.name != "__init__.py":
        return
    kinds = (ast.Import, ast.ImportFrom, ast.Assign, ast.Expr)
    others = [node for node in tree(path).body if not isinstance(node, kinds)]
    if path in LOAD_LATER:
        own = ("if TYPE_CHECKING:", "if not TYPE_CHECKING:\n\n    def __getattr__", "def __")
        others = [node for node in others if not ast.unparse(node).startswith(own)]
    if path.is_relative_to(LIBRARY / "integrations"):  # which say which extra has the framework
        others = [node for node in others if not ast.unparse(node).endswith("from error")]
    assert others == []
