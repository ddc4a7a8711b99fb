"""The house: each room imports from those below it alone, nothing in a circle, and files and functions are short."""

import ast
import re
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
    "train.ranks",
    "train.settings",
    "train.data",
    "train.objectives",
    "train.steps",
    "train.checks",
    "train.outputs",
    "train.profiles",
    "train.reports",
    "train.exports",
    "train.runs",
    "train.papers",
    "train",
    "bench",
)
# Who sees the flat settings, one a flag: the commands with their flags and files, recipes, what makes typed parts of
# them, what tells the user of them, and benchmarks, which are commands too.
FLAT_SETTINGS = {
    *("train.flags", "train.library", "train.pretrain", "train.planned_runs", "train.run"),
    *("train.seeds", "train.sweeping"),
    *("train.papers.budgets", "train.papers.results", "train.settings.sweep_file"),
    *("train.settings.files", "train.settings.idle", "train.settings.layers", "train.settings.settings_file"),
    *("train.settings.typed",),
    *("train.runs.begin", "train.runs.pre_training"),
    *("bench.labels", "bench.lengths", "bench.step_cases", "bench.test_data"),
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


def imports_at_once(tree):
    """The modules that are imported when the module is, and not when a function of its is called."""
    found, remaining = [], [*tree.body]
    while remaining:
        node = remaining.pop()
        if isinstance(node, ast.Import):
            found += [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [node.module, *(f"{node.module}.{name.name}" for name in node.names)]
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            remaining += ast.iter_child_nodes(node)
    return found


def test_triton_is_imported_by_kernels_alone_and_these_when_they_first_launch():
    at_once = {name: imports_at_once(tree) for name, tree in MODULES.items() if not name.startswith("bench")}
    with_triton = {name for name, found in at_once.items() if any(one.split(".")[0] == "triton" for one in found)}
    assert len(with_triton) > 10
    assert not [name for name in with_triton if not name.endswith("_kernels")]
    of_kernels = {f"concord.{name}" for name in MODULES if name.endswith("_kernels")}
    others = {name: found for name, found in at_once.items() if not name.endswith("_kernels")}
    assert not [(name, one) for name, found in others.items() for one in found if one in of_kernels]


def kernels():
    """Name of each Triton kernel that is launched -> its function."""
    found = {}
    for tree in MODULES.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and is_kernel(node) and node.name.endswith("_kernel"):
                assert node.name not in found, f"two kernels are called {node.name}"
                found[node.name] = node
    return found


@pytest.mark.parametrize("name", kernels())
def test_a_kernel_says_what_each_of_its_arguments_is_and_of_which_type(name):
    function = kernels()[name]
    described = {}
    for line in (ast.get_docstring(function) or "").splitlines():
        names, colon, text = line.partition(": ")
        if colon and re.fullmatch(r"\w+(, \w+)*", names):
            described |= dict.fromkeys(names.split(", "), (text, names.count(",") + 1))
    arguments = [argument.arg for argument in function.args.args if argument.annotation is None]
    assert [argument for argument in arguments if argument not in described] == []
    for argument in arguments:
        text, sharing = described[argument]
        assert re.search(r"\b(u?int(8|32|64)?|fp(16|32|64)|bool|float|dtype|like)\b", text), f"{argument}: {text}"
        # What is loaded from or stored to has a line, and a shape, of its own.
        if argument in pointers(function):
            assert sharing == 1, argument
            assert re.search(r"\[.+\]|\bscalar\b|\blike \w+", text), f"{argument}: {text}"


def pointers(function):
    """The arguments that addresses begin with: alone in a load or a store, or at the left of a sum in one."""
    found = set()
    for call in ast.walk(function):
        if isinstance(call, ast.Call) and ast.unparse(call.func) in ("tl.load", "tl.store"):
            address = call.args[0]
            while isinstance(address, ast.BinOp):
                address = address.left
            if isinstance(address, ast.Name):
                found.add(address.id)
    return found


def test_transformers_is_not_on_the_training_path():
    for module, tree in MODULES.items():
        if module.split(".")[0] in ("kernels", "bert", "train"):
            names = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
            names += [name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names]
            assert not any(name.split(".")[0] in ("transformers", "sentence_transformers") for name in names), module
