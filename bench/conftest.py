"""Options of the benchmarks."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """--data DIR: measure on a data set in the course layout instead of the generated one."""
    parser.addoption(
        "--data", default="demo", help="data set to take the batches from: demo, or a course-layout folder"
    )
