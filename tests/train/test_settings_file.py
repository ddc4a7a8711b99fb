"""Settings from a file: flags win over it, it wins over a recipe, and what is wrong with it is said with its line."""

from dataclasses import fields, replace

import pytest

from concord.bert.errors import InputError
from concord.train import run
from concord.train.command import run_command
from concord.train.flags import build_parser, config_from
from concord.train.settings.config import RunConfig
from concord.train.settings.files import toml_of, write_config
from concord.train.settings.own import VARIABLE
from concord.train.settings.recipes import read_recipe
from concord.train.settings.settings_file import read_settings_file
from tests.train.own_data import tickets
from tests.train.small_runs import command, refused


def config(*arguments):
    return config_from(build_parser().parse([str(argument) for argument in arguments]))


def written(tmp_path, text, name="settings.toml"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_flags_win_over_the_file_it_over_the_recipe_and_that_over_the_defaults(tmp_path):
    name = "optimusbert/cosine-ranking-pcgrad"
    of_recipe = read_recipe(name).settings
    path = written(tmp_path, f'recipe = "{name}"\nsurgery = "gradvac"\nbatch_size = 7\nseed = 3\n')
    found = config("--config", path, "--batch-size", "5")
    assert (found.recipe, found.surgery, found.batch_size, found.seed) == (name, "gradvac", 5, 3)
    assert of_recipe["surgery"] == "pcgrad"
    untouched = of_recipe.keys() - {"surgery", "batch_size", "seed"}
    assert untouched
    assert all(getattr(found, setting) == of_recipe[setting] for setting in untouched)
    assert found.log_every == RunConfig.log_every


def test_a_setting_may_be_written_in_the_forms_that_toml_has_for_it(tmp_path):
    text = 'tasks = ["sst", "sts"]\nheads = "linear, sts=cosine"\nhead_learning_rate = 1e-3\nlearning_rate = 1\n'
    found = config("--config", written(tmp_path, f'{text}schedule = "milestones"\nmilestones = [1, 2]\n'))
    assert (found.tasks, found.heads, found.head_learning_rate) == (
        ("sst", "sts"),
        ("linear", "sts=cosine"),
        ("0.001",),
    )
    assert (found.learning_rate, type(found.learning_rate), found.milestones) == (1.0, float, ("1", "2"))


EVERY = replace(
    RunConfig(),
    data='/some folder/of "data"\\ \t\x7fé\U0001f600',
    tasks=("sst", "sts"),
    head_learning_rate=("1e-3", "sst=5e-4"),
    learning_rate=3e-05,
    seed=2**64 - 1,
    skip_bad_rows=True,
    loss_weights=("sst=1",),
)


def test_what_print_config_writes_reads_back_to_the_same_settings(tmp_path, capsys):
    path = written(tmp_path, toml_of(EVERY))
    assert RunConfig(**read_settings_file(path).settings) == EVERY
    given = ("--surgery", "pcgrad", "--tasks", "sst,sts", "--learning-rate", "2e-5", "--data", str(tmp_path))
    assert run_command(run.main, [*given, "--print-config"]) == 0
    printed = capsys.readouterr().out
    assert 'surgery = "pcgrad"  # default "none"\n' in printed
    assert config("--config", written(tmp_path, printed, "again.toml")) == config(*given)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.toml", "settings.toml"], "no run has begun"


def test_the_printed_settings_are_every_one_under_its_own_name():
    keys = [line.split(" = ")[0] for line in toml_of(RunConfig()).splitlines() if line and line[0] != "#"]
    assert keys == [option.name for option in fields(RunConfig)]


def test_a_table_of_ones_own_is_read_back_too(tmp_path, capsys):
    table = tickets(tmp_path)
    given = ("--data", str(table), "--max-length", "32")
    assert run_command(run.main, [*given, "--print-config"]) == 0
    again = written(tmp_path, capsys.readouterr().out)
    found = config("--config", again)
    assert found == config(*given)
    assert found.train_file == str(table)
    # Another place of data takes the place of the file's, by either name.
    assert config("--config", again, "--data", "demo", "--tasks", "sst").train_file == ""


@pytest.mark.slow
@pytest.mark.usefixtures("without_pictures")
def test_the_settings_of_a_run_start_another_run_with_the_same_bits(data, tmp_path):
    more = ("--epochs", "1", "--skip-test", "--mistakes", "0")
    assert run_command(run.main, command(data, tmp_path / "first", *more)) == 0
    arguments = ["--config", str(tmp_path / "first" / "config.json"), "--out", str(tmp_path / "second")]
    assert run_command(run.main, arguments) == 0
    kept = [(tmp_path / name / "config.json").read_text() for name in ("first", "second")]
    assert kept[0] == kept[1]
    weights = [(tmp_path / name / "best" / "model.safetensors").read_bytes() for name in ("first", "second")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "epochs = 2\nbatchsize = 3\n",
            "settings.toml, line 2: 'batchsize' is no setting; .*did you mean 'batch_size'",
        ),
        ('\nbatch_size = "3"\n', "settings.toml, line 2: batch_size is '3', expected a whole number"),
        ("batch_size = true\n", "settings.toml, line 1: batch_size is True, expected a whole number"),
        ("learning_rate = 1e999\n", "settings.toml, line 1: learning_rate is inf, expected a number"),
        ("tasks = [true]\n", "settings.toml, line 1: tasks is .*, expected texts, in a list or with commas"),
        ("[model]\nname = 3\n", "settings.toml, line 1: model is .*, expected a text"),
        ("seed = 1\n\nbatch_size = 0\n", r"--batch-size 0: expected at least 1 \(.*settings.toml, line 3\)"),
        ('surgery = "pcgrd"\n', r"--surgery pcgrd: .*'pcgrad'\? \(.*settings.toml, line 1\)"),
        ('surgery_scope = "all"\ngranularity = "layer"\n', r"--surgery-scope all: .*settings.toml, line 1\)"),
        ('data = "/nowhere/at.toml"\n', r"--data /nowhere/at.toml: no such file.*\(.*settings.toml, line 1\)"),
        ("seed = \n", "settings.toml: not TOML .*line 1"),
        ("seed = 1\nseed = 2\n", "settings.toml: not TOML .*line 2"),
        ('recipe = "none/such"\n', "--recipe none/such: there is none of that name"),
    ],
)
def test_what_is_wrong_is_one_line_with_the_file_and_its_line(tmp_path, text, said):
    with pytest.raises(InputError, match=said):
        config("--config", written(tmp_path, text))


def test_a_wrong_flag_over_a_file_is_not_blamed_on_the_file(tmp_path):
    with pytest.raises(InputError, match=r"^--batch-size 0: expected at least 1 \(with the settings of .*toml\)$"):
        config("--config", written(tmp_path, "batch_size = 4\n"), "--batch-size", "0")


def test_json_is_read_by_the_same_rules(tmp_path):
    write_config(replace(RunConfig(), seed=5), tmp_path / "config.json")
    assert config("--config", tmp_path / "config.json").seed == 5
    for text, said in (
        ('{\n  "seed": 1,\n  "sed": 2}', "line 3: 'sed' is no setting"),
        ('{"seed": 1, "seed": 2}', "'seed' stands twice"),
        ("[1]", "expected an object of settings"),
        ("{", "not JSON .*line 1"),
        ('{"seed": NaN}', "line 1: seed is nan, expected a whole number"),
    ):
        with pytest.raises(InputError, match=said):
            config("--config", written(tmp_path, text, "wrong.json"))


def test_other_files_are_refused(tmp_path, capsys):
    assert "expected a file of settings that ends in .toml" in refused(capsys, run.main, ["--config", tmp_path])
    assert "cannot be read (No such file" in refused(capsys, run.main, ["--config", tmp_path / "none.toml"])
    path = written(tmp_path, "seed = 1\n")
    resumed = refused(capsys, run.main, ["--resume", tmp_path, "--config", path])
    assert "not the folder of a run" in resumed
    write_config(RunConfig(), tmp_path / "config.json")
    assert "goes on with its own settings" in refused(capsys, run.main, ["--resume", tmp_path, "--config", path])


def test_a_recipe_of_ones_own_is_named_by_its_path(tmp_path, monkeypatch):
    path = written(tmp_path, 'description = "mine"\nsurgery = "gradvac"\nbatch_size = 9\n', "mine.toml")
    monkeypatch.chdir(tmp_path)
    found = config("--recipe", "mine.toml", "--batch-size", "4")
    assert (found.recipe, found.surgery, found.batch_size) == (str(path), "gradvac", 4)
    assert config("--config", written(tmp_path, 'recipe = "mine.toml"\nseed = 2\n')).batch_size == 9
    for text, said in (
        ("description = 3\n", "line 1: description is 3"),
        ('recipe = "a/b"\n', "'recipe' is no setting"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=said):
            config("--recipe", path)
    with pytest.raises(InputError, match="cannot be read"):
        config("--recipe", tmp_path / "none.toml")


@pytest.fixture
def rows(tmp_path, monkeypatch):
    """The current folder, with a table, a tasks.toml whose task has a weight, and a model."""
    monkeypatch.chdir(tmp_path)
    written(tmp_path, "text,label\na,b\n", "rows.csv")
    written(tmp_path, '[rev]\ntrain = "rows.csv"\nweight = 0.5\n[more]\ntrain = "rows.csv"\n', "tasks.toml")
    (tmp_path / "pm").mkdir()
    return tmp_path


@pytest.mark.parametrize("layer", ["--config", "--recipe"])
def test_what_follows_from_the_data_of_a_file_does_so_whether_it_is_a_recipe_or_not(rows, layer):
    own = written(rows, 'data = "tasks.toml"\nmodel = "pm"\n', "mine.toml")
    found = config(layer, own)
    assert (found.tasks, found.loss_weights) == (("rev", "more"), ("rev=0.5",))
    assert (found.data, found.model) == (str(rows / "tasks.toml"), str(rows / "pm"))
    own.write_text('data = "tasks.toml"\ntasks = "rev"\nloss_weights = 2\n')
    assert (config(layer, own).tasks, config(layer, own).loss_weights) == (("rev",), ("2",))
    own.write_text('train_file = "rows.csv"\n')
    assert (config(layer, own).tasks, config(layer, own).train_file) == (("rows",), str(rows / "rows.csv"))


@pytest.mark.parametrize("layer", ["--config", "--recipe"])
def test_data_that_is_typed_takes_the_place_of_a_files_rows_and_of_what_belongs_to_them(rows, layer):
    text = 'train_file = "rows.csv"\nvalidation_file = "rows.csv"\nlabel_column = "label"\ntasks = "rows"\n'
    own = written(rows, text, "mine.toml")
    found = config(layer, own, "--data", "demo", "--tasks", "sst")
    assert (found.data, found.train_file, found.validation_file, found.label_column) == ("demo", "", "", "")
    found = config(layer, own, "--train-file", "other.csv")
    assert (found.train_file, found.label_column) == (str(rows / "other.csv"), "label")
    own.write_text('data = "tasks.toml"\ntasks = "rev"\n')
    found = config(layer, own, "--train-file", "rows.csv", "--tasks", "rows")
    assert (found.data, found.train_file) == ("demo", str(rows / "rows.csv"))
    assert found.loss_weights == ("1",)


def test_what_only_followed_from_the_data_of_a_runs_config_follows_from_those_that_are_typed(rows, tmp_path):
    kept = tmp_path / "config.json"
    write_config(config("--train-file", "rows.csv"), kept)
    assert config("--config", kept, "--train-file", "other.csv").tasks == ("other",)
    found, typed = config("--config", kept, "--data", "tasks.toml"), config("--data", "tasks.toml")
    assert (found.tasks, found.loss_weights) == (typed.tasks, typed.loss_weights)
    write_config(config("--train-file", "rows.csv", "--tasks", "mine"), kept)
    assert config("--config", kept, "--train-file", "other.csv").tasks == ("mine",)


def test_a_files_data_takes_the_place_of_its_recipes_rows(rows):
    written(rows, 'train_file = "rows.csv"\ntasks = "rows"\n', "mine.toml")
    found = config("--config", written(rows, 'recipe = "mine.toml"\ndata = "demo"\ntasks = "sst"\n'))
    assert (found.data, found.train_file) == ("demo", "")


def test_settings_of_a_program_have_one_place_of_data():
    with pytest.raises(InputError, match=r"--data 'd' and --train-file: expected one of them"):
        RunConfig(data="d", train_file="rows.csv", tasks=("rows",))


def test_a_file_alone_has_no_code_imported(tmp_path, monkeypatch, write):
    write("my_code", "def halve(gram, state):\n    return gram\n")
    monkeypatch.delenv(VARIABLE, raising=False)
    path = written(tmp_path, 'surgery = "my_code:halve"\n')
    with pytest.raises(InputError, match=r"settings.toml: it names the code my_code:halve.*set CONCORD_OWN=my_code"):
        config("--config", path)
    with pytest.raises(InputError, match="not imported on a file's word alone"):
        config("--recipe", path)
    assert config("--config", path, "--surgery", "my_code:halve").surgery == "my_code:halve"
    monkeypatch.setenv(VARIABLE, "my_code")
    assert config("--config", path).surgery == "my_code:halve"
