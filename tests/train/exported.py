"""Runs of many tasks, one of each kind of head, and what other libraries answer with them in processes of their own."""

import json
import os
import subprocess
import sys

import numpy as np

from concord.bert.models import load_model
from concord.bert.weights import to_hugging_face, write_safetensors
from concord.train.export import main
from concord.train.settings.config import RunConfig
from tests.train.small_runs import trained, write_course_data

TEXTS = ["The film was good .", "", "An awful lamp " * 40, "a garden", "A superb hotel, and a plain song."]
PAIRS = [
    ("I saw a film.", "A film was seen."),
    ("Where is it?", ""),
    ("long film " * 40, "other lamp " * 41),
    ("the meal was poor " * 20, "good garden"),
    ("a song", "The hotel was plain . " * 30),
]
# Task -> the file that it reads, its kind, and the settings that make its head another one.
SST, QUORA, STS = ("ids-sst", "sentiment"), ("quora", "is_duplicate"), ("sts", "similarity")
TASKS = {
    "linear": (SST, "classification", {}),
    "hidden": (SST, "classification", {"heads": "hidden"}),
    "through": (SST, "classification", {"shared": True}),
    "joint_classes": (QUORA, "classification", {}),
    "joint_binary": (QUORA, "binary", {}),
    "joint_shares": (QUORA, "binary", {"losses": "mse"}),
    "joint_score": (STS, "regression", {}),
    "joint_sigmoid": (STS, "regression", {"losses": "sigmoid-mse", "heads": "hidden", "shared": True}),
    "apart_classes": (QUORA, "classification", {"apart": True}),
    "apart_binary": (QUORA, "binary", {"apart": True, "heads": "hidden"}),
    "apart_score": (STS, "regression", {"apart": True, "shared": True}),
    "cosine": (STS, "regression", {"apart": True, "heads": "cosine"}),
    "cosine_binary": (QUORA, "binary", {"apart": True, "heads": "cosine"}),
    "mapped": (STS, "regression", {"apart": True, "heads": "mapped-cosine", "shared": True}),
}
SINGLE = [name for name, (source, _, _) in TASKS.items() if source is SST]
APART = [name for name, (_, _, more) in TASKS.items() if "apart" in more]
JOINT = [name for name in TASKS if name not in (*SINGLE, *APART)]
COSINES = ["cosine", "cosine_binary", "mapped"]
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}

# What asks transformers and sentence-transformers: each job's model, and its raw answers.
ASKED_OF_HUGGING_FACE = """
import json, os, pathlib, numpy as np, torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer
jobs, answers = json.loads(pathlib.Path("jobs.json").read_text()), {}
for name, form, folder, texts in jobs:
    if form in ("classifier", "states"):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        read = tokenizer(*map(list, zip(*texts)), padding=True, truncation=True, return_tensors="pt")
        if form == "states":
            found = AutoModel.from_pretrained(folder)(**read).last_hidden_state[:, 0]
        else:
            model = AutoModelForSequenceClassification.from_pretrained(folder)
            logits = model(**read).logits
            found = logits if model.config.problem_type == "regression" else logits.softmax(1)
            answers[name + " labels"] = np.array([model.config.id2label[int(i)] for i in logits.argmax(1)])
        found = found.detach().numpy()
    elif form == "cross":
        model = CrossEncoder(folder, device="cpu")
        found = model.predict([tuple(pair) for pair in texts], apply_softmax=model.num_labels > 1)
    elif form == "embeddings":
        found = SentenceTransformer(folder, device="cpu").encode([text for text, in texts])
    else:
        model = SentenceTransformer(folder, device="cpu")
        first, second = (model.encode(list(side)) for side in zip(*texts))
        found = model.similarity_pairwise(first, second).numpy()
    answers[name] = found
np.savez("answers.npz", **answers)
"""
# What runs the code of each export's card, beside the exports.
CARDS = """
os.chdir(pathlib.Path(jobs[0][2]).parent)
for card in sorted(pathlib.Path().glob("*/README.md")):
    exec(card.read_text().split("```python")[1].split("```")[0], {})
"""
# What asks onnxruntime, in a process that knows no torch.
ASKED_OF_ONNXRUNTIME = """
import json, os, pathlib, sys, numpy as np, onnxruntime, tokenizers
jobs, answers = json.loads(pathlib.Path("jobs.json").read_text()), {}
for name, _, folder, texts in jobs:
    session = onnxruntime.InferenceSession(folder + "/model.onnx")
    told = session.get_modelmeta().custom_metadata_map
    tokenizer = tokenizers.Tokenizer.from_file(folder + "/tokenizer.json")
    tokenizer.enable_truncation(int(told["max_length"]))
    tokenizer.enable_padding()
    for task, about in json.loads(told["tasks"]).items():
        wanted = [one.name for one in session.get_outputs() if one.name.startswith(task + ".")]
        rows = [text for text in texts[task]]
        if about["texts"] == "a pair in two rows":
            rows = [text for pair in rows for text in pair]
        else:
            rows = [row[0] if len(row) == 1 else tuple(row) for row in rows]
        read = tokenizer.encode_batch(rows)
        given = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
        given = {own.name: np.array([getattr(one, given[own.name]) for one in read]) for own in session.get_inputs()}
        scores, *label = session.run(sorted(wanted, reverse=True), given)
        answers[f"{name} {task}"] = scores
        if label:
            answers[f"{name} {task} labels"] = np.array([about["labels"][number] for number in label[0]])
assert "torch" not in sys.modules
np.savez("answers.npz", **answers)
"""


def many_tasks(folder, **settings):
    """What a training of all `TASKS` returns, whose data are below `folder`."""
    write_course_data(folder / "data")
    (folder / "data" / "tasks.toml").write_text("".join(_table(name) for name in TASKS))
    own = {
        option: tuple(f"{name}={more[option]}" for name, (_, _, more) in TASKS.items() if option in more)
        for option in ("heads", "losses")
    }
    default = RunConfig()
    settings = {"model": str(write_model(folder / "model")), "max_steps": 2, "skip_test": True} | settings
    return trained(
        folder,
        tasks=tuple(TASKS),
        heads=(*default.heads, *own["heads"]),
        losses=(*default.losses, *own["losses"]),
        shared_layer=tuple(name for name, (_, _, more) in TASKS.items() if "shared" in more),
        pair_encoding=("joint", *(f"{name}=separate" for name in APART)),
        head_learning_rate=("0.01",),
        **settings,
    )


def write_model(folder):
    """A small model whose weights are large enough to tell texts apart by far."""
    folder.mkdir()
    model = load_model("tiny", seed=1)
    for parameter in model.encoder.parameters():
        if parameter.ndim >= 2:
            parameter.data *= 5
    model.encoder.config.write(folder / "config.json")
    tensors = to_hugging_face(dict(model.encoder.named_parameters()))
    write_safetensors(folder / "model.safetensors", tensors)
    model.tokenizer.save(folder)
    return folder


def _table(name):
    (stem, label), kind, _ = TASKS[name]
    columns = ["sentence"] if stem == SST[0] else ["sentence1", "sentence2"]
    more = {"classification": f"classes = {5 if stem == SST[0] else 2}", "regression": "low = 0\nhigh = 5"}.get(
        kind, ""
    )
    return (
        f'[{name}]\nkind = "{kind}"\nstem = "{stem}"\ntext_columns = {json.dumps(columns)}\nlabel_column = "{label}"\n'
        f'prediction_column = "{name}"\n{more}\n'
    )


def texts_of(name):
    """What a task is asked, each row a list of texts."""
    return [[text] for text in TEXTS] if name in SINGLE else [list(pair) for pair in PAIRS]


def export(run, output, form, task="", *more):
    """Export a run as the command does."""
    task = ["--task", task] if task else []
    main([str(run), "--format", form, "--output", str(output), *task, *map(str, more)])
    return output


def asked(folder, code, jobs, cards=CARDS):
    """What a process of its own, which runs `code` in `folder`, answers to jobs; and what it says on stderr."""
    folder.mkdir()
    (folder / "jobs.json").write_text(json.dumps(jobs))
    environment = {**os.environ, **OFFLINE, "PYTHONPATH": "", "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", code + cards], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    return dict(np.load(folder / "answers.npz")), ended.stderr
