"""Owns where each option is declared, used and checked, read from the package's own source.

A use is an attribute of an object of the section's class, so that names which many things have are told apart. Nothing
is run, no torch is loaded. In: nothing. Out: `Uses` by class and name.
"""

import ast
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import cinelora
from cinelora.config.source_types import NOTHING, Module, Names, Sources, Types, Typing, raw, spread

Option = tuple[str, str]
"""The class in whose body an option stands, "module:Class", and its name."""


@dataclass
class Uses:
    """FILE:LINE of every option: where it is declared, where the work reads it, where only checks do."""

    declared: dict[Option, str] = field(default_factory=dict)
    used: dict[Option, list[str]] = field(default_factory=lambda: defaultdict(list))
    checked: dict[Option, list[str]] = field(default_factory=lambda: defaultdict(list))


def option_of(owner: type, name: str) -> Option:
    """The option as `Uses` calls it: by the class that declares it, which `owner` may have inherited it from."""
    declaring = [one for one in owner.__mro__ if name in getattr(one, "model_fields", {})][-1]
    return f"{declaring.__module__}:{declaring.__name__}", name


@cache
def uses() -> Uses:
    """Where all options of this package are used."""
    return read_uses(Path(cinelora.__file__).parent, tables=_TABLES)


def read_uses(package: Path, *, tables: Mapping[str, str] | None = None) -> Uses:
    """Where attributes of a package's classes are declared and used; `tables` as `Sources` takes them."""
    sources, found = Sources(package, tables), Uses()
    for module in sources.modules:  # what methods set, so that it is known to modules that are read before theirs
        for node in module.tree.body:
            if isinstance(node, ast.ClassDef):
                _Reading(sources, module, None).visit(node)
    for module in sources.modules:
        _Reading(sources, module, found).visit(module.tree)
    for word, one in sources.classes.items():
        path = next(module.path for module in sources.modules if module.name == word.partition(":")[0])
        found.declared |= {(word, name): f"{path}:{line}" for name, line in one.lines.items()}
    return found


class _Reading(ast.NodeVisitor):
    """Goes through a module in order, with what its names are at each point; notes uses in `found`, if given."""

    def __init__(self, sources: Sources, module: Module, found: Uses | None):
        self.sources, self.module, self.found = sources, module, found
        self.types = Typing(sources, module)
        self.names: Names = {}
        self.owner = ""
        self.only_checks = module.name.startswith("cinelora.config.") and module.name not in _READERS

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        """Methods are read with the class as their `self`."""
        was, self.owner = self.owner, f"{self.module.name}:{node.name}"
        self.generic_visit(node)
        self.owner = was

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        """Parameters have the types that they are annotated with."""
        was = dict(self.names), self.only_checks
        self.only_checks |= node.name.lstrip("_").startswith(_CHECKS) or any(
            "model_validator" in ast.unparse(one) for one in node.decorator_list
        )
        given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        self.names |= {one.arg: self.sources.annotated(one.annotation, self.module) for one in given}
        if given and given[0].arg == "self" and self.owner in self.sources.classes:
            self.names["self"] = frozenset({self.owner})
        for lambda_ in _given_back(node):
            self._bind_lambda(lambda_, node.returns)
        self.generic_visit(node)
        self.names, self.only_checks = was

    def _bind_lambda(self, node: ast.Lambda, annotation: ast.expr | None) -> None:
        """A lambda that is given back as Callable[[A, B], C] takes A and B."""
        if isinstance(annotation, ast.Subscript) and isinstance(annotation.slice, ast.Tuple):
            taken = annotation.slice.elts[0]
            if isinstance(taken, ast.List) and len(taken.elts) == len(node.args.args):
                for one, kind in zip(node.args.args, taken.elts, strict=True):
                    one.annotation = kind  # a lambda has no place for annotations of its own

    def visit_Lambda(self, node: ast.Lambda) -> None:
        """As a function."""
        was = dict(self.names)
        self.names |= {one.arg: self.sources.annotated(one.annotation, self.module) for one in node.args.args}
        self.generic_visit(node)
        self.names = was

    def visit_Assign(self, node: ast.Assign) -> None:
        """Names take the type of what they are set to."""
        self.generic_visit(node)
        for target in node.targets:
            self._assign(target, node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        """The annotation counts, or else the value."""
        self.generic_visit(node)
        self._set(
            node.target, self.sources.annotated(node.annotation, self.module) or self.types.of(node.value, self.names)
        )

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        """As an assignment."""
        self.generic_visit(node)
        self._assign(node.target, node.value)

    def _assign(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
            for one, of in zip(target.elts, value.elts, strict=True):
                self._assign(one, of)
        else:
            self._set(target, self.types.of(value, self.names))

    def _set(self, target: ast.expr, types: Types) -> None:
        self.names |= spread(target, types)
        if isinstance(target, ast.Attribute) and self.owner and types:
            for word in self.types.of(target.value, self.names):
                self.sources.learn(word, target.attr, types)

    def visit_For(self, node: ast.For) -> None:
        """The loop's names are what the iterable holds."""
        self.visit(node.iter)
        self.names |= self.types.bound(node.target, node.iter, self.names)
        for one in (*node.body, *node.orelse):
            self.visit(one)

    def _visit_comprehension(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp) -> None:
        was = dict(self.names)
        self.names |= self.types.drawn(node.generators, self.names)
        self.generic_visit(node)
        self.names = was

    visit_ListComp = visit_SetComp = visit_GeneratorExp = visit_DictComp = _visit_comprehension  # noqa: N815

    def visit_Attribute(self, node: ast.Attribute) -> None:
        """Where an option is read."""
        self.generic_visit(node)
        if isinstance(node.ctx, ast.Load):
            self._note(self.types.of(node.value, self.names), node.attr, node.lineno)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        """A raw table of the recipe is read by its keys."""
        self.generic_visit(node)
        if isinstance(node.slice, ast.Constant):
            self._note(raw(self.types.of(node.value, self.names)), str(node.slice.value), node.lineno)

    def visit_Call(self, node: ast.Call) -> None:
        """`getattr(options, name)` and `table.get(name)` read, too; any text of the module may be such a name."""
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id == "getattr":
            of, name = self.types.of(node.args[0], self.names), node.args[1]
        elif isinstance(node.func, ast.Attribute) and node.func.attr == "get" and node.args:
            of, name = raw(self.types.of(node.func.value, self.names)), node.args[0]
        else:
            return
        words = {str(name.value)} if isinstance(name, ast.Constant) else self.module.literals if of else set()
        for word in words:
            self._note(of, word, node.lineno)

    def _note(self, types: Types, name: str, line: int) -> None:
        if self.found is None:
            return
        table = self.found.checked if self.only_checks else self.found.used
        for word in types or NOTHING:
            owner = self.sources.owner(word, name)
            place = f"{self.module.path}:{line}"
            if owner and place not in table[owner, name]:
                table[owner, name].append(place)


_CHECKS = ("check", "dead", "nothing_dead")
"""How functions begin that only look whether a recipe can be followed."""
_TABLES = {"cinelora.config.load:Source": "cinelora.config.recipe:Recipe"}
_READERS = ("cinelora.config.load",)
"""Modules of this room that work with what they read; others look at it."""


def _given_back(node: ast.FunctionDef) -> list[ast.Lambda]:
    return [one.value for one in node.body if isinstance(one, ast.Return) and isinstance(one.value, ast.Lambda)]
