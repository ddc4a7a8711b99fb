"""A run's encoder and heads in one ONNX graph, which is compared with the run before it is put in place."""

import json
import logging
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
from onnx import TensorProto
from onnxruntime.quantization import QuantType, quantize_dynamic

from concord.bert.errors import InputError
from concord.bert.multitask import MultitaskModel
from concord.bert.names import CONFIG_FILE
from concord.kernels.tolerances import EXPORTED
from concord.train.data.tasks import Task
from concord.train.exports.comparing import Difference, compare
from concord.train.exports.encoder_nodes import EncoderNodes, input_names
from concord.train.exports.head_nodes import SCOPE, add_heads
from concord.train.exports.layers import is_separate
from concord.train.exports.nodes import Nodes
from concord.train.exports.request import Request, Written
from concord.train.objectives.answers import label_names

GRAPH_FILE, WEIGHTS_ENDING = "model.onnx", ".data"
EMBEDDING = "embedding"
_MOST_BYTES = 1 << 30  # of a graph in one file; protobuf takes no more than twice that


def write_graph(request: Request) -> Written:
    """Write the encoder and the heads of the tasks that are asked for as one graph, and compare its answers.

    InputError where its answers are not the run's, for a head of the user's own, and where the dev sets cannot be read.
    """
    model = request.saved.model
    graph = build_graph(model, request.tasks, request.saved.config.data.max_length)
    path = request.folder / GRAPH_FILE
    model.encoder.config.write(request.folder / CONFIG_FILE)
    if request.eight_bit:
        with TemporaryDirectory(dir=request.folder) as whole:
            _save(graph, Path(whole) / GRAPH_FILE)
            _quantize(Path(whole) / GRAPH_FILE, path)
    else:
        _save(graph, path)
    differences = compare(request, path)
    remarks = _judged(differences, request)
    return Written("onnx", "text-classification", _loading(model, request.tasks[0]), remarks)


def build_graph(model: MultitaskModel, tasks: tuple[Task, ...], max_length: int) -> onnx.ModelProto:
    """The graph, which has any number of sequences of any length up to that of the encoder's positions.

    It reads what Hugging Face's tokenizer of the run makes, int64 [batch, sequence] each. Beside what `add_heads` says
    it gives `embedding`, fp32 [batch, hidden]: what the heads read. Its metadata say of each task, as JSON, what its
    labels are and how its pairs are read, and at how many tokens sequences are cut.
    """
    nodes = Nodes()
    pooled = EncoderNodes(nodes, model).pooled()
    nodes.scope = ""
    nodes.add("Identity", pooled, outputs=[EMBEDDING])
    outputs = {EMBEDDING: (TensorProto.FLOAT, ["batch", model.encoder.config.hidden_size])}
    outputs |= add_heads(nodes, model, tasks, pooled)
    metadata = {"tasks": json.dumps({task.name: _described(model, task) for task in tasks})}
    return nodes.model(input_names(model), outputs, metadata | {"max_length": str(max_length)})


def _described(model: MultitaskModel, task: Task) -> dict[str, object]:
    texts = "one" if not task.pair else "a pair in two rows" if is_separate(model, task) else "a pair in one row"
    found: dict[str, object] = {"kind": task.kind, "texts": texts, "labels": [str(name) for name in label_names(task)]}
    return found | ({"low": task.low, "high": task.high} if task.kind == "regression" else {})


def _save(graph: onnx.ModelProto, path: Path) -> None:
    """Write a graph; one that a single file does not hold has its weights in a file beside it."""
    beside = sum(len(constant.raw_data) for constant in graph.graph.initializer) > _MOST_BYTES
    onnx.save_model(graph, path, save_as_external_data=beside, location=path.name + WEIGHTS_ENDING if beside else None)
    onnx.checker.check_model(path)


def _quantize(whole: Path, path: Path) -> None:
    """Write the graph at `whole` with the weights of the encoder's products and tables as 8-bit integers, whose inputs
    are quantised as they come. The heads stay in fp32.

    The weights are unsigned: signed ones overflow in the products of x86 processors that lack VNNI.
    """
    heads = [node.name for node in onnx.load(whole, load_external_data=False).graph.node if node.name.startswith(SCOPE)]
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it recommends to infer shapes first, of which this graph has no need
    try:
        quantize_dynamic(
            whole,
            path,
            op_types_to_quantize=["MatMul", "Gather"],
            per_channel=True,
            weight_type=QuantType.QUInt8,
            nodes_to_exclude=heads,
            extra_options={"MatMulConstBOnly": True},
        )
    finally:
        logging.disable(before)


def _judged(differences: list[Difference], request: Request) -> tuple[str, ...]:
    """Say how far the graph's answers are from the run's; InputError where fp32 does not explain it."""
    largest = max(differences, key=lambda one: one.score)
    if not request.eight_bit and largest.score > EXPORTED:
        raise InputError(
            f"--format onnx: its scores of task {largest.task} differ by {largest.score:.2g} of their range from the "
            f"run's, {EXPORTED:g} is allowed; nothing was written"
        )
    rows, other = sum(one.examples for one in differences), sum(one.other_labels for one in differences)
    request.reporter.say(
        f"compared   with the run on {rows} dev examples: the largest difference of a score is {largest.score:.2g} of "
        f"its range, of task {largest.task}; {other} labels differ"
    )
    if not request.eight_bit:
        return ()
    shares = ", ".join(f"{one.task} {one.score:.2g} ({one.other_labels} of {one.examples})" for one in differences)
    return (f"with 8-bit weights scores differ by at most so much of their range (and so many labels): {shares}",)


def _loading(model: MultitaskModel, task: Task) -> str:
    """Python that asks the graph without torch."""
    pair = task.pair and not is_separate(model, task)
    asked = '[("A man sleeps.", "A man is awake.")]' if pair else '["A man sleeps.", "A man is awake."]'
    answer = "scores" if task.kind == "regression" else "label"
    rows = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
    inputs = ", ".join(f'"{name}": [one.{rows[name]} for one in read]' for name in input_names(model))
    return f"""import numpy as np, onnxruntime, tokenizers

session = onnxruntime.InferenceSession("FOLDER/{GRAPH_FILE}")
tokenizer = tokenizers.Tokenizer.from_file("FOLDER/tokenizer.json")
tokenizer.enable_truncation(int(session.get_modelmeta().custom_metadata_map["max_length"]))
tokenizer.enable_padding()
read = tokenizer.encode_batch({asked})
rows = {{{inputs}}}
session.run(["{task.name}.{answer}"], {{name: np.array(row, dtype=np.int64) for name, row in rows.items()}})"""
