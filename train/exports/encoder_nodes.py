"""An encoder of BERT's kind as ONNX operators, over padded sequences: what `bert.encoder` computes over packed ones."""

import math

from torch import Tensor

from concord.bert.multitask import MultitaskModel
from concord.train.exports.layers import pooler_layer
from concord.train.exports.nodes import Nodes

IDS, MASK, SEGMENTS = "input_ids", "attention_mask", "token_type_ids"
_HIDDEN_SCORE = -3.0e38  # of a place that is padding: its share in a softmax is 0 exactly


def input_names(model: MultitaskModel) -> list[str]:
    """What the graph reads: int64 [batch, sequence] each, as Hugging Face's tokenizers call them."""
    return [IDS, MASK] + ([SEGMENTS] if model.encoder.config.kind.has_segments else [])


class EncoderNodes:
    """Writes the encoder of a model into a graph.

    Args:
        nodes: of the graph.
        model: in fp32.
    """

    def __init__(self, nodes: Nodes, model: MultitaskModel) -> None:
        self._nodes, self._config = nodes, model.encoder.config
        self._values, self._model = model.encoder_values(), model

    def pooled(self) -> str:
        """What stands for each sequence, fp32 [batch, hidden], as the run pools."""
        nodes, mean, layers = self._nodes, self._model.mean_pooling, self._config.num_hidden_layers
        x, visible = self._embeddings(), self._visible()
        for number in range(layers):
            x = self._layer(x, visible, number, first_alone=number == layers - 1 and not mean)
        nodes.scope = "pooling/"
        if mean:
            axis = nodes.constant("axis", [-1])
            mask = nodes.add("Unsqueeze", nodes.add("Cast", MASK, to=1), axis)
            place = nodes.constant("place", [1])
            total = nodes.add("ReduceSum", nodes.add("Mul", x, mask), place, keepdims=0)
            return nodes.add("Div", total, nodes.add("ReduceSum", mask, place, keepdims=0))
        first = nodes.add("Squeeze", x, nodes.constant("place", [1]))
        return nodes.dense(first, "pooler", pooler_layer(self._model))

    def _embeddings(self) -> str:
        """fp32 [batch, sequence, hidden]. A sequence that is longer than there are positions fails in the sum."""
        nodes, config = self._nodes, self._config
        nodes.scope = "embeddings/"
        words = nodes.add("Gather", nodes.constant("words", self._values["embeddings.words"]), IDS)
        table = self._values["embeddings.positions"][config.first_position :]
        segments = self._values.get("embeddings.segments")
        if segments is not None and not config.kind.has_segments:
            table = table + segments[0]
        length = nodes.slice(nodes.add("Shape", IDS), 1, 2, 0)
        zero = nodes.constant("zero", [0])
        x = nodes.add("Add", words, nodes.add("Slice", nodes.constant("positions", table), zero, length, zero))
        if config.kind.has_segments:
            x = nodes.add("Add", x, nodes.add("Gather", nodes.constant("segments", segments), SEGMENTS))
        x = self._norm(x, "embeddings.norm")
        return self._linear(x, "embeddings.projection") if config.embedding_width != config.hidden_size else x

    def _visible(self) -> str:
        """What is added to attention's scores, fp32 [batch, 1, 1, sequence]: 0, or where there is padding far less."""
        nodes = self._nodes
        nodes.scope = "mask/"
        mask = nodes.add("Unsqueeze", nodes.add("Cast", MASK, to=9), nodes.constant("axes", [1, 2]))
        return nodes.add("Where", mask, nodes.constant("shown", 0.0), nodes.constant("hidden", _HIDDEN_SCORE))

    def _layer(self, x: str, visible: str, number: int, *, first_alone: bool) -> str:
        """One layer; first_alone: whether it computes the first token's state alone, [batch, 1, hidden]."""
        nodes, config, name = self._nodes, self._config, f"layers.{number}"
        nodes.scope = f"layer.{number}/"
        q, k, v = (self._of_heads(part) for part in self._queries_keys_values(x, name, first_alone))
        x = nodes.slice(x, 0, 1, 1) if first_alone else x
        scores = nodes.add("MatMul", q, nodes.add("Transpose", k, perm=[0, 1, 3, 2]), name="scores")
        scores = nodes.add("Mul", scores, nodes.constant("scale", 1 / math.sqrt(config.head_size)))
        shares = nodes.add("Softmax", nodes.add("Add", scores, visible), axis=-1)
        context = nodes.add("Transpose", nodes.add("MatMul", shares, v, name="context"), perm=[0, 2, 1, 3])
        context = nodes.add("Reshape", context, nodes.constant("joined", [0, 0, config.hidden_size]))
        context = self._linear(context, f"{name}.attention_output")
        x = self._norm(nodes.add("Add", context, x), f"{name}.attention_norm")
        inner = nodes.activate(self._linear(x, f"{name}.intermediate"), config.hidden_act)
        return self._norm(nodes.add("Add", self._linear(inner, f"{name}.output"), x), f"{name}.output_norm")

    def _queries_keys_values(self, x: str, name: str, first_alone: bool) -> list[str]:
        nodes, size = self._nodes, self._config.hidden_size
        weight, bias = self._values[f"{name}.qkv.weight"], self._values[f"{name}.qkv.bias"]
        if not first_alone:
            return nodes.split(nodes.linear(x, "qkv", weight, bias), 3)
        query = nodes.linear(nodes.slice(x, 0, 1, 1), "query", weight[:size], bias[:size])
        return [query, *nodes.split(nodes.linear(x, "key-value", weight[size:], bias[size:]), 2)]

    def _of_heads(self, x: str) -> str:
        """[batch, tokens, hidden] -> [batch, heads, tokens, head size]."""
        nodes, config = self._nodes, self._config
        shape = nodes.constant("heads", [0, 0, config.num_attention_heads, config.head_size])
        return nodes.add("Transpose", nodes.add("Reshape", x, shape), perm=[0, 2, 1, 3])

    def _linear(self, x: str, name: str) -> str:
        return self._nodes.linear(x, name.rpartition(".")[2], self._value(name, "weight"), self._value(name, "bias"))

    def _norm(self, x: str, name: str) -> str:
        short, epsilon = name.rpartition(".")[2], self._config.layer_norm_eps
        return self._nodes.norm(x, short, self._value(name, "weight"), self._value(name, "bias"), epsilon)

    def _value(self, name: str, kind: str) -> Tensor:
        return self._values[f"{name}.{kind}"]
