"""What is timed against each other, encoders and classifiers, gives the same embeddings and the same labels."""

import pytest
import torch

from bench.encoders import concord_encoder, sentence_transformers_encoder, transformers_encoder
from bench.labels import concord_classifier, pipeline_classifier, trained_classifier
from concord.bert.models import minilm_directory
from concord.kernels.tolerances import EXPORTED
from concord.train.data.demo_sets import demo_examples
from concord.train.steps.precision import choose_precision

pytestmark = pytest.mark.slow

TEXTS = [example.first for example in demo_examples("sts", "dev")[:40]]
TEXTS += [" ".join(TEXTS[:count]) for count in (3, 9, 40)]  # the last one is cut


@pytest.mark.parametrize("make", [sentence_transformers_encoder, transformers_encoder])
def test_a_peers_embeddings_are_ours(make):
    precision = choose_precision("auto", "off")
    ours, theirs = (encode(TEXTS) for encode in (concord_encoder(precision), make(minilm_directory(), precision)))
    assert ours.shape == (len(TEXTS), 384)
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=0)
    assert (ours[0] - ours[1]).norm() > 0.1


def test_the_pipelines_labels_are_ours(tmp_path):
    precision = choose_precision("auto", "off")
    run, exported = trained_classifier(tmp_path, 256)
    ours, theirs = concord_classifier(run, precision)(TEXTS), pipeline_classifier(exported, precision)(TEXTS)
    assert [label for label, _ in ours] == [label for label, _ in theirs]
    scores = [[score for _, score in found] for found in (ours, theirs)]
    torch.testing.assert_close(*map(torch.tensor, scores), atol=EXPORTED, rtol=0)
    assert max(scores[0]) - min(scores[0]) > 100 * EXPORTED
