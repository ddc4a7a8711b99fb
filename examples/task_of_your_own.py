"""A task of one's own from a tab-delimited file: python examples/task_of_your_own.py [FOLDER]

Writes a small data set and its tasks.toml, trains a tiny model on it for a few steps, evaluates and predicts.
"""

import csv
import sys
import tempfile
from pathlib import Path

from concord.train import evaluate, predict, run
from concord.train.command import run_command

folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
data, out = folder / "data", folder / "run"
data.mkdir(parents=True, exist_ok=True)
(data / "tasks.toml").write_text(
    """
[spam]
kind = "binary"
stem = "mail"
text_columns = ["subject"]
label_column = "is_spam"
prediction_column = "Predicted_Spam"
"""
)
SUBJECTS = [("win a prize today", 1), ("notes of the meeting", 0), ("cheap watches", 1), ("lunch on friday", 0)]
for split, count in (("train", 40), ("dev", 8)):
    with (data / f"mail-{split}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(["", "id", "subject", "is_spam"])
        for index in range(count):
            subject, label = SUBJECTS[index % len(SUBJECTS)]
            writer.writerow([index, f"{split}-{index}", f"{subject} {index}", label])

flags = ["--data", str(data), "--tasks", "spam", "--model", "tiny", "--out", str(out), "--max-steps", "10"]
for command, arguments in (
    (run.main, [*flags, "--batch-size", "8", "--device", "cpu"]),
    (evaluate.main, [str(out), "--device", "cpu"]),
    (
        predict.main,
        [str(out), "--task", "spam", "--input", str(data / "mail-dev.csv"), "--output", str(folder / "answers.csv")],
    ),
):
    if code := run_command(command, arguments):
        sys.exit(code)
print((folder / "answers.csv").read_text(), end="")
