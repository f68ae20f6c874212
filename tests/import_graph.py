"""The graph of a package's own imports, read from its source without importing it."""

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

TOP, LAZY, TYPING = "at the top", "inside a function", "for types only"


@dataclass(frozen=True)
class Import:
    """One module of the package imports another.

    Attributes:
        importer, imported: dotted names below the package, such as `data.records`; the package itself is "".
        line: in the importer's file.
        kind: `TOP`, `LAZY` or `TYPING`, which all count; they tell how soon the import hurts.
    """

    importer: str
    imported: str
    line: int
    kind: str = TOP

    def __str__(self) -> str:
        return f"{self.importer or '__init__'}, line {self.line}, imports {self.imported or '__init__'} {self.kind}"


@dataclass(frozen=True)
class Graph:
    """All modules of a package and the imports between them.

    Attributes:
        modules: path of each module's file by its name; a folder's `__init__` has the name of the folder.
        imports: those within the package.
        others: top-level names of other packages by the module that imports them, wherever in the module.
    """

    modules: Mapping[str, Path]
    imports: tuple[Import, ...]
    others: Mapping[str, frozenset[str]]


def read_graph(package: Path) -> Graph:
    """Reads every `.py` file below the folder of a package."""
    modules = {_name(path.relative_to(package)): path for path in sorted(package.rglob("*.py"))}
    imports: list[Import] = []
    others: dict[str, frozenset[str]] = {}
    for name, path in modules.items():
        foreign = set()
        for node, kind in _import_nodes(ast.parse(path.read_text(encoding="utf-8"))):
            for target in _targets(node, name, path, package.name, modules):
                if target is None:
                    continue
                if target.startswith(":"):
                    foreign.add(target[1:])
                else:
                    imports.append(Import(name, target, node.lineno, kind))
        others[name] = frozenset(foreign)
    return Graph(modules, tuple(dict.fromkeys(imports)), others)


def room(module: str) -> str:
    """The folder directly below the package that holds a module, or the module itself if it lies in none."""
    return module.split(".")[0]


def forbidden_imports(graph: Graph, rooms: Mapping[str, Iterable[str]]) -> list[str]:
    """Imports that the table of rooms does not allow, and rooms that it lacks.

    Args:
        graph: of the package.
        rooms: the other rooms that each room may import; the package's own `__init__` is the room "".
    """
    missing = {room(module) for module in graph.modules} - set(rooms)
    found = [f"the table lacks the room {name!r}" for name in sorted(missing)]
    for one in graph.imports:
        source, target = room(one.importer), room(one.imported)
        if source != target and source in rooms and target not in rooms[source]:
            found.append(str(one))
    return found


def circles(graph: Graph) -> list[list[str]]:
    """Groups of modules that import each other in a circle, of any kind of import."""
    following: dict[str, list[str]] = {module: [] for module in graph.modules}
    for one in graph.imports:
        following[one.importer].append(one.imported)
    found = []
    for module in graph.modules:
        reached = closure(following, following[module])
        if module in reached:
            group = sorted(other for other in reached if module in closure(following, following[other]))
            if group not in found:
                found.append(group)
    return found


def closure(following: Mapping[str, Iterable[str]], start: Iterable[str]) -> set[str]:
    """All modules that can be reached from some, these included."""
    reached: set[str] = set()
    waiting = list(start)
    while waiting:
        module = waiting.pop()
        if module not in reached:
            reached.add(module)
            waiting += following[module]
    return reached


def not_flat(folder: Path) -> list[str]:
    """Imports in a folder's files that keep it from being copied elsewhere as a flat set of files.

    transformers follows only `from .name import x`. Imports of other packages are no concern of this check, imports of
    the folder's own package are.
    """
    found = []
    for path in sorted(folder.glob("*.py")):
        for node, _ in _import_nodes(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                own = [alias.name for alias in node.names if alias.name.split(".")[0] == folder.parent.name]
            elif node.level == 0:
                own = [node.module] if (node.module or "").split(".")[0] == folder.parent.name else []
            else:
                is_sibling = node.level == 1 and node.module and (folder / f"{node.module}.py").is_file()
                own = [] if is_sibling else ["." * node.level + (node.module or "")]
            found += [f"{path.name}, line {node.lineno}, imports {name}" for name in own]
    return found


def _name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _import_nodes(tree: ast.Module) -> Iterator[tuple[ast.Import | ast.ImportFrom, str]]:
    def visit(node: ast.AST, kind: str) -> Iterator[tuple[ast.Import | ast.ImportFrom, str]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.Import, ast.ImportFrom)):
                yield child, kind
            elif isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
                yield from visit(child, LAZY)
            elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                yield from visit(child, TYPING)
            else:
                yield from visit(child, kind)

    return visit(tree, TOP)


def _targets(
    node: ast.Import | ast.ImportFrom, importer: str, path: Path, package: str, modules: Mapping[str, Path]
) -> list[str | None]:
    """Names of the imported modules below the package; of other packages ":" and their top-level name."""
    if isinstance(node, ast.Import):
        names = [alias.name.split(".") for alias in node.names]
        return [_known(parts[1:], modules) if parts[0] == package else f":{parts[0]}" for parts in names]
    if node.level == 0:
        parts = (node.module or "").split(".")
        if parts[0] != package:
            return [f":{parts[0]}"]
        base = parts[1:]
    else:
        folder = importer.split(".") if importer else []
        if path.name != "__init__.py":
            folder = folder[:-1]
        base = folder[: len(folder) - node.level + 1] + (node.module.split(".") if node.module else [])
    # A name that is imported from a folder may be a module.
    return [_known([*base, alias.name], modules) for alias in node.names]


def _known(parts: list[str], modules: Mapping[str, Path]) -> str | None:
    """The longest beginning of a dotted name that is a module."""
    while parts and ".".join(parts) not in modules:
        parts = parts[:-1]
    return ".".join(parts)
