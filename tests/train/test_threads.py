"""How threads wait and how many there are is settled before torch is loaded, unless the user has settled it."""

import json
import os
import subprocess
import sys

import pytest

from concord.train import threads
from concord.train.threads import SPINS, quota, settle_threads

PASSIVE = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": SPINS}


@pytest.fixture(autouse=True)
def before_torch(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(threads, "cores", lambda: 8)
    monkeypatch.setattr(threads, "quota", lambda: None)


def settled(environment):
    settle_threads(environment)
    return environment


def test_threads_wait_passively_unless_the_user_has_decided():
    assert settled({}) == PASSIVE
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"):
        assert settled({name: "1"}) == {name: "1"}


def test_threads_are_no_more_than_the_control_group_has_time_for(monkeypatch):
    monkeypatch.setattr(threads, "quota", lambda: 3)
    assert settled({})["OMP_NUM_THREADS"] == "3"
    assert settled({"OMP_NUM_THREADS": "5"})["OMP_NUM_THREADS"] == "5"
    monkeypatch.setattr(threads, "quota", lambda: 8)
    assert settled({}) == PASSIVE


def test_a_loaded_torch_has_read_its_environment_and_nothing_is_changed(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", object())
    assert settled({}) == {}


@pytest.mark.parametrize(
    "files, expected",
    [
        ({"cpu.max": "250000 100000\n"}, 3),
        ({"cpu.max": "20000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu.max": "nonsense\n"}, None),
        ({}, None),
    ],
)
def test_the_quota_of_control_groups_of_both_versions_in_whole_cores(tmp_path, files, expected):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert quota(tmp_path) == expected


def test_a_command_settles_it_for_its_own_torch():
    code = (
        "import json, os, sys\n"
        "from concord.train.command import run_command\n"
        "run_command(lambda given: print(json.dumps([os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules])))\n"
    )
    environment = {name: value for name, value in os.environ.items() if name not in PASSIVE}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    assert json.loads(done.stdout) == [SPINS, False]
