"""A small model directory of each kind of encoder."""

import json

from concord.bert.config import BertConfig
from concord.bert.encoder import Encoder
from concord.bert.weights import to_hugging_face, write_safetensors
from tests.small_tokenizers import byte_level_json, unigram_json
from tests.train.small_runs import ADJECTIVES, THINGS

ROBERTA = {"type_vocab_size": 1, "first_position": 2}
KINDS = {
    "bert": {"hidden_act": "gelu_new"},
    "roberta": ROBERTA,
    "xlm-roberta": ROBERTA,
    "camembert": ROBERTA,
    "distilbert": {},
    "electra": {"embedding_size": 16},
}
TEXTS = [
    f"The {thing} was {word} . I saw a {thing} seen , where can find it ?" for thing in THINGS for word in ADJECTIVES
]


def write_model(directory, kind, settings, texts, scale=1):
    """A model directory of a kind with random weights, and a tokenizer learned from `texts`; scale: of the matrices."""
    directory.mkdir()
    if kind in ("bert", "distilbert", "electra"):
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(" ".join(texts).lower().split())]
        (directory / "vocab.txt").write_text("\n".join(words) + "\n")
        size = len(words)
    else:
        content = byte_level_json(texts) if kind == "roberta" else unigram_json(texts, 60)
        (directory / "tokenizer.json").write_text(json.dumps(content))
        size = len(content["model"]["vocab"])
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    encoder = Encoder(BertConfig(model_type=kind, vocab_size=size, max_position_embeddings=40, **sizes, **settings))
    encoder.initialise(1)
    for parameter in encoder.parameters():
        if parameter.ndim >= 2:
            parameter.data *= scale
    encoder.config.write(directory / "config.json")
    tensors = to_hugging_face(dict(encoder.named_parameters()), encoder.config.kind)
    write_safetensors(directory / "model.safetensors", tensors)
    return directory
