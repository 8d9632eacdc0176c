"""The layout of the source: who may import whom, what a package's folders are called, what an ``__init__`` may hold.

The source is read, not imported, so that these tests need no torch. A failure names the file and the rule.
"""

import ast
import importlib
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(ROOT.glob("packages/*/src/*"))
PACKAGES = [source.name for source in SOURCES]

# plm_core from the bottom up: a module may import its own layer and those above it in this list, never one below it.
LAYERS = (
    ("errors", "fields", "hookspecs"),  # what everything may import
    ("utils",),
    ("declarations", "layouts", "model_config"),
    ("registry",),
    ("datasets", "hub", "transforms", "samples", "shapes", "video"),
    ("weights",),
    ("timm_bridge",),
    ("sources",),
    ("models", "embedding"),
    ("blocks",),
    ("adapters", "packing", "training"),
    ("runs",),
    ("prediction", "tools", "embeddings"),
    ("lm",),
    ("videobench",),
    ("cli", "testing", "tour"),
    ("plugin",),
)
# Where each kind of declaration has its code, in every package.
PLACES = {
    "Command": ("implementation", r"(plm_core\.cli\.\w+|{package}\.cli(\.\w+)?)"),
    "TourStop": ("run", r"{package}\.tour"),
    "WeightLayout": ("rules", r"(plm_core\.lm|{package})\.layouts"),
    "BlockAdapter": ("view", r"(plm_core\.adapters\.\w+|(plm_core\.lm|{package})\.blocks)"),
    "Training": ("train", r"(plm_core\.runs\.classification|(plm_core\.lm|{package})\.(recipes\.\w+|finetuning))"),
}


def module_name(path):
    parts = path.relative_to(next(s for s in SOURCES if s in path.parents).parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for source in SOURCES for path in sorted(source.rglob("*.py"))}
FOLDERS = sorted(name for name, path in FILES.items() if path.name == "__init__.py")


@cache
def tree(name):
    """The syntax tree of a module."""
    return ast.parse(FILES[name].read_text(encoding="utf-8"))


@cache
def imports(name):
    """Every module of ours that a module imports, at its top or later, and the names that it takes from it."""
    package = name if FILES[name].name == "__init__.py" else name.rpartition(".")[0]
    found = []
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            found += [(alias.name, None) for alias in node.names if alias.name in FILES]
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1]
            module = ".".join(filter(None, [*parents, node.module])) if node.level else node.module
            for alias in node.names:
                if f"{module}.{alias.name}" in FILES:
                    found.append((f"{module}.{alias.name}", None))
                elif module in FILES:
                    found.append((module, alias.name))
    return found


def is_cli(name):
    return name.split(".")[1:2] == ["cli"]


@pytest.mark.parametrize("package", [name for name in PACKAGES if name != "plm_core"])
def test_a_package_imports_plm_core_and_none_of_its_siblings(package):
    strangers = {
        f"{name} imports {module}"
        for name in FILES
        if name.split(".")[0] == package
        for module, _ in imports(name)
        if module.split(".")[0] not in (package, "plm_core")
    }
    assert not strangers


def layer(name):
    part = name.split(".")[1]
    return next(i for i, parts in enumerate(LAYERS) if part in parts)


def test_plm_core_is_layered():
    inside = [name for name in FILES if name.startswith("plm_core.")]
    unknown = {name for name in inside if not any(name.split(".")[1] in parts for parts in LAYERS)}
    assert not unknown, "give them a place in LAYERS"
    upward = {
        f"{name} imports {module}"
        for name in inside
        for module, _ in imports(name)
        if module.startswith("plm_core.") and layer(module) > layer(name)
    }
    assert not upward


def test_imports_have_no_cycles():
    """Also none that a late import, or one for type checkers only, holds apart."""
    edges = {name: {module for module, _ in imports(name) if module != name} for name in FILES}
    while True:
        leaves = {name for name, modules in edges.items() if not modules & edges.keys()}
        if not leaves:
            break
        edges = {name: modules for name, modules in edges.items() if name not in leaves}
    while True:  # what nothing left imports is not in a cycle either
        roots = edges.keys() - {module for modules in edges.values() for module in modules}
        if not roots:
            break
        edges = {name: modules for name, modules in edges.items() if name not in roots}
    assert not edges


def test_private_names_stay_in_their_module():
    def private(name):
        return name.startswith("_") and not name.startswith("__")

    taken = {
        f"{name} takes {imported} from {module}"
        for name in FILES
        for module, imported in imports(name)
        if imported and private(imported)
    }
    reached = {
        f"{name} imports {module}"
        for name in FILES
        for module, _ in imports(name)
        if private(module.rpartition(".")[2]) and module.rpartition(".")[0] != name.rpartition(".")[0]
    }
    assert not taken | reached


def test_no_library_imports_a_command_line():
    assert not {
        f"{name} imports {module}"
        for name in FILES
        if not is_cli(name)
        for module, _ in imports(name)
        if is_cli(module)
    }


@pytest.mark.parametrize("folder", FOLDERS)
def test_an_init_is_a_table_of_contents(folder):
    allowed = (ast.Expr, ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, ast.If)
    other = [
        ast.unparse(node)[:60]
        for node in tree(folder).body
        if not isinstance(node, allowed) and getattr(node, "name", "") not in ("__getattr__", "__dir__")
    ]
    assert not other
    assert len(FILES[folder].read_text(encoding="utf-8").splitlines()) <= 90
    assert ast.get_docstring(tree(folder)), "it says what the folder holds"


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_module_has_the_name_of_something_that_its_package_exports(folder):
    """Importing the module would put it in the place of the function."""
    modules = {name.rpartition(".")[2] for name in FILES if name.rpartition(".")[0] == folder}
    exported = {name for module, name in imports(folder) if name and module != folder}
    lazy = {
        key.value
        for node in ast.walk(tree(folder))
        if isinstance(node, ast.Dict)
        for key, value in zip(node.keys, node.values, strict=True)
        if isinstance(key, ast.Constant) and isinstance(value, ast.Constant) and value.value
    }
    assert not modules & (exported | lazy)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_declares_what_it_has_in_the_files_that_every_package_has_it_in(package):
    plugin = importlib.import_module(f"{package}.plugin")
    hooks = [
        getattr(plugin, name) for name in dir(plugin) if name.startswith("plm_") and callable(getattr(plugin, name))
    ]
    for declaration in (declaration for hook in hooks for declaration in hook()):
        field, place = PLACES.get(type(declaration).__name__, (None, ""))
        code = [(getattr(declaration, field), place)] if field else []
        if type(declaration).__name__ == "Model" and declaration.micro:
            code += [
                (code, r"{package}\.micro\.\w+") for code in (declaration.micro.recipe, declaration.micro.evaluate)
            ]
        for reference, expected in code:
            module = (reference or "").partition(":")[0]
            assert not module or re.fullmatch(expected.format(package=package), module), (
                f"{declaration.name} has its code in {module}"
            )


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_a_package_has_the_files_that_a_reader_looks_for(source):
    assert {"__init__.py", "plugin.py", "py.typed"} <= {path.name for path in source.iterdir()}
    assert {"README.md", "CHANGELOG.md", "LICENSE", "pyproject.toml"} <= {
        path.name for path in source.parents[1].iterdir()
    }


def test_no_docstring_or_help_text_begins_with_of():
    """Such a fragment needs the line above it; say the noun again."""
    begins = re.compile(r"""("{3}|help="|^\s+\w+: )Of """)
    assert not [
        f"{path.relative_to(ROOT)}:{number}"
        for path in FILES.values()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if begins.search(line)
    ]


def test_the_map_of_plm_core_is_complete_and_right():
    contributing = (ROOT / ".github" / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = contributing.partition("## The map of plm_core\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.+?) \|", section, re.MULTILINE)
    named = {name.rstrip("/") for row in rows for name in re.findall(r"`([^`]+)`", row) if name != "plm_core/"}
    in_every_package = {"__init__.py", "plugin.py", "py.typed"}  # the map of a package explains them
    present = {
        path.name for path in next(s for s in SOURCES if s.name == "plm_core").iterdir() if path.name != "__pycache__"
    }
    assert named == present - in_every_package
