"""Small data sets in the forms and layouts that users bring, made up here."""

import csv
import gzip
import io
import json
import random

import datasets

datasets.disable_progress_bars()
ABOUT = {
    "billing": ["the bill was too high", "charged twice again"],
    "shipping": ["the parcel is late", "no box came"],
    "account": ["cannot log in", "forgot my password"],
}
ROWS = 40


def tickets(folder, rows=ROWS, name="tickets.csv"):
    """A CSV: `created,label,text`, texts with commas, quotes and line ends."""
    draw, text = random.Random(3), io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["created", "label", "text"])
    for number in range(rows):
        label = sorted(ABOUT)[number % 3]
        writer.writerow([f"2024-05-{number % 28 + 1:02}", label, f'{draw.choice(ABOUT[label])},\n"{number}" times'])
    (folder / name).write_text(text.getvalue(), encoding="utf-8")
    return folder / name


def entailment(folder):
    """JSON lines: two texts and a text label."""
    lines = [
        json.dumps({"label": label, "premise": f"dog {number} runs", "hypothesis": f"a dog {label} runs", "more": [1]})
        for number in range(ROWS)
        for label in [("yes", "no", "maybe")[number % 3]]
    ]
    (folder / "nli.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "nli.jsonl"


def stars(folder):
    """Parquet: a text, and a score from 1 to 5."""
    texts = [f"film number {number} was fine" for number in range(ROWS)]
    scores = [1 + number % 9 / 2 for number in range(ROWS)]
    datasets.Dataset.from_dict({"body": texts, "points": scores}).to_parquet(str(folder / "stars.parquet"))
    return folder / "stars.parquet"


def pairs(folder, name="pairs"):
    """A folder that `datasets` saved: pairs, True or False."""
    columns = {
        "left": [f"left text {number}" for number in range(ROWS)],
        "right": [f"right text {number % 7}" for number in range(ROWS)],
        "same": [number % 4 == 0 for number in range(ROWS)],
    }
    datasets.Dataset.from_dict(columns).save_to_disk(str(folder / name))
    return folder / name


def lines(path, *rows, end="\n", encoding="utf-8"):
    """A text file of these lines; a name that ends with .gz is packed."""
    content = "".join(row + end for row in rows).encode(encoding)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def mrpc(folder):
    """MRPC as its authors publish it: a byte order mark, tabs, and quotes that are plain characters."""
    rows = [
        f'{number % 2}\t{number}\t{number + 100}\t"Yes, he said {number}.\tHe said "yes" {number}.'
        for number in range(ROWS)
    ]
    header = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String"
    return lines(folder / "msr_paraphrase_train.tsv", header, *rows, end="\r\n")


def qqp(folder):
    """GLUE's QQP: an index, two ids, and questions, some of which begin with a quote."""
    rows = [
        f'{number}\t{number}\t{number + 1}\t"What" is {number}?\t"Where is {number}?\t{number % 2}'
        for number in range(ROWS)
    ]
    (folder / "QQP").mkdir()
    return lines(folder / "QQP" / "train.tsv", "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", *rows)


def stsb(folder):
    """GLUE's STS-B: ten columns, and scores with three decimals."""
    head = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore"
    rows = [
        f"{number}\tmain-news\tfile\t2012\t{number}\tnone\tnone\tA plane {number} lands.\tA plane lands.\t"
        f"{number % 21 / 4:.3f}"
        for number in range(ROWS)
    ]
    (folder / "STS-B").mkdir()
    return lines(folder / "STS-B" / "train.tsv", head, *rows)


def cola(folder):
    """GLUE's CoLA: no header; source, label, mark, sentence."""
    rows = [f"gj04\t{number % 2}\t{'*' if number % 2 else ''}\tThe boy {number} ran." for number in range(ROWS)]
    (folder / "CoLA").mkdir()
    return lines(folder / "CoLA" / "train.tsv", *rows)


def sentiment(folder):
    """Reviews as pandas writes them: quoted texts of several lines, labels as words."""
    rows = [
        f'"A ""fine"" film {number}.\n\nSeen twice.",{"positive" if number % 3 else "negative"}'
        for number in range(ROWS)
    ]
    return lines(folder / "reviews.csv", "review,sentiment", *rows)


TASKS = """
[tickets]
train = "tickets.csv"
text_columns = ["text"]
label_column = "label"
[nli]
train = "nli.jsonl"
[stars]
train = "stars.parquet"
text_columns = ["body"]
label_column = "points"
weight = 0.5
[pairs]
train = "pairs"
text_columns = ["left", "right"]
label_column = "same"
"""


def all_four(folder):
    """The four sets, and the tasks.toml of them together."""
    for make in (tickets, entailment, stars, pairs):
        make(folder)
    (folder / "tasks.toml").write_text(TASKS, encoding="utf-8")
    return folder / "tasks.toml"
