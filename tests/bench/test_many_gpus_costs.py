"""What many GPUs cost on paper: counted by hand for one case, and written in the documents as it is computed."""

import re
from pathlib import Path

import pytest

from bench.many_gpus_costs import MODELS, cost, last_useful, tables

DOCUMENT = Path(__file__).resolve().parents[2] / "docs/many-gpus.md"


def test_the_bytes_of_a_step_are_those_of_a_unit_a_task_and_one_more():
    base = cost(MODELS[0], 3, 8)
    assert base.sent == pytest.approx(4 * 109.5e6 * 2 * 7 / 8)
    assert base.sending == pytest.approx(base.sent / 400e9)
    assert cost(MODELS[0], 3, 64).sending == pytest.approx(4 * 109.5e6 * 2 * 63 / 64 / 50e9)
    assert base.waiting == pytest.approx(14 * 4 * 7 * 5e-6)


@pytest.mark.parametrize("ranks", [8, 64, 512])
@pytest.mark.parametrize("model", MODELS)
def test_with_so_many_micro_batches_sending_is_a_fifth_of_the_step(model, ranks):
    own = cost(model, 3, ranks)
    sending, count = own.sending + own.waiting, own.accumulations
    assert sending / (sending + count * own.computing) <= 0.2
    assert sending / (sending + (count - 1) * own.computing) > 0.2


def test_more_ranks_never_help_forever():
    assert all(last_useful(model, tasks) < 64 for model in MODELS for tasks in (3, 8))


def test_the_documents_table_is_the_computed_one():
    text = DOCUMENT.read_text(encoding="utf-8")
    found = re.search(r"<!-- costs: begin -->\n\n(.*?)\n\n<!-- costs: end -->", text, re.DOTALL)[1]
    assert found.splitlines() == tables()
