"""What a thread chooses for itself, and what it chooses for all."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from concord.kernels.dispatch import chosen_kernels, set_kernels, takes_native, using_kernels
from concord.kernels.threads import Choice, current_choices, own_choices

ROOT = Path(__file__).resolve().parents[2]


def in_another_thread(function, *arguments):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function, *arguments).result()


def test_what_is_chosen_counts_in_every_thread():
    choice = Choice("a")
    choice.choose("b")
    assert choice.value == in_another_thread(lambda: choice.value) == "b"


def test_a_threads_own_choice_counts_in_no_other_and_ends_with_its_block():
    choice = Choice("a")
    with own_choices():
        choice.choose("b")
        assert choice.value == "b"
        assert in_another_thread(lambda: choice.value) == "a"
    assert choice.value == "a"


def test_a_threads_own_choice_stays_what_it_was_whatever_others_choose():
    choice = Choice("a")
    with own_choices():
        in_another_thread(choice.choose, "c")
        assert choice.value == "a"
        kept = current_choices()
    assert choice.value == "c"
    with own_choices(kept):
        assert choice.value == "a"
        with own_choices():
            assert choice.value == "a"
            choice.choose("d")
        assert choice.value == "a"
    with own_choices(kept):  # what was chosen above has not been written into it
        assert choice.value == "a"


def test_kernels_may_be_a_threads_own():
    own = torch.zeros(1)
    with own_choices():
        set_kernels("native", from_torch=["bias_gelu"])
        assert takes_native("attention", own) and not takes_native("bias_gelu", own)
        assert in_another_thread(chosen_kernels) == "auto"
        with using_kernels("torch"):
            assert not takes_native("attention", own)
            assert in_another_thread(chosen_kernels) == "auto"
        assert chosen_kernels() == "native"
    assert chosen_kernels() == "auto"


ALONE = """
import threading
from concord.kernels.threads import runs_alone
print(runs_alone())
ends = threading.Event()
other = threading.Thread(target=ends.wait)
other.start()
print(runs_alone())
ends.set()
other.join()
print(runs_alone())
"""


def test_a_process_runs_alone_while_it_has_no_second_thread():
    found = subprocess.run([sys.executable, "-c", ALONE], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["True", "False", "True"]
