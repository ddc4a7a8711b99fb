"""Damaged and hostile input, made by hypothesis: each reader takes it or refuses it in one bounded line."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.reliability.fuzz import judge
from tests.reliability.fuzzed_readers import readers

EXAMPLES = 150  # for each reader, of the same seed each time; `python -m tests.reliability.fuzz` tries far more


@pytest.mark.parametrize("reader", readers(), ids=lambda reader: reader.name)
def test_whatever_a_file_holds_it_is_taken_or_refused_in_one_bounded_line(reader, tmp_path):
    @settings(
        max_examples=max(20, int(EXAMPLES * reader.weight)),
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def try_all(data):
        found = data.draw(reader.inputs)
        assert judge(reader, tmp_path, found) in ("taken", "refused")

    try_all()
