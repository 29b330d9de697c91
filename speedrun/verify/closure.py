"""Which modules of the project a source loads when it is imported."""
import ast
from functools import lru_cache


def not_in_the_log(sources: dict[str, str], tree) -> list[str]:
    """The files of `tree` that the sources import at their top level and that are not among them: a log must
    hold all the code that ran."""
    missing = set()
    for path, text in sources.items():
        for module in _imported(path, text):
            base = module.replace(".", "/")
            missing |= {name for name in (f"{base}.py", f"{base}/__init__.py")
                        if name in tree and name not in sources}
    return sorted(missing)


@lru_cache(maxsize=4096)
def _imported(path: str, text: str) -> frozenset[str]:
    """The dotted names that the module at `path` may import at its top level, and their packages."""
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return frozenset()
    package, names = path.split("/")[:-1], set()
    for node in _top_level(body):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[:len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            names |= {base, *(f"{base}.{alias.name}".lstrip(".") for alias in node.names)}
    return frozenset(".".join(name.split(".")[:i]) for name in names for i in range(1, name.count(".") + 2))


def _top_level(body: list):
    """The import statements that run when a module is loaded."""
    for node in body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node
        elif isinstance(node, (ast.If, ast.Try, ast.With)):
            parts = [node.body, getattr(node, "orelse", []), getattr(node, "finalbody", [])]
            parts += [handler.body for handler in getattr(node, "handlers", [])]
            for part in parts:
                yield from _top_level(part)
