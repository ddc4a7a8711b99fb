"""The name of every file that a run leaves in its folder."""

from collections.abc import Iterable

from concord.bert.names import (
    BEST,
    EARLIER_HEADS_FILE,
    HEADS_FILE,
    SENTENCE_FILES,
    TOKENIZER_CONFIG_FILE,
    TOKENIZER_FILE,
    WEIGHTS_FILE,
)

CONFIG_FILE, TASKS_FILE, PRETRAINING_FILE = "config.json", "tasks.json", "pretrain.json"
METRICS_FILE, SUMMARY_FILE = "metrics.jsonl", "summary.json"
STATE_FILE, EARLIER_STATE_FILE = "last.safetensors", "last-but-one.safetensors"
HELD_OUT_FILE = "held-out.json"  # which rows of training sets are dev sets, where nobody names one
LAUNCH_FILE = "launch.txt"  # what launched the processes of a run, where they are several
REPORT_FILE = "report.html"
ADAPTERS_FILE = "reported-to.json"  # by which names the tools of --report-to know the run
PROFILE_FILE, TRACE_FILE = "profile.json", "profile-trace.json.gz"  # of --profile
LOCK_FILE = "lock"  # in a folder of several runs, by which one process has it
SEEDS_FILE = "seeds.json"  # in a folder of several runs that differ in their seed alone
STUDY_FILE = "study.db"  # in a folder of the trials of a sweep
# What the best model's weights vouch for, from its folder: what is read with them to answer.
SEALED = (CONFIG_FILE, TOKENIZER_FILE, f"../{CONFIG_FILE}", f"../{TASKS_FILE}")
CACHE = "token-cache"  # a folder beside the runs, which share it


def seed_folder(seed: int) -> str:
    """The folder of a seed's run, in that of several."""
    return f"seed-{seed}"


def predictions_file(task: str, split: str) -> str:
    """The file of a task's answers to a split, dev or test."""
    return f"{task}-{split}-predictions.csv"


def answers_file(task: str) -> str:
    """The file of a task's answers to its dev set with what judges them, see `train.outputs.dev_answers`."""
    return f"{task}-dev-answers.csv"


def mistakes_file(task: str) -> str:
    """The file of a task's worst mistakes on its dev set."""
    return f"{task}-dev-mistakes.csv"


def files_before_state(tasks: Iterable[str]) -> list[str]:
    """What a run on `tasks` may have written when it has not saved a state yet: paths within its folder."""
    weights = (WEIGHTS_FILE, HEADS_FILE, EARLIER_HEADS_FILE)
    best = [
        f"{BEST}/{name}" for name in (*weights, CONFIG_FILE, TOKENIZER_FILE, TOKENIZER_CONFIG_FILE, *SENTENCE_FILES)
    ]
    answers = [name for task in tasks for name in _answer_files(task)]
    return [
        CONFIG_FILE,
        TASKS_FILE,
        HELD_OUT_FILE,
        LAUNCH_FILE,
        METRICS_FILE,
        STATE_FILE,
        EARLIER_STATE_FILE,
        *best,
        *answers,
    ]


def _answer_files(task: str) -> tuple[str, ...]:
    return predictions_file(task, "dev"), answers_file(task), mistakes_file(task)


def pretraining_files_before_state() -> list[str]:
    """The same of a pre-training."""
    return [PRETRAINING_FILE, METRICS_FILE, STATE_FILE, EARLIER_STATE_FILE]
