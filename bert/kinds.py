"""The kinds of encoder that are known, as data: a table of small entries, one a `model_type` of Hugging Face's.

An entry says what its files call things, where its positions start, whether it has segments, and what pools. An encoder
of other mathematics is one more entry, whose `target` builds a class of its own; this file imports nothing heavy.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from concord.bert.errors import shown
from concord.bert.tables import Entry, Table

_LAYER = "encoder.layer.{}."
BERT_TENSORS = {
    "embeddings.words": ("embeddings.word_embeddings.weight",),
    "embeddings.positions": ("embeddings.position_embeddings.weight",),
    "embeddings.segments": ("embeddings.token_type_embeddings.weight",),
    "embeddings.norm": ("embeddings.LayerNorm",),
    "layers.qkv": tuple(f"{_LAYER}attention.self.{name}" for name in ("query", "key", "value")),
    "layers.attention_output": (f"{_LAYER}attention.output.dense",),
    "layers.attention_norm": (f"{_LAYER}attention.output.LayerNorm",),
    "layers.intermediate": (f"{_LAYER}intermediate.dense",),
    "layers.output": (f"{_LAYER}output.dense",),
    "layers.output_norm": (f"{_LAYER}output.LayerNorm",),
    "pooler": ("pooler.dense",),
}
_BLOCK = "transformer.layer.{}."
_DISTILBERT_TENSORS = {
    **{name: BERT_TENSORS[name] for name in ("embeddings.words", "embeddings.positions", "embeddings.norm")},
    "layers.qkv": tuple(f"{_BLOCK}attention.{name}" for name in ("q_lin", "k_lin", "v_lin")),
    "layers.attention_output": (f"{_BLOCK}attention.out_lin",),
    "layers.attention_norm": (f"{_BLOCK}sa_layer_norm",),
    "layers.intermediate": (f"{_BLOCK}ffn.lin1",),
    "layers.output": (f"{_BLOCK}ffn.lin2",),
    "layers.output_norm": (f"{_BLOCK}output_layer_norm",),
    "pooler": ("pre_classifier",),
}
_ELECTRA_TENSORS = {
    **BERT_TENSORS,
    "embeddings.projection": ("embeddings_project",),
    "pooler": ("classifier.dense",),
}
_ABSOLUTE = {"position_embedding_type": "absolute", "is_decoder": False}


@dataclass(frozen=True, kw_only=True)
class MaskedHead:
    """What the files of one kind call the parameters of a masked language model's head.

    dense, norm: the names before .weight and .bias; bias: of the scores; decoder: the weight that is the word table.
    activation: between dense and norm; "" for the encoder's own.
    """

    dense: str
    norm: str
    bias: str
    decoder: str
    activation: str = ""


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """Hugging Face's class of a kind's encoder with a head that classifies sequences by their first token.

    architecture: the class; pooler: what its files call the linear map of the first token, prefix included.
    layer: what they call the last layer; dropout: key of config.json for the rate on what that reads.
    """

    architecture: str
    pooler: str
    layer: str
    dropout: str = "classifier_dropout"


@dataclass(frozen=True, kw_only=True)
class Kind(Entry):
    """One kind of encoder.

    name: its `model_type`; target: what builds its encoder from a config.json.
    architecture: Hugging Face's class of the encoder alone.
    prefix: before the encoder's tensors in the file of a model with a head.
    tensors: module of the encoder -> what the file calls it; three names where their values are stacked. {} stands for
        the number of a layer.
    keys: field of `BertConfig` -> its key in config.json, where that has another name.
    absent: fields of `BertConfig` that config.json has no key for: they have their defaults.
    defaults: field of `BertConfig` -> its value where config.json leaves it out, if it is not BERT's.
    fixed: key of config.json -> the only value that is taken.
    pooling: what the pooled output is of a linear map of the first token: tanh, relu or gelu.
    has_segments: whether the second sentence of a pair in one sequence is told from the first by a segment of its own.
    padded_positions: whether positions start behind the number of the padding token, whose place is 1 by default.
    head: of its masked language model.
    classifier: of its classifier of sequences, which pools as `pooling` says.
    tokenizer: Hugging Face's class of its tokenizer, where its files name none.
    """

    architecture: str
    prefix: str
    tensors: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: BERT_TENSORS)
    keys: Mapping[str, str] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=lambda: _ABSOLUTE)
    pooling: str = "tanh"
    has_segments: bool = True
    padded_positions: bool = False
    head: MaskedHead
    classifier: Classifier
    tokenizer: str

    @property
    def pooler_is_the_encoders(self) -> bool:
        """Whether Hugging Face's encoder alone has the pooler, and not the head of its classifier."""
        return self.tensors["pooler"] == BERT_TENSORS["pooler"]

    def names(self, name: str) -> list[str]:
        """The names in a file of the encoder's parameter `name`: one, or three whose values are stacked."""
        area, *rest = name.split(".")
        if area == "layers":
            number, module, kind = rest
            return [f"{one.format(number)}.{kind}" for one in self.tensors[f"layers.{module}"]]
        if name in self.tensors:
            return list(self.tensors[name])
        module, _, kind = name.rpartition(".")
        return [f"{one}.{kind}" for one in self.tensors[module]]


_READER = "concord.bert.encoder:read_encoder"


def _roberta(name: str, help_text: str, architecture: str, tokenizer: str) -> Kind:
    """A kind of RoBERTa's: BERT's tensors, positions behind the padding token's, and no segments."""
    return Kind(
        name=name,
        help=help_text,
        target=_READER,
        architecture=architecture,
        prefix="roberta.",
        has_segments=False,
        padded_positions=True,
        head=MaskedHead(
            dense="lm_head.dense",
            norm="lm_head.layer_norm",
            bias="lm_head.bias",
            decoder="lm_head.decoder.weight",
            activation="gelu",
        ),
        classifier=Classifier(
            architecture=architecture.replace("Model", "ForSequenceClassification"),
            pooler="classifier.dense",
            layer="classifier.out_proj",
        ),
        tokenizer=tokenizer,
    )


BERT = Kind(
    name="bert",
    help="BERT (Devlin et al., 2019), cased, uncased or multilingual; MiniLM, E5, BGE, GTE of its shape",
    target=_READER,
    architecture="BertModel",
    prefix="bert.",
    head=MaskedHead(
        dense="cls.predictions.transform.dense",
        norm="cls.predictions.transform.LayerNorm",
        bias="cls.predictions.bias",
        decoder="cls.predictions.decoder.weight",
    ),
    classifier=Classifier(architecture="BertForSequenceClassification", pooler="bert.pooler.dense", layer="classifier"),
    tokenizer="BertTokenizer",
)
ENCODERS = Table(
    "model_type",
    Kind,
    BERT,
    _roberta("roberta", "RoBERTa (Liu et al., 2019)", "RobertaModel", "RobertaTokenizer"),
    _roberta(
        "xlm-roberta",
        "XLM-RoBERTa (Conneau et al., 2020), E5, BGE of its shape",
        "XLMRobertaModel",
        "XLMRobertaTokenizer",
    ),
    _roberta("camembert", "CamemBERT (Martin et al., 2020)", "CamembertModel", "CamembertTokenizer"),
    Kind(
        name="distilbert",
        help="DistilBERT (Sanh et al., 2019)",
        target=_READER,
        architecture="DistilBertModel",
        prefix="distilbert.",
        tensors=_DISTILBERT_TENSORS,
        keys={
            "hidden_size": "dim",
            "num_hidden_layers": "n_layers",
            "num_attention_heads": "n_heads",
            "intermediate_size": "hidden_dim",
            "hidden_dropout_prob": "dropout",
            "attention_probs_dropout_prob": "attention_dropout",
            "hidden_act": "activation",
        },
        absent=("type_vocab_size", "layer_norm_eps"),
        defaults={"num_hidden_layers": 6},
        fixed={"sinusoidal_pos_embds": False},
        pooling="relu",
        has_segments=False,
        head=MaskedHead(
            dense="vocab_transform",
            norm="vocab_layer_norm",
            bias="vocab_projector.bias",
            decoder="vocab_projector.weight",
        ),
        classifier=Classifier(
            architecture="DistilBertForSequenceClassification",
            pooler="pre_classifier",
            layer="classifier",
            dropout="seq_classif_dropout",
        ),
        tokenizer="BertTokenizer",
    ),
    Kind(
        name="electra",
        help="ELECTRA (Clark et al., 2020), its discriminator or its generator",
        target=_READER,
        architecture="ElectraModel",
        prefix="electra.",
        tensors=_ELECTRA_TENSORS,
        defaults={
            "embedding_size": 128,
            "hidden_size": 256,
            "num_attention_heads": 4,
            "intermediate_size": 1024,
        },
        pooling="gelu",
        head=MaskedHead(
            dense="generator_predictions.dense",
            norm="generator_predictions.LayerNorm",
            bias="generator_lm_head.bias",
            decoder="generator_lm_head.weight",
            activation="gelu",
        ),
        classifier=Classifier(
            architecture="ElectraForSequenceClassification",
            pooler="classifier.dense",
            layer="classifier.out_proj",
        ),
        tokenizer="BertTokenizer",
    ),
)
"""The kinds of encoder, by `model_type`."""
REFUSED = {
    "albert": "all its layers share one set of weights",
    "deberta": "its attention has a second term, of relative positions",
    "deberta-v2": "its attention has a second term, of relative positions",
    "modernbert": "its LayerNorms come first, its positions are rotary, and most of its layers attend nearby alone",
    "mpnet": "its attention has a bias of relative positions",
    "xlm-roberta-xl": "its LayerNorms come first",
}
"""Kinds that are known and not read: `model_type` -> why."""


def refusal(name: object) -> str:
    """Why a `model_type` is not read, to stand behind the file's name."""
    why = f" ({REFUSED[name]})" if isinstance(name, str) and name in REFUSED else ""
    return f"model_type is {shown(name)}{why}, expected {' or '.join(map(repr, ENCODERS.names))}"
