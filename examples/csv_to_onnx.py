"""From a CSV to answers in onnxruntime: python examples/csv_to_onnx.py [FOLDER]

Writes a small table, trains a tiny model on it for a few steps, exports it as an ONNX graph, and asks that. The answers
need onnxruntime and tokenizers, and no torch.
"""

import csv
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
import tokenizers

from concord.train import export, run
from concord.train.command import run_command

folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
folder.mkdir(parents=True, exist_ok=True)
table, out, graph = folder / "tickets.csv", folder / "run", folder / "graph"
ASKED = {"where is my parcel": "shipping", "i want my money back": "returns", "the lamp is broken": "repairs"}
with table.open("w", newline="", encoding="utf-8") as file:
    writer = csv.writer(file)
    writer.writerow(["text", "label"])
    writer.writerows([f"{text}, order {number}", label] for number in range(40) for text, label in ASKED.items())

training = ["--train-file", table, "--text-column", "text", "--label-column", "label", "--model", "tiny", "--out", out]
training += ["--epochs", 5, "--batch-size", 8, "--learning-rate", 0.003, "--device", "cpu"]
for command, arguments in (
    (run.main, training),
    (export.main, [out, "--format", "onnx", "--output", graph]),
):
    if code := run_command(command, [str(argument) for argument in arguments]):
        sys.exit(code)

session = onnxruntime.InferenceSession(graph / "model.onnx")
told = session.get_modelmeta().custom_metadata_map
((task, about),) = json.loads(told["tasks"]).items()
tokenizer = tokenizers.Tokenizer.from_file(str(graph / "tokenizer.json"))
tokenizer.enable_truncation(int(told["max_length"]))
tokenizer.enable_padding()
read = tokenizer.encode_batch([f"{text} please" for text in ASKED])
rows = {
    "input_ids": [one.ids for one in read],
    "attention_mask": [one.attention_mask for one in read],
    "token_type_ids": [one.type_ids for one in read],
}
scores, labels = session.run(
    [f"{task}.scores", f"{task}.label"], {name: np.array(row, dtype=np.int64) for name, row in rows.items()}
)
for text, label, row in zip(ASKED, labels, scores, strict=True):
    print(f"{text}: {about['labels'][label]} ({row[label]:.2f})")
