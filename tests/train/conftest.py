"""Fixtures of whole runs on small data."""

import sys

import pytest

from concord.kernels.dispatch import set_kernels
from concord.kernels.native.build import cache_folder
from concord.kernels.products import Comparison
from concord.train.checks import children as judged
from concord.train.runs.fine_tuning import FineTuning
from tests.train.checked_runs import CHILD, FAILED, PASSED
from tests.train.small_runs import write_course_data


@pytest.fixture
def data(tmp_path):
    return write_course_data(tmp_path / "data")


@pytest.fixture
def without_pictures(request, monkeypatch):
    """Leaves out what takes more time than the small runs themselves."""
    if "pictures" not in request.fixturenames:
        monkeypatch.setattr(FineTuning, "_draw", lambda self, entries: None)


@pytest.fixture
def pictures():
    """Asked for by a test that looks at them."""


@pytest.fixture(autouse=True)
def cache_of_its_own(tmp_path_factory, monkeypatch):
    cache = tmp_path_factory.mktemp("cache")
    native = cache_folder()  # but for the native kernels, which take seconds to build
    native.mkdir(parents=True, exist_ok=True)
    (cache / "concord").mkdir()
    (cache / "concord" / "native").symlink_to(native)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))


@pytest.fixture(autouse=True)
def products_as_fast_by_either_library(monkeypatch):
    """No test depends on what is faster on its machine, nor waits until that has been timed."""
    monkeypatch.setattr("concord.train.checks.products.compare_products", lambda: Comparison(gain=1.0))


@pytest.fixture(autouse=True)
def judged_here(monkeypatch):
    """Native kernels are judged in the test's process, as in a command's: a worker of pytest's has other threads."""
    monkeypatch.setattr("concord.train.checks.self_check.runs_alone", lambda: True)


@pytest.fixture
def children(tmp_path, monkeypatch):
    """Gives the children faults; the calls that they get are in a file, a line each."""

    def write(**faults):
        path, calls = tmp_path / "child.py", tmp_path / "calls.txt"
        path.write_text(CHILD.format(faults, PASSED, FAILED, str(calls)))
        calls.write_text("")
        monkeypatch.setattr(judged, "CHILD", (sys.executable, str(path)))
        return calls

    return write


@pytest.fixture
def on_cpu(monkeypatch):
    """The CPU runs Triton's kernels as a GPU does: by itself, where --kernels is auto."""
    # The module that imports the others comes first: imported later, it would keep what stands in for them.
    for module in ("concord.train.runs.checkup", "concord.train.checks.self_check", "concord.kernels.dispatch"):
        monkeypatch.setattr(f"{module}.launches_triton", lambda device: True)
    monkeypatch.setattr("concord.kernels.dispatch.describe_kernels", lambda device: "triton")
    monkeypatch.setattr("concord.train.steps.precision.describe_kernels", lambda device: "triton")

    def take_triton(kernels, precision):
        set_kernels("auto")
        return "triton"

    monkeypatch.setattr("concord.train.steps.precision._choose_native", take_triton)


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a module into the current folder, in place of the one of that name that there was."""
    folder = tmp_path / "code"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    # A compiled file of the same second and length would be taken for the module's.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    written = set()

    def write_module(name, text):
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
        written.add(name)
        sys.modules.pop(name, None)

    yield write_module
    for name in written:
        sys.modules.pop(name, None)
