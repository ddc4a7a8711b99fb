"""A graph of ONNX operators as it is written down: constants and nodes, each of which gives one name to go on from."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from concord.train.exports.layers import Dense

# The first with Gelu; onnxruntime 1.17 and later have it.
OPSET, IR_VERSION = 20, 9
_ACTIVATIONS = {"relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid", "gelu": "Gelu", "gelu_new": "Gelu"}


class Nodes:
    """What a graph holds so far. Every method but `model` returns the name of a value.

    Args:
        scope: before the names of what is added; it may be set to another between additions.
    """

    def __init__(self, scope: str = "") -> None:
        self.scope = scope
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}

    def constant(self, name: str, value: Tensor | np.ndarray | Sequence[int] | float) -> str:
        """A constant: a tensor, a list of whole numbers (int64 [n]), or a number (fp32 scalar)."""
        if isinstance(value, Tensor):
            array = np.ascontiguousarray(value.detach().cpu().numpy())
        else:
            array = np.asarray(value, dtype=np.float32 if isinstance(value, float) else None)
        full = self._fresh(name, self._constants)
        self._constants[full] = numpy_helper.from_array(array, full)
        return full

    def add(self, operator: str, *inputs: str, name: str = "", outputs: Sequence[str] = (), **attributes: Any) -> str:
        """An operator's first output. name: by default the operator's; outputs: names that are taken as they are."""
        own = f"{self.scope}{name or operator}:{len(self._nodes)}"
        outputs = list(outputs) or [own]
        self._nodes.append(helper.make_node(operator, list(inputs), outputs, name=own, **attributes))
        return outputs[0]

    def split(self, x: str, parts: int) -> list[str]:
        """The parts of the last axis, all as wide."""
        names = [f"{self.scope}split:{len(self._nodes)}.{number}" for number in range(parts)]
        self.add("Split", x, outputs=names, axis=-1, num_outputs=parts)
        return names

    def slice(self, x: str, start: int, end: int, axis: int, step: int = 1) -> str:
        """x[start:end:step] of an axis."""
        bounds = [self.constant(name, [value]) for name, value in zip("sexp", (start, end, axis, step), strict=True)]
        return self.add("Slice", x, *bounds)

    def linear(self, x: str, name: str, weight: Tensor, bias: Tensor) -> str:
        """x W^T + b: weight fp32 [outputs, inputs], bias fp32 [outputs]."""
        product = self.add("MatMul", x, self.constant(f"{name}.weight", weight.t()), name=f"{name}.product")
        return self.add("Add", product, self.constant(f"{name}.bias", bias))

    def activate(self, x: str, name: str) -> str:
        """An activation by Hugging Face's name, or "" for none. ValueError for another."""
        if not name:
            return x
        if name not in _ACTIVATIONS:
            raise ValueError(f"activation {name!r}: expected one of {', '.join(_ACTIVATIONS)}")
        return self.add(_ACTIVATIONS[name], x, **({"approximate": "tanh"} if name == "gelu_new" else {}))

    def dense(self, x: str, name: str, layer: Dense) -> str:
        """A linear layer and its activation."""
        return self.activate(self.linear(x, name, layer.weight, layer.bias), layer.activation)

    def norm(self, x: str, name: str, weight: Tensor, bias: Tensor, epsilon: float) -> str:
        """LayerNorm over the last axis."""
        parameters = (self.constant(f"{name}.weight", weight), self.constant(f"{name}.bias", bias))
        return self.add("LayerNormalization", x, *parameters, axis=-1, epsilon=epsilon)

    def names_of(self, scope: str, operator: str) -> list[str]:
        """The nodes of an operator that were added in a scope."""
        return [node.name for node in self._nodes if node.op_type == operator and node.name.startswith(scope)]

    def model(
        self, inputs: Sequence[str], outputs: dict[str, tuple[int, list[str | int]]], metadata: dict[str, str]
    ) -> onnx.ModelProto:
        """The graph as a model, checked.

        inputs: int64 [batch, sequence] each; outputs: name -> its type, of TensorProto, and its axes' names or sizes;
        metadata: name -> text.
        """
        given = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"]) for name in inputs]
        found = [helper.make_tensor_value_info(name, kind, axes) for name, (kind, axes) in outputs.items()]
        graph = helper.make_graph(self._nodes, "concord", given, found, initializer=list(self._constants.values()))
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="concord"
        )
        helper.set_model_props(model, metadata)
        return model

    def _fresh(self, name: str, taken: dict[str, Any]) -> str:
        full = self.scope + name
        return full if full not in taken else f"{full}:{len(taken)}"
