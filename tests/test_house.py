"""The rules of the house that a machine can hold: floors, sizes, a torch-free head, options, words."""

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src" / "cinelora"
FLOORS = [
    {"base"},
    {"contracts"},
    {"lora", "noise", "nets", "media", "toy", "engine"},
    {"families", "data", "methods", "train", "preview", "report"},
    {"config"},
    {"commands"},
    {"cli"},
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
FILES = sorted(p for p in SRC.rglob("*.py"))
WAIVERS = (ROOT / "tests" / "waivers.txt").read_text().splitlines()


def waived(rule: str, what: str) -> bool:
    """Waivers stand in one file as `rule what -- reason`; the list may only shrink."""
    return any(line.startswith(f"{rule} {what} -- ") for line in WAIVERS)


def room_of(path: Path) -> str:
    return path.relative_to(SRC).parts[0]


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""


def functions(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{path.relative_to(SRC)}:{node.name}", (node.end_lineno or node.lineno) - node.lineno + 1


def test_every_room_has_a_floor():
    rooms = {p.name for p in SRC.iterdir() if p.is_dir() and (p / "__init__.py").exists()}
    assert rooms == set(FLOOR_OF)


def test_imports_go_down_only():
    wrong = []
    for path in FILES:
        if path.parent == SRC:
            continue
        room = room_of(path)
        for name in imports(path):
            parts = name.split(".")
            if parts[0] != "cinelora" or len(parts) < 2 or parts[1] == room:
                continue
            if FLOOR_OF[parts[1]] >= FLOOR_OF[room]:
                wrong.append(f"{path.relative_to(SRC)} imports {name}")
    assert not wrong


def test_inits_below_the_top_are_empty():
    assert [p for p in FILES if p.name == "__init__.py" and p.parent != SRC and p.read_text().strip()] == []


def test_functions_are_short():
    sizes = [item for path in FILES for item in functions(path)]
    assert [f"{name}: {size}" for name, size in sizes if size > 60 and not waived("function", name)] == []
    short = sum(size <= 35 for _, size in sizes) / len(sizes)
    assert short >= 0.9, f"{short:.0%} of functions have 35 lines or fewer"


def test_files_are_short():
    sizes = [(p.relative_to(SRC), p.read_text().count("\n")) for p in FILES]
    limit = {str(p): 500 if "nets" in p.parts else 400 for p, _ in sizes}
    assert [f"{p}: {n}" for p, n in sizes if n > limit[str(p)] and not waived("file", str(p))] == []


def test_every_file_says_what_it_owns():
    silent = [p for p in FILES if p.name != "__init__.py" and not ast.get_docstring(ast.parse(p.read_text()))]
    assert silent == []


def test_waivers_have_reasons_and_are_needed():
    for line in filter(None, WAIVERS):
        rule, what, reason = re.fullmatch(r"(function|file) (\S+) -- (.+)", line).groups()
        assert len(reason) > 10
        if rule == "function":
            assert dict(item for path in FILES for item in functions(path))[what] > 60
        else:
            assert (SRC / what).read_text().count("\n") > 400


HEAD = ["cinelora.cli.app", "cinelora.config.load", "cinelora.config.write", "cinelora.families.registry"]


@pytest.mark.parametrize("name", [*HEAD, "cinelora.contracts.roles", "cinelora.toy.judge"])
def test_head_loads_no_torch(name):
    code = f"import sys, {name}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_help_loads_no_pydantic():
    code = "import sys, cinelora.cli.app; sys.exit('pydantic' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def option_classes() -> list[type]:
    from cinelora.contracts.options import Options

    for path in SRC.rglob("*.py"):
        if path.name in ("options.py", "recipe.py") and path.parent.name != "contracts":
            importlib.import_module("cinelora." + ".".join(path.relative_to(SRC).with_suffix("").parts))
    return sorted(
        (c for c in Options.__subclasses__() if c.__module__.startswith("cinelora.")), key=lambda c: c.__name__
    )


def test_every_option_has_help_and_is_read():
    """Read means that work reads it from an object of its class (`config/uses.py`); to check it alone is not enough."""
    from cinelora.config.uses import option_of, uses

    classes, found = option_classes(), uses()
    assert len(classes) >= 10
    for cls in classes:
        for name, info in cls.model_fields.items():
            assert info.description, f"{cls.__name__}.{name} has no help"
            assert len(info.description) > 10, f"{cls.__name__}.{name}: {info.description}"
            assert found.used.get(option_of(cls, name)), f"nothing reads {cls.__name__}.{name}"


def test_only_if_names_a_field_and_its_values():
    for cls in option_classes():
        for name, info in cls.model_fields.items():
            extra = info.json_schema_extra
            if isinstance(extra, dict) and "only_if" in extra:
                other, values = extra["only_if"]
                assert other in cls.model_fields, f"{cls.__name__}.{name}"
                assert values, f"{cls.__name__}.{name}"


SYNONYMS = re.compile(
    r"(^|_)(unet|utils?|helpers?|common|core|manager|dataset|dataloader|sample_n|img|vid|ckpt)(_|s?$)", re.I
)


def test_one_word_for_a_thing():
    """Public names of shared code use the house's words; family rooms may name what only they have."""
    wrong = []
    for path in FILES:
        if room_of(path) in ("families", "lora") or path.parent == SRC:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                plain = re.sub(r"(?<!^)(?=[A-Z])", "_", node.name).lower()
                if SYNONYMS.search(plain):
                    wrong.append(f"{path.relative_to(SRC)}:{node.name}")
        if SYNONYMS.search(path.stem):
            wrong.append(str(path.relative_to(SRC)))
    assert wrong == []


def test_reference_page_is_current():
    from cinelora.config.write import reference

    assert (ROOT / "docs" / "reference.md").read_text() == reference(), "run `make docs`"


def test_broad_excepts_raise_again():
    wrong = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            broad = isinstance(node, ast.ExceptHandler) and (
                node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")
            )
            if broad and not any(isinstance(inner, ast.Raise) for inner in ast.walk(node)):
                wrong.append(f"{path.relative_to(SRC)}:{node.lineno}")
    assert wrong == []
