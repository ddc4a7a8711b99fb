"""The command `concord`: its subcommands are those that are typed in a checkout, and a wrong one is one line."""

from importlib import import_module

import pytest

import concord
from concord import cli


def test_the_version_is_the_packages(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"concord {concord.__version__}\n"


def test_help_has_a_line_for_each_subcommand(capsys):
    assert cli.main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(f"\n  {name} " in printed for name in cli.COMMANDS)
    assert cli.main([]) == 2
    assert capsys.readouterr().out == printed


def test_an_unknown_subcommand_is_one_line(capsys):
    assert cli.main(["trian"]) == 2
    assert capsys.readouterr().err.startswith("error: concord trian: expected one of run, evaluate")


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_each_subcommand_is_there(name, capsys):
    module, stands_for, _ = cli.COMMANDS[name]
    assert callable(import_module(module).main)
    with pytest.raises(SystemExit) as ended:
        cli.main([name, *([] if stands_for else ["--help"])])
    assert ended.value.code == 0
    assert capsys.readouterr().out


def test_bad_input_has_its_exit_code(capsys, tmp_path):
    assert cli.main(["evaluate", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_public_names_come_from_the_package_itself():
    assert {"PCGrad", "GradVac", "Surgery"} <= set(dir(concord))
    assert concord.PCGrad is import_module("concord.train.surgery").PCGrad
    with pytest.raises(AttributeError, match="'PCGard'; it has GradVac, PCGrad, RunConfig, Surgery, fine_tune, load"):
        concord.PCGard  # noqa: B018
    assert not {"kernels", "bert", "train"} & set(concord.__all__)
