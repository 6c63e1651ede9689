"""Dependencies point down only: by the floors at the head of each package, and the tables here."""

import ast
import re
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = "flask_delay"
PYTHON = ROOT / "python" / PACKAGE

# These alone may touch Flask's contexts: `context` for the package; `demo` is an app, `dashboard`
# and `streams` are blueprints, and their views use what every app's views use.
CONTEXT_USERS = {"context", "dashboard", "demo", "streams"}
CONTEXT_MODULES = {"flask.ctx", "flask.globals"}
CONTEXT_NAMES = {
    "after_this_request",
    "app_ctx",
    "copy_current_request_context",
    "current_app",
    "g",
    "has_app_context",
    "has_request_context",
    "request",
    "request_ctx",
    "session",
}
CONTEXT_METHODS = {"app_context", "request_context", "test_request_context"}


class Rule(NamedTuple):
    """No file under `where`, save those under one of `but`, may contain `pattern`."""

    name: str
    where: str
    but: tuple[str, ...]
    pattern: str


# `src/lib.rs` -> `src/bindings` -> `src/journal` -> `src/engine`, in code; comments and strings
# may say anything.
RUST_RULES = (
    Rule("the engine knows no Python", "src/engine", (), r"\b(pyo3\w*|Py_\w+|bindings)\b"),
    Rule("the journal knows no Python", "src/journal", (), r"\b(pyo3\w*|Py_\w+|bindings)\b"),
    Rule("the engine knows no journal", "src/engine", (), r"\bflask_delay_journal\b"),
    Rule("lib.rs exports the bindings only", "src/lib.rs", (), r"\bflask_delay_\w+\b"),
    Rule(
        "the bindings do not look up to lib.rs",
        "src/bindings",
        (),
        r"\bcrate\s*::\s*(?!bindings\b)\w+",
    ),
    Rule(
        "unsafe is in bindings/ffi and journal/file/vfs.rs alone",
        "src",
        # A test of forks has to fork, and one of system calls to replace them.
        ("src/bindings/ffi", "src/journal/file/vfs.rs", "src/journal/tests/support"),
        r"\bunsafe\b",
    ),
)
# As above, but in strings: Rust can reach Python by name.
RUST_STRING_RULES = (
    Rule(
        "Rust imports nothing of the package",
        "src",
        (),
        rf'\bimport(_bound)?\s*\(\s*(\w+!?\s*\(\s*\w+\s*,\s*)?c?"{PACKAGE}\b',
    ),
)
MAY_NOT_NEED = {
    "engine": re.compile(r"^(pyo3|libc$|flask-delay)"),
    "journal": re.compile(r"^(pyo3|tokio|flask-delay$)"),
}


# --- Floors -------------------------------------------------------------------------

# They are written down once for each package, at the head of its `mod.rs`, `lib.rs` or
# `__init__.py`, highest first. What a floor names is a module or a folder; a name within that
# folder stands for itself.
FLOOR = re.compile(r"^(?://!|#) +\d+\. ((?:`[\w.]+`(?:, )?)+):", re.MULTILINE)

Module = tuple[str, ...]
Graph = dict[Module, set[Module]]


def floors(head: str) -> dict[Module, int]:
    """The floor of each part that is named in the text; 0 is the lowest."""
    lines = [re.findall(r"[\w.]+", found) for found in FLOOR.findall(head)]
    return {
        tuple(name.split(".")): floor for floor, line in enumerate(reversed(lines)) for name in line
    }


def part(module: Module, floor: dict[Module, int]) -> Module:
    """What has a floor of its own: the module, or the folder around it; () if nothing has."""
    while module and module not in floor:
        module = module[:-1]
    return module


def upward(graph: Graph, floor: dict[Module, int]) -> set[str]:
    """The imports that do not point down, as text; those within a part are its own affair."""
    return {
        f"{'.'.join(here)} -> {'.'.join(there)}"
        for here, needs in graph.items()
        for there in needs
        if part(here, floor) != part(there, floor)
        and floor[part(there, floor)] >= floor[part(here, floor)]
    }


def circles(graph: Graph) -> list[str]:
    """The modules that import each other, and those that need them, as text."""
    left = dict(graph)
    # What is left when modules that need nothing more are taken away, again and again.
    while free := [module for module, needs in left.items() if not needs & left.keys()]:
        for module in free:
            del left[module]
    return sorted(map(".".join, left))


# --- Rust ---------------------------------------------------------------------------

RUST_NOISE = re.compile(
    r"""
      (?P<comment> //[^\n]* | /\*.*?\*/ )
    | (?P<string>  b?c?r(?P<hashes>\#*)".*?"(?P=hashes) | [bc]?"(?:\\.|[^"\\])*" )
    | (?P<char>    b?'(?:\\[^\n]+?|[^'\\\n])' )
    """,
    re.VERBOSE | re.DOTALL,
)


def rust_code(source: str, *, strings: bool = False) -> str:
    """`source` without comments and, unless asked for, the contents of strings."""

    def blank(match: re.Match[str]) -> str:
        if match["comment"] is None:
            return match[0] if strings else '""'
        return " " + "\n" * match[0].count("\n")

    return RUST_NOISE.sub(blank, source)


def under(path: str, place: str) -> bool:
    return path in (place, f"{place}.rs") or path.startswith(f"{place}/")


def check_rust(path: str, source: str) -> list[str]:
    found = []
    for rules, strings in ((RUST_RULES, False), (RUST_STRING_RULES, True)):
        code = rust_code(source, strings=strings)
        for rule in rules:
            if not under(path, rule.where) or any(under(path, but) for but in rule.but):
                continue
            found += [f"{path}: {rule.name}: {m[0]!r}" for m in re.finditer(rule.pattern, code)]
    return found


def check_manifest(crate: str, manifest: dict[str, Any]) -> list[str]:
    kinds = ("dependencies", "dev-dependencies", "build-dependencies")
    tables = [manifest, *manifest.get("target", {}).values()]
    return [
        f"src/{crate}/Cargo.toml: {kind}: {name}"
        for table in tables
        for kind in kinds
        for key, value in table.get(kind, {}).items()
        # A dependency may be renamed.
        for name in {key, value.get("package", key) if isinstance(value, dict) else key}
        if MAY_NOT_NEED[crate].search(name)
    ]


BINDINGS = ROOT / "src/bindings"
JOURNAL = ROOT / "src/journal"

RUST_USE = re.compile(r"\buse\s+((?:super|self|crate)\b[^;]*);")
RUST_PATH = re.compile(r"(?<![\w:])(?:super|self|crate)(?:::\w+)+")
# An inherent `impl` at the left margin, as rustfmt has it, with its body.
RUST_IMPL = re.compile(
    r"^impl(?:<[^{]*?>)? (\w+)(?:<[^{]*>)? \{\n(.*?)^\}", re.MULTILINE | re.DOTALL
)


def flattened(tree: str) -> Iterator[str]:
    """The paths in what follows `use`: `a::{b, c::d}` is `a::b` and `a::c::d`."""
    if "{" not in tree:
        yield tree.strip()
        return
    prefix, _, rest = tree.partition("{")
    depth, start, inner = 0, 0, rest.rpartition("}")[0]
    for i, char in enumerate(inner + ","):
        depth += {"{": 1, "}": -1}.get(char, 0)
        if char == "," and depth == 0:
            if inner[start:i].strip():
                yield from flattened(prefix.strip() + inner[start:i].strip())
            start = i + 1


def rust_imports(
    module: Module, source: str, known: Iterable[Module], root: Module = ("bindings",)
) -> set[Module]:
    """The modules that `module` names, by `use` or by a path in the code.

    `root` is where they are in their crate; what is in no module of a crate is in its `lib`.
    """
    known = set(known)
    code = rust_code(source)
    paths = [p for m in RUST_USE.finditer(code) for p in flattened(m[1])]
    found = set()
    for path in [*paths, *RUST_PATH.findall(RUST_USE.sub("", code))]:
        names = path.split(" as ")[0].split("::")
        here = list(module)
        if names[0] == "crate":
            here, names = [], names[1 + len(root) :]
        while names and names[0] in {"super", "self"}:
            here, names = here[:-1] if names[0] == "super" else here, names[1:]
        full = (*here, *names)
        while full and full not in known:
            full = full[:-1]
        full = full or (("lib",) if ("lib",) in known else ())
        if full and full != module:
            found.add(full)
    return found


def rust_calls(sources: dict[Module, str]) -> Graph:
    """Which modules call methods of `self` that another one of them defines for the same type."""
    bodies = [
        (module, *found)
        for module in sources
        for found in RUST_IMPL.findall(rust_code(sources[module]))
    ]
    owners = {
        (kind, name): module
        for module, kind, body in bodies
        for name in re.findall(r"^    (?:pub(?:\(\w+\))? )?(?:const )?fn (\w+)", body, re.MULTILINE)
    }
    graph: Graph = {module: set() for module in sources}
    for module, kind, body in bodies:
        for name in re.findall(r"\b(?:self\s*\.|Self::)\s*(\w+)\s*(?:::<[^>]*>)?\(", body):
            if owners.get((kind, name), module) != module:
                graph[module].add(owners[kind, name])
    return graph


def bindings_graph() -> Graph:
    """Which modules of src/bindings each of them imports."""
    sources = {
        path.relative_to(BINDINGS).with_suffix("").parts: path.read_text()
        for path in BINDINGS.rglob("*.rs")
        if path.name != "mod.rs"
    }
    return {module: rust_imports(module, source, sources) for module, source in sources.items()}


def crate_graph(folder: Path) -> Graph:
    """Which modules of a crate each of them imports, or calls by `self`.

    `api/mod.rs` is the module `api`.
    """
    paths = [path.relative_to(folder) for path in folder.rglob("*.rs")]
    sources = {
        path.parts[:-1] if path.name == "mod.rs" else path.with_suffix("").parts: (
            folder / path
        ).read_text()
        for path in paths
        if path.parts[0] not in {"tests", "examples", "target"}
    }
    graph = rust_calls(sources)
    for module, source in sources.items():
        graph[module] |= rust_imports(module, source, sources, root=())
    return graph


# --- Python -------------------------------------------------------------------------


def imports(tree: ast.AST, path: str) -> Iterator[tuple[str, str | None]]:
    """What `import` statements name: (module, name in it or None), all absolute."""
    # The package that a relative import starts from: that of the file.
    base = [PACKAGE, *Path(path).parts[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = base[: len(base) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((module, alias.name) for alias in node.names)


def python_graph(files: Iterable[tuple[str, str]]) -> Graph:
    """Which modules of the package each of them imports; files are (path, source).

    An import for types alone counts too: to name a type is to know it. The package itself, with
    the public names, is the module `__init__`.
    """
    sources = {module_of(path): (path, source) for path, source in files}
    known = {*sources, ("_native",)}
    graph: Graph = {}
    for module, (path, source) in sources.items():
        needs = graph[module] = set()
        for target, name in imports(ast.parse(source), path):
            package, *names = target.split(".")
            if package == PACKAGE:
                found = (*names, name) if name else tuple(names)
                while found and found not in known:
                    found = found[:-1]
                needs.add(found or ("__init__",))
        needs.discard(module)
    return graph


def module_of(path: str) -> Module:
    """`context.body` for `context/body.py`, `context` for `context/__init__.py`."""
    names = Path(path).with_suffix("").parts
    return names[:-1] if len(names) > 1 and names[-1] == "__init__" else names


def check_python(path: str, source: str) -> list[str]:
    """What is wrong with the file at `path`, relative to the package, but for its floor."""
    tree = ast.parse(source)
    first = module_of(path)[0]
    if first == "__init__":
        return check_init(tree)
    if first in CONTEXT_USERS:
        return []
    return [f"{path}: touches Flask's contexts: {what}" for what in contexts(tree, path)]


def contexts(tree: ast.AST, path: str) -> Iterator[str]:
    for module, name in imports(tree, path):
        if module in CONTEXT_MODULES or f"{module}.{name}" in CONTEXT_MODULES:
            yield module
        elif module == "flask" and name in CONTEXT_NAMES:
            yield f"flask.{name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and (
            node.attr in CONTEXT_METHODS
            or (
                isinstance(node.value, ast.Name)
                and node.value.id == "flask"
                and node.attr in CONTEXT_NAMES
            )
        ):
            yield node.attr


def check_init(tree: ast.Module) -> list[str]:
    found = []
    for node in tree.body:
        match node:
            case ast.Expr(value=ast.Constant()):
                continue
            case ast.ImportFrom(level=level, module=module) if level or f"{module}.".startswith(
                f"{PACKAGE}."
            ):
                continue
            case ast.Assign(targets=[ast.Name(id="__all__")]):
                continue
        found.append(f"__init__.py:{node.lineno}: is not a re-export")
    return found


# --- The source ---------------------------------------------------------------------


def rust_files() -> list[str]:
    return sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / "src").rglob("*.rs"))


def python_files() -> list[str]:
    return sorted(p.relative_to(PYTHON).as_posix() for p in PYTHON.rglob("*.py"))


@pytest.mark.parametrize("path", rust_files())
def test_rust_file_keeps_to_its_layer(path):
    assert check_rust(path, (ROOT / path).read_text()) == []


def bindings() -> tuple[Graph, dict[Module, int]]:
    return bindings_graph(), floors((BINDINGS / "mod.rs").read_text())


def journal() -> tuple[Graph, dict[Module, int]]:
    return crate_graph(JOURNAL), floors((JOURNAL / "lib.rs").read_text())


def package() -> tuple[Graph, dict[Module, int]]:
    graph = python_graph((path, (PYTHON / path).read_text()) for path in python_files())
    return graph, floors((PYTHON / "__init__.py").read_text())


@pytest.mark.parametrize("source", [bindings, journal, package])
def test_every_part_has_a_floor(source):
    graph, floor = source()
    # What has none is (); what is not there any more has nothing in the graph.
    assert {part(module, floor) for module in graph} == floor.keys() - {("_native",)}


@pytest.mark.parametrize("source", [bindings, journal, package])
def test_parts_import_from_lower_floors_only(source):
    # Strictly lower: so no circle, of folders or of modules, leaves its folder.
    assert upward(*source()) == set()


@pytest.mark.parametrize("source", [journal, package])
def test_no_modules_import_each_other(source):
    assert circles(source()[0]) == []


def test_modules_of_the_engine_import_each_other_only_where_that_is_known():
    # A worker takes jobs from the pool that starts it. The list may only get shorter.
    assert circles(crate_graph(ROOT / "src/engine")) == ["pool", "shutdown", "worker"]


@pytest.mark.parametrize("crate", MAY_NOT_NEED)
def test_the_crate_needs_no_python(crate):
    manifest = tomllib.loads((ROOT / f"src/{crate}/Cargo.toml").read_text())
    assert check_manifest(crate, manifest) == []


@pytest.mark.parametrize("path", python_files())
def test_python_file_leaves_contexts_alone(path):
    assert check_python(path, (PYTHON / path).read_text()) == []


def test_the_source_was_found():
    assert {"src/lib.rs", "src/engine/lib.rs", "src/journal/lib.rs"} <= set(rust_files())
    assert "__init__.py" in python_files()


# --- The checker: each rule catches what it is for, and lets the rest pass ----------


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("src/engine/pool.rs", "use pyo3::prelude::*;"),
        ("src/engine/tests/loom.rs", "extern crate pyo3_ffi;"),
        ("src/engine/pool.rs", "fn f() { unsafe { g() } }"),
        ("src/journal/rows/store.rs", "use pyo3::prelude::*;"),
        ("src/journal/rows/store.rs", "fn f() { unsafe { g() } }"),
        ("src/engine/pool.rs", "use flask_delay_journal::Journal;"),
        ("src/lib.rs", "use flask_delay_engine::Pool;"),
        ("src/lib.rs", "use flask_delay_journal::Journal;"),
        ("src/lib.rs", "#[unsafe(no_mangle)] fn f() {}"),
        ("src/bindings/future.rs", "let x = '\"'; unsafe { g() }; let y = '\"';"),
        ("src/bindings/future.rs", "use crate::_native;"),
        ("src/bindings/ffi_less.rs", "unsafe impl Send for X {}"),
        ("src/bindings/logging.rs", 'py.import("flask_delay.config")?'),
        ("src/bindings/logging.rs", 'py.import(intern!(py, "flask_delay"))?'),
    ],
)
def test_a_rust_violation_is_caught(path, source):
    assert len(check_rust(path, source)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("src/engine/pool.rs", "//! Knows nothing of pyo3.\n/* unsafe */ #![forbid(unsafe_code)]"),
        ("src/engine/pool.rs", 'const S: &str = "unsafe { \\" pyo3 }"; // "unsafe'),
        ("src/engine/pool.rs", 'const S: &str = r#"unsafe " pyo3"#;'),
        ("src/engine/pool.rs", "fn f<'a>(x: &'a str, y: char) -> bool { y == '\\'' }"),
        ("src/bindings/ffi.rs", "unsafe { g() }"),
        ("src/bindings/ffi/fork.rs", "unsafe { g() }"),
        ("src/journal/file/vfs.rs", "unsafe { g() }"),
        ("src/journal/rows/store.rs", "use flask_delay_engine::Mutex;"),
        ("src/bindings/future.rs", "use crate::bindings::ffi; use flask_delay_engine::Pool;"),
        ("src/bindings/logging.rs", 'py.import("logging")?.call("getLogger", ("flask_delay",))'),
    ],
)
def test_good_rust_passes(path, source):
    assert check_rust(path, source) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("use super::task::{self, Task};", {"core::task"}),
        (
            "use crate::bindings::{ffi::{call, fork::generation}, names};",
            {"ffi::call", "ffi::fork", "names"},
        ),
        ("fn f() { crate::bindings::run::worker::main() }", {"run::worker"}),
        ("use crate::bindings::core::flags as other;", {"core::flags"}),
        ("// use crate::bindings::run::worker;\nuse std::sync::Arc;", set()),
    ],
)
def test_imports_of_the_bindings_are_found(source, found):
    known = [
        "core::task",
        "core::flags",
        "core::x",
        "ffi::call",
        "ffi::fork",
        "names",
        "run::worker",
    ]
    modules = [tuple(name.split("::")) for name in known]
    named = rust_imports(("core", "x"), source, modules)
    assert {"::".join(module) for module in named} == found


def test_imports_of_the_journal_are_found():
    known = {("lib",), ("api",), ("api", "task"), ("rows", "store"), ("group", "x")}
    source = """
        use crate::{Journal, api::Error, rows::store};
        use super::work::Group;
        fn f() { crate::api::task::g() }
    """
    assert rust_imports(("group", "x"), source, known, root=()) == {
        ("lib",),
        ("api",),
        ("api", "task"),
        ("rows", "store"),
    }


def test_a_method_that_another_module_defines_is_found():
    sources = {
        ("work",): "impl<'a> Group<'a> {\n    pub(crate) fn end(&mut self) {}\n}\nstruct Other;\n",
        ("chains",): """
impl Group<'_> {
    fn hear(&mut self) { self.end(); self.own(); self.field.hold(); }
    fn own(&self) {}
}
""",
        ("links",): "impl Link {\n    fn end(&self) { other.end() }\n    fn hold(&self) {}\n}\n",
    }
    assert rust_calls(sources) == {("work",): set(), ("chains",): {("work",)}, ("links",): set()}


FLOORS = """
//! 2. `run`: ...
# 1. `core`, `host.base`: ...
# 0. `ffi`, `host`: ...
"""


def test_an_import_that_points_up_or_across_is_caught():
    graph = {
        ("core", "a"): {("run", "b"), ("host", "base"), ("host", "x"), ("core", "d"), ("ffi",)},
        ("host", "x"): {("host", "base"), ("ffi", "e"), ("host", "y")},
        ("run",): {("core", "a"), ("host", "base"), ("host", "x")},
    }
    assert upward(graph, floors(FLOORS)) == {
        "core.a -> run.b",
        "core.a -> host.base",
        "host.x -> host.base",
        "host.x -> ffi.e",
    }


@pytest.mark.parametrize(
    "manifest",
    [
        "[dependencies]\npyo3 = '1'",
        "[dependencies]\nflask-delay = '1'",
        "[dev-dependencies]\npy = { package = 'pyo3', version = '1' }",
        "[target.'cfg(unix)'.build-dependencies]\npyo3-build-config = '1'",
    ],
)
@pytest.mark.parametrize("crate", MAY_NOT_NEED)
def test_a_python_dependency_is_caught(crate, manifest):
    assert len(check_manifest(crate, tomllib.loads(manifest))) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("compat/flask_executor.py", "from flask import has_request_context"),
        ("extension.py", "from flask import Flask, current_app"),
        ("extension.py", "from flask.globals import app_ctx"),
        ("extension.py", "import flask\nflask.g.user = 1"),
        ("extension.py", "import flask.ctx"),
        ("extension.py", "def f(app):\n    with app.app_context():\n        pass"),
        ("__init__.py", "import threading"),
        ("__init__.py", "from flask import Flask"),
        ("__init__.py", "def f(): ..."),
        ("__init__.py", "VALUE = 1"),
    ],
)
def test_a_python_violation_is_caught(path, source):
    assert len(check_python(path, source)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("extension.py", "from flask import Flask\nfrom flask_delay import config, context"),
        ("extension.py", "def f(request): return request.g.session"),
        ("context.py", "from flask import current_app, g\nfrom ._native import Future"),
        ("__init__.py", '"""Text."""\nfrom ._native import Future\n__all__ = ["Future"]'),
    ],
)
def test_good_python_passes(path, source):
    assert check_python(path, source) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from flask_delay.extension import Delay", {"extension"}),
        ("import flask_delay.extension", {"extension"}),
        ("from flask_delay import Delay, extension", {"__init__", "extension"}),
        ("import flask_delay", {"__init__"}),
        (
            "def f():\n    from flask_delay.context import body, current",
            {"context.body", "context"},
        ),
        ("from . import body\nfrom .. import extension", {"context.body", "extension"}),
        ("from .._native import Future\nfrom ..extension import Delay", {"_native", "extension"}),
        ("import flask\nfrom flask_delays import extension", set()),
    ],
)
def test_imports_of_the_package_are_found(source, found):
    others = ["__init__.py", "extension.py", "context/__init__.py", "context/body.py"]
    graph = python_graph([*((path, "") for path in others), ("context/sessions.py", source)])
    assert {".".join(module) for module in graph["context", "sessions"]} == found


def test_a_circle_is_caught():
    files = [
        ("tasks.py", "from flask_delay import submit"),
        ("submit.py", "from flask_delay.tasks import task"),
        ("config.py", "from flask_delay.tasks import task"),
        ("context.py", "import flask"),
    ]
    assert circles(python_graph(files)) == ["config", "submit", "tasks"]
    assert circles(python_graph([*files[:1], *files[2:]])) == []
