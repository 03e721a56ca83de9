"""Owns what the package's own source says of types: which expression is an object of which class.

Nothing is run. In: the parsed modules of a package. Out: `Sources`, which answers from annotations, assignments and
loops, as far as these say it; an expression of which they say nothing has no type.

A type is a set of words: "module:Class", with a * in front for each list, tuple or table around it, or a & for the raw
table that an object of the class is made from (`Sources.tables` says where raw tables of which class are).
"""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

Types = frozenset[str]
NOTHING: Types = frozenset()
_CONTAINERS = {"list", "tuple", "set", "frozenset", "dict", "Sequence", "Iterable", "Iterator", "Mapping", "Collection"}
_SAME = {"list", "tuple", "sorted", "set", "reversed", "iter", "dict", "replace", "next", "cast"}
"""Calls that give back what they are given, as far as its class goes."""
_OF_SELF = {"model_copy", "values", "items", "copy"}


@dataclass
class Class:
    """A class of the package: its bases, the types of its attributes, what its methods give back."""

    bases: list[str] = field(default_factory=list)
    attributes: dict[str, Types] = field(default_factory=dict)
    gives: dict[str, Types] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)


@dataclass
class Module:
    """A module of the package: its path below the package's parent, its tree.

    `words` are its names for what it imports and declares, as "module:name"; `literals` the texts that stand in it.
    """

    name: str
    path: str
    tree: ast.Module
    words: dict[str, str] = field(default_factory=dict)
    literals: set[str] = field(default_factory=set)


class Sources:
    """All modules of a package, with the classes and functions in them."""

    def __init__(self, package: Path, tables: Mapping[str, str] | None = None):
        self.tables = {word: frozenset({f"&{of}"}) for word, of in (tables or {}).items()}
        """Classes whose attribute `tables` is the raw table of another."""
        self.modules = [_module(path, package) for path in sorted(package.rglob("*.py"))]
        self.classes: dict[str, Class] = {}
        self.gives: dict[str, Types] = {}
        for module in self.modules:
            for node in module.tree.body:
                if isinstance(node, ast.ClassDef):
                    self.classes[f"{module.name}:{node.name}"] = Class()
        for module in self.modules:
            self._declare(module)

    def _declare(self, module: Module) -> None:
        for node in module.tree.body:
            if isinstance(node, ast.FunctionDef):
                self.gives[f"{module.name}:{node.name}"] = self.annotated(node.returns, module)
            elif isinstance(node, ast.ClassDef):
                self._declare_class(node, module)

    def _declare_class(self, node: ast.ClassDef, module: Module) -> None:
        found = self.classes[f"{module.name}:{node.name}"]
        found.bases = [module.words.get(base.id, "") for base in node.bases if isinstance(base, ast.Name)]
        for item in node.body:
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                found.attributes[item.target.id] = self.annotated(item.annotation, module)
                found.lines[item.target.id] = item.lineno
            elif isinstance(item, ast.FunctionDef):
                gives = self.annotated(item.returns, module)
                found.gives[item.name] = gives
                if any(_last(one).endswith("property") for one in item.decorator_list):
                    found.attributes[item.name] = gives

    def annotated(self, node: ast.expr | None, module: Module) -> Types:
        """The type that an annotation names."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return self.annotated(ast.parse(node.value, mode="eval").body, module)
        if isinstance(node, ast.Name):
            word = module.words.get(node.id, "")
            return frozenset({word}) if word in self.classes else NOTHING
        if isinstance(node, ast.BinOp):
            return self.annotated(node.left, module) | self.annotated(node.right, module)
        if isinstance(node, ast.Subscript) and _last(node.value) not in ("Literal", "type", "Callable"):
            inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
            found = NOTHING.union(*(self.annotated(one, module) for one in inner))
            name = _last(node.value)
            return frozenset(f"*{word}" for word in found) if name in _CONTAINERS else found
        return NOTHING

    def lineage(self, word: str) -> Iterator[str]:
        """A class and all that it inherits from."""
        if word in self.classes:
            yield word
            for base in self.classes[word].bases:
                yield from self.lineage(base)

    def owner(self, word: str, attribute: str) -> str:
        """The class in whose body an attribute stands; "" where none of the lineage has it."""
        return next((one for one in self.lineage(word) if attribute in self.classes[one].lines), "")

    def attribute(self, types: Types, name: str, *, called: bool = False) -> Types:
        """The type of an attribute, or of what a method gives back."""
        found: set[str] = set()
        for word in types:
            for one in self.lineage(word):
                table = self.classes[one].gives if called else self.classes[one].attributes
                if name in table:
                    found |= table[name]
                    break
        return frozenset(found)

    def learn(self, word: str, name: str, types: Types) -> None:
        """Note the type of an attribute that a method sets."""
        table = self.classes[word].attributes
        table[name] = table.get(name, NOTHING) | types


def _module(path: Path, package: Path) -> Module:
    inside = path.relative_to(package.parent)
    name = ".".join(inside.with_suffix("").parts)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    module = Module(name, inside.as_posix(), tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            module.words |= {one.asname or one.name: f"{node.module}:{one.name}" for one in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            module.literals.add(node.value)
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            module.words[node.name] = f"{name}:{node.name}"
    return module


def _last(node: ast.expr) -> str:
    """The last name of a dotted expression."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


Names = dict[str, Types]


class Typing:
    """The types of expressions in one module, given those of its names."""

    def __init__(self, sources: Sources, module: Module):
        self.sources, self.module = sources, module

    def of(self, node: ast.AST | None, names: Mapping[str, Types]) -> Types:
        """The type of an expression."""
        kind = type(node).__name__
        look = getattr(self, f"_{kind.lower()}", None)
        return look(node, names) if look else NOTHING

    def _name(self, node: ast.Name, names: Mapping[str, Types]) -> Types:
        return names.get(node.id, NOTHING)

    def _attribute(self, node: ast.Attribute, names: Mapping[str, Types]) -> Types:
        if node.attr == "tables" and self.of(node.value, names) & self.sources.tables.keys():
            return NOTHING.union(*(self.sources.tables[word] for word in self.of(node.value, names)))
        return self.sources.attribute(self.of(node.value, names), node.attr)

    def _subscript(self, node: ast.Subscript, names: Mapping[str, Types]) -> Types:
        found = self.of(node.value, names)
        if table := self._raw(found, node.slice):
            return table
        return found if isinstance(node.slice, ast.Slice) else inside(found)

    def _raw(self, types: Types, key: ast.expr) -> Types:
        """The raw table below a key of a raw table."""
        name = str(key.value) if isinstance(key, ast.Constant) else ""
        return frozenset(f"&{word}" for word in self.sources.attribute(raw(types), name) if word[0] not in "*&")

    def _boolop(self, node: ast.BoolOp, names: Mapping[str, Types]) -> Types:
        return NOTHING.union(*(self.of(one, names) for one in node.values))

    def _ifexp(self, node: ast.IfExp, names: Mapping[str, Types]) -> Types:
        return self.of(node.body, names) | self.of(node.orelse, names)

    def _namedexpr(self, node: ast.NamedExpr, names: Mapping[str, Types]) -> Types:
        return self.of(node.value, names)

    def _starred(self, node: ast.Starred, names: Mapping[str, Types]) -> Types:
        return inside(self.of(node.value, names))

    def _tuple(self, node: ast.Tuple | ast.List, names: Mapping[str, Types]) -> Types:
        return around(NOTHING.union(*(self.of(one, names) for one in node.elts)))

    _list = _tuple

    def _dict(self, node: ast.Dict, names: Mapping[str, Types]) -> Types:
        return around(NOTHING.union(*(self.of(one, names) for one in node.values)))

    def _listcomp(self, node: ast.ListComp | ast.GeneratorExp, names: Mapping[str, Types]) -> Types:
        return around(self.of(node.elt, {**names, **self.drawn(node.generators, names)}))

    _generatorexp = _listcomp

    def _dictcomp(self, node: ast.DictComp, names: Mapping[str, Types]) -> Types:
        return around(self.of(node.value, {**names, **self.drawn(node.generators, names)}))

    def _call(self, node: ast.Call, names: Mapping[str, Types]) -> Types:
        if isinstance(node.func, ast.Name):
            return self._called(node.func.id, node, names)
        if not isinstance(node.func, ast.Attribute):
            return NOTHING
        method, owner = node.func.attr, self.of(node.func.value, names)
        if method in _OF_SELF:
            return owner
        if method in ("get", "pop", "setdefault"):
            return (node.args and self._raw(owner, node.args[0])) or inside(owner)
        if method == "model_validate":
            return frozenset({self.module.words.get(_last(node.func.value), "")} & self.sources.classes.keys())
        return self.sources.attribute(owner, method, called=True)

    def _called(self, name: str, node: ast.Call, names: Mapping[str, Types]) -> Types:
        word = self.module.words.get(name, "")
        if word in self.sources.classes:
            return frozenset({word})
        if word in self.sources.gives:
            return self.sources.gives[word]
        given = [self.of(one, names) for one in node.args]
        if name == "next":
            return inside(given[0])
        if name == "enumerate":
            return frozenset(f"*{one}" for one in given[0])
        if name == "zip":
            return frozenset(f"*{one}" for one in NOTHING.union(*given))
        return given[0] if name in _SAME and given else NOTHING

    def drawn(self, generators: list[ast.comprehension], names: Mapping[str, Types]) -> Names:
        """The names that a comprehension binds."""
        found: Names = {}
        for one in generators:
            found |= self.bound(one.target, one.iter, {**names, **found})
        return found

    def bound(self, target: ast.expr, source: ast.expr, names: Mapping[str, Types]) -> Names:
        """The names that going through `source` binds: `for target in source`."""
        if isinstance(source, ast.Call) and isinstance(source.func, ast.Name) and isinstance(target, ast.Tuple):
            if source.func.id == "zip" and len(target.elts) == len(source.args):
                pairs = zip(target.elts, source.args, strict=True)
                return {k: v for part, of in pairs for k, v in self.bound(part, of, names).items()}
            if source.func.id == "enumerate" and len(target.elts) == 2:
                return self.bound(target.elts[1], source.args[0], names)
        return spread(target, inside(self.of(source, names)))


def raw(types: Types) -> Types:
    """The classes whose raw tables these are."""
    return frozenset(word[1:] for word in types if word.startswith("&"))


def inside(types: Types) -> Types:
    """What a container of this type holds."""
    return frozenset(word[1:] for word in types if word.startswith("*"))


def around(types: Types) -> Types:
    """A container of this type."""
    return frozenset(f"*{word}" for word in types)


def spread(target: ast.expr, types: Types) -> Names:
    """Names of a target and their types; of several names each takes what the container holds."""
    if isinstance(target, ast.Name):
        return {target.id: types}
    if isinstance(target, ast.Starred):
        return spread(target.value, types)
    if isinstance(target, ast.Tuple | ast.List):
        held = inside(types) or types
        return {k: v for part in target.elts for k, v in spread(part, held).items()}
    return {}
