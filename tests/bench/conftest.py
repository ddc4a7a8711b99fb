"""What the proofs of all peers share."""

import pytest

from tests.bench.peer_updates import peer_splits
from train.tokenized import TokenizedSplit


@pytest.fixture(scope="session")
def splits() -> dict[str, TokenizedSplit]:
    """The training examples that peers and Concord take their first batch of."""
    return peer_splits()
