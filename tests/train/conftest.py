"""Fixtures of whole runs on small data."""

import pytest

from tests.train.small_runs import write_course_data
from train import run


@pytest.fixture
def data(tmp_path):
    return write_course_data(tmp_path / "data")


@pytest.fixture
def without_pictures(request, monkeypatch):
    """Leaves out what takes more time than the small runs themselves."""
    if "pictures" not in request.fixturenames:
        monkeypatch.setattr(run.Run, "_draw", lambda self: None)


@pytest.fixture
def pictures():
    """Asked for by a test that looks at them."""
