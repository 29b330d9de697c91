"""Definitions out of this project's modules, verbatim, as one piece of code that imports none of them.

A definition is a class, a function or an assignment at the top level of a module. `gather` follows the
names that a definition uses, through imports: the piece holds what was asked for and what that needs. Of a
docstring it has the first paragraph, and of a table, a dictionary by names, the rows whose names it uses.
"""
import ast
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from speedrun.cli import Refusal

SEARCHED = ("{}.py", "{}/__init__.py")  # where under the root a module may be


@dataclass(frozen=True)
class Import:
    """`import module as name`, or with `of`: `from module import of as name`."""

    module: str
    of: str | None
    name: str
    path: str | None = None  # of the project's file, None for a module from elsewhere

    @property
    def words(self) -> str:
        bound, given = (self.module, self.module.split(".")[0]) if self.of is None else (self.of, self.of)
        return bound if given == self.name else f"{bound} as {self.name}"


@dataclass
class Module:
    """A file of the project, read and not run."""

    path: str
    lines: list[str]
    definitions: dict[str, ast.stmt] = field(default_factory=dict)
    imports: dict[str, Import] = field(default_factory=dict)
    kept: dict[int, ast.stmt] = field(default_factory=dict)  # by first line


@dataclass
class Gathered:
    """What `gather` found: `code` runs once `imports`, none of them of the project, have run."""

    imports: set[Import]
    names: set[str]   # that the code binds
    code: str


def bindings(body: list) -> set[str]:
    """The names that statements bind in their scope: by assignment, `for`, `with`, `def`, `import` ..."""
    found, left = set(), list(body)
    while left:
        node = left.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
            continue  # what is inside has a scope of its own
        if isinstance(node, (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)):
            continue
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            found |= {bound.name for bound in read_import(node)}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.ExceptHandler) and node.name:
            found.add(node.name)
        left += ast.iter_child_nodes(node)
    return found


def read_import(node: ast.stmt, root: Path | None = None, path: str = "") -> list[Import]:
    """What an import statement binds. With a root, imports of files under it have their `path`."""
    found = []
    for alias in node.names:
        level, of = (node.level, alias.name) if isinstance(node, ast.ImportFrom) else (0, None)
        module = (node.module or "") if of else alias.name
        inside = ((Path(path).parent if level else Path()) / module.replace(".", "/")).as_posix()
        files = [pattern.format(inside) for pattern in SEARCHED]
        file = next((file for file in files if root and (root / file).is_file()), None)
        found.append(Import("." * level + module, of, alias.asname or alias.name.split(".")[0], file))
    return found


def top_level_imports(body: list) -> list:
    """The import statements of a module, those in a `try` included."""
    inside = [*body, *(node for each in body if isinstance(each, ast.Try) for node in each.body)]
    return [node for node in inside if isinstance(node, (ast.Import, ast.ImportFrom))]


class _Gatherer:
    def __init__(self, root: Path, tables: Collection, words: Collection):
        self.root, self.tables = root, tables  # tables: (path, name)
        self.words = set(words)  # the texts in what is kept: a row of a table is kept with its name
        self.modules: dict[str, Module] = {}
        self.imports: set[Import] = set()

    def module(self, path: str) -> Module:
        if path in self.modules:
            return self.modules[path]
        text = (self.root / path).read_text(encoding="utf-8")
        module, body = Module(path, text.splitlines()), ast.parse(text).body
        self.modules[path] = module
        for statement in top_level_imports(body):
            module.imports.update({found.name: found for found in read_import(statement, self.root, path)})
        for node in body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)):
                module.definitions.update(dict.fromkeys(bindings([node]), node))
        return module

    def in_order(self) -> list[Module]:
        """The modules that were read, each after those that it imports."""
        found: dict[str, Module] = {}

        def visit(module: Module, above: tuple) -> None:
            for path in dict.fromkeys(bound.path for bound in module.imports.values()):
                if path in self.modules and path not in found and path not in above:
                    visit(self.modules[path], (*above, path))
            found[module.path] = module

        for module in self.modules.values():
            if module.path not in found:
                visit(module, (module.path,))
        return list(found.values())

    def keep(self, module: Module, name: str) -> None:
        """Keep the definition of `name` as it is seen in `module`, and all that it uses."""
        found = module.imports.get(name)
        if found is not None and found.path is None:
            self.imports.add(found)
        elif found is not None:
            if found.of != name:
                raise Refusal(f"{module.path} imports {name} as a module or under a name not its own; use "
                              "`from ... import ...` and the name it has, so that it can be exported")
            self.keep(self.module(found.path), name)
        elif name in module.definitions:
            node = module.definitions[name]
            if node.lineno not in module.kept:
                module.kept[node.lineno] = node
                if node not in self.tables_of(module):
                    self.follow(module, node)
        else:
            raise Refusal(f"{module.path} defines no {name} at its top level, so it cannot be exported")

    def tables_of(self, module: Module) -> list[ast.Assign]:
        """The definitions of `module` that are tables, of what is kept."""
        nodes = [module.definitions.get(name) for path, name in self.tables if path == module.path]
        return [node for node in nodes if node and node.lineno in module.kept]

    def keep_rows(self) -> None:
        """Keep what the rows of tables use whose keys are among the words; it may have more of both."""
        done: set = set()
        while rows := {(module.path, value.lineno): (module, value) for module in self.modules.values()
                       for node in self.tables_of(module) for _, value in _rows(node, self.words)
                       if (module.path, value.lineno) not in done}:
            done |= rows.keys()
            for module, value in rows.values():
                self.follow(module, value)

    def follow(self, module: Module, node: ast.AST) -> None:
        for inner in ast.walk(node):
            if isinstance(inner, ast.Constant) and isinstance(inner.value, str):
                self.words.add(inner.value)
            elif isinstance(inner, ast.Name):
                if inner.id in module.definitions or inner.id in module.imports:
                    self.keep(module, inner.id)
            elif isinstance(inner, (ast.Import, ast.ImportFrom)):
                if any(found.path for found in read_import(inner, self.root, module.path)):
                    raise Refusal(f"{module.path}:{inner.lineno}: an import of the project inside a "
                                  "definition; move it to the top of the file, so that it can be exported")


def gather(root: Path, wanted: list[tuple[str, str]], tables: Collection = (),
           words: Collection = ()) -> Gathered:
    """The definitions of `wanted`, (path under root, name), and of all they use, in an order that runs.

    tables: those, (path, name), that are dictionaries of which only some rows are kept: the ones whose key
    is in `words`, or a text in what is kept. Comments right above a definition, or a row, stay with it.
    Refusal for a name that is not there, an import that renames, and one name with two definitions.
    """
    gatherer, pieces, owners = _Gatherer(root, tables, words), [], {}
    for path, name in wanted:
        gatherer.keep(gatherer.module(path), name)
    gatherer.keep_rows()
    for module in gatherer.in_order():
        nodes = [module.kept[line] for line in sorted(module.kept)]
        for node in nodes:
            for name in bindings([node]):
                if owners.setdefault(name, module.path) != module.path:
                    raise Refusal(f"{owners[name]} and {module.path} both define {name}; rename one, so "
                                  "that both fit into one file")
        if nodes:
            texts = [_table(module.lines, node, gatherer.words) if node in gatherer.tables_of(module) else
                     _verbatim(module.lines, node) for node in nodes]
            pieces.append(f"# From {module.path}\n\n{_spaced(nodes, texts)}")
    return Gathered(gatherer.imports, set(owners), "\n\n".join(pieces) + "\n")


def _spaced(nodes: list, texts: list[str]) -> str:
    """The definitions, a blank line around classes and functions, as train_gpt_simple.py has them."""
    found, last = "", None
    for node, text in zip(nodes, texts):
        block = not isinstance(node, (ast.Assign, ast.AnnAssign))
        found += ("" if last is None else "\n\n" if block or last else "\n") + text
        last = block
    return found


def _above(lines: list[str], line: int) -> int:
    """The index of the first of the comment lines right above `line`, which counts from 1."""
    start = line - 1
    while start and lines[start - 1].lstrip().startswith("#"):
        start -= 1
    return start


def _verbatim(lines: list[str], node: ast.stmt) -> str:
    """A definition with the comments above it, and of each docstring the first paragraph."""
    start = _above(lines, min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))]))
    kept = dict(enumerate(lines[start:node.end_lineno], start))
    for inner in ast.walk(node):
        if isinstance(inner, (ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(inner) is not None:
            first, last = inner.body[0].lineno - 1, inner.body[0].end_lineno - 1
            blank = next((i for i in range(first, last) if not lines[i].strip()), None)
            if blank is not None:
                kept[blank - 1] += '"""'
                for i in range(blank, last + 1):
                    del kept[i]
    return "\n".join(kept.values())


def _rows(table: ast.Assign, words: set[str]) -> list[tuple]:
    """(key, value) of the rows of a dictionary whose keys are among `words`."""
    pairs = zip(table.value.keys, table.value.values)
    return [(key, value) for key, value in pairs if key.value in words]


def _table(lines: list[str], node: ast.Assign, words: set[str]) -> str:
    """A dictionary with its rows that `words` name, each with the comments above it."""
    rows, name = _rows(node, words), node.targets[0].id
    if len(rows) == len(node.value.keys):
        return _verbatim(lines, node)
    if not rows:
        return f"{name} = {{}}"
    kept = [line for key, value in rows for line in lines[_above(lines, key.lineno):value.end_lineno]]
    return "\n".join([*lines[_above(lines, node.lineno):node.lineno], *kept, "}"])


def import_lines(imports: set[Import]) -> list[str]:
    """The statements of `imports`, those of one module in one line."""
    plain = [f"import {found.words}" for found in sorted(imports, key=str) if found.of is None]
    modules = sorted({found.module for found in imports if found.of is not None})
    return plain + [f"from {module} import " + ", ".join(
        sorted(found.words for found in imports if found.module == module and found.of is not None))
        for module in modules]
