"""The house: each room imports from those below it alone, nothing in a circle, and files and functions are short."""

import ast
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# From the ground up.
ROOMS = (
    "kernels.layout",
    "kernels",
    "kernels.attention",
    "kernels.surgery",
    "kernels.checks",
    "bert",
    "train.reporter",
    "train.settings",
    "train.data",
    "train.objectives",
    "train.steps",
    "train.checks",
    "train.outputs",
    "train.runs",
    "train.papers",
    "train",
    "bench",
)
# Who sees the flat settings, one a flag: the commands with their flags and files, recipes, what makes typed parts of
# them, what tells the user of them, and benchmarks, which are commands too.
FLAT_SETTINGS = {
    *("train.flags", "train.pretrain", "train.reproduce"),
    *("train.settings.files", "train.settings.idle", "train.settings.recipes", "train.settings.typed"),
    *("train.runs.begin", "train.runs.pre_training"),
    *("bench.lengths", "bench.step_cases"),
}
LONGEST_FILE, LONGEST_FUNCTION = 300, 60  # lines, of train/


def modules():
    """Dotted name within the repository -> its parsed source, of everything but the tests."""
    paths = [path for room in ("kernels", "bert", "train", "bench") for path in (ROOT / room).rglob("*.py")]
    named = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}
    return {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in named.items()}


MODULES = modules()


def room_of(module):
    """The innermost room that a module lies in."""
    return max((room for room in ROOMS if module == room or module.startswith(f"{room}.")), key=len)


def imports():
    """Module -> the project's modules that it imports, wherever in it."""
    found = defaultdict(set)
    for module, tree in MODULES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                base = node.module.removeprefix("concord.")
                for name in node.names:
                    target = f"{base}.{name.name}" if f"{base}.{name.name}" in MODULES else base
                    if target in MODULES:
                        found[module].add(target)
    return found


def test_no_room_imports_from_one_above_it():
    upward = [
        f"{module} imports {target}"
        for module, targets in imports().items()
        for target in targets
        if ROOMS.index(room_of(target)) > ROOMS.index(room_of(module))
    ]
    assert not upward, "\n".join(upward)


def test_no_modules_import_each_other_in_a_circle():
    graph, done = imports(), set()

    def visit(module, path):
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module not in done:
            for target in graph[module] - {module}:
                visit(target, [*path, module])
            done.add(module)

    for module in MODULES:
        visit(module, [])


def test_the_flat_settings_stay_with_the_commands():
    importing = {
        module
        for module, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and any(name.name == "RunConfig" for name in node.names)
    }
    assert importing == FLAT_SETTINGS


def is_kernel(function):
    return any("jit" in ast.unparse(decorator) for decorator in function.decorator_list)


@pytest.mark.parametrize("module", [name for name in MODULES if name.split(".")[0] == "train"])
def test_files_and_functions_are_read_in_one_sitting(module):
    path = ROOT / Path(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST_FILE, f"{path}: {lines} lines"
    for node in ast.walk(MODULES[module]):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not is_kernel(node):
            length = node.end_lineno - node.lineno + 1
            assert length <= LONGEST_FUNCTION, f"{path}:{node.lineno}: {node.name} has {length} lines"


def test_every_file_says_first_what_it_is_for():
    assert not [module for module, tree in MODULES.items() if not ast.get_docstring(tree)]


def test_transformers_is_not_on_the_training_path():
    for module, tree in MODULES.items():
        if module.split(".")[0] in ("kernels", "bert", "train"):
            names = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
            names += [name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names]
            assert not any(name.split(".")[0] in ("transformers", "sentence_transformers") for name in names), module
