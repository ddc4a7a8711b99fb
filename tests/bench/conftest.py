"""What the proofs of all peers share."""

import pytest

from concord.train.data.tokenized import TokenizedSplit
from tests.bench.peer_updates import peer_splits


@pytest.fixture(scope="session")
def splits() -> dict[str, TokenizedSplit]:
    """The training examples that peers and Concord take their first batch of."""
    return peer_splits()
