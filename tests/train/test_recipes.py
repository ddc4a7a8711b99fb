"""Recipes: every file is a valid configuration, every table names systems that exist, flags override."""

from dataclasses import fields

import pytest

from concord.bert.errors import InputError
from concord.train.data.tasks import select_tasks
from concord.train.flags import build_parser, config_from
from concord.train.objectives.metrics import course_score
from concord.train.settings.config import RunConfig
from concord.train.settings.idle import without_effect
from concord.train.settings.recipes import FOLDER, papers, read_paper, read_recipe, recipes


def kinds(config):
    return [task.kind for task in select_tasks(config.tasks, None)]


@pytest.mark.parametrize("name", recipes())
def test_a_recipe_is_a_valid_configuration_of_a_few_settings(name):
    recipe = read_recipe(name)
    config = RunConfig(recipe=name, **recipe.settings)
    assert recipe.description
    assert config != RunConfig()
    assert without_effect(config, kinds(config)) == []
    own = (FOLDER / f"{name}.toml").read_text().strip().splitlines()
    assert len(own) <= 16


def test_every_system_but_its_folders_default_differs_from_the_others():
    seen = {}
    for name in recipes():
        recipe = read_recipe(name)
        key = (RunConfig(**recipe.settings), recipe.pretrain)
        assert key not in seen or name.split("/")[0] != seen[key].split("/")[0], f"{name} is {seen[key]}"
        seen[key] = name


@pytest.mark.parametrize("name", papers())
def test_every_row_of_a_table_names_systems_that_train_what_it_reports(name):
    paper = read_paper(name)
    assert paper.title
    assert paper.tables
    used = set()
    for table in paper.tables:
        for row in table.rows:
            tasks = set()
            for system in row.systems:
                used.add(f"{name}/{system}")
                tasks |= set(RunConfig(**read_recipe(f"{name}/{system}").settings).tasks)
            assert set(row.figures) - {"overall"} <= tasks, row.name
            # A row of ours has a system of the table as the encoder itself is read.
            means = {read_recipe(f"{name}/{system}").settings.get("pooling") == "mean" for system in row.systems}
            assert means == {not row.figures}, row.name
    assert used == {recipe for recipe in recipes() if recipe.startswith(f"{name}/")}


@pytest.mark.parametrize("name", papers())
def test_a_papers_overall_figures_are_what_it_is_said_to_compute(name):
    paper = read_paper(name)
    for row in (row for table in paper.tables for row in table.rows):
        for figures in (row.figures, row.test):
            if len(figures) == 4:
                mean = sum(figures[task] for task in ("sst", "paraphrase", "sts")) / 3
                expected = mean if paper.overall == "mean" else course_score(figures)
                assert figures["overall"] == pytest.approx(expected, abs=1.5e-3), row.name


def test_flags_override_a_recipe():
    given = build_parser().parse(["--recipe", "bert-mastery/until-smallest", "--batch-size", "4"])
    config = config_from(given)
    assert (config.until, config.batch_size, config.losses) == ("smallest", 4, ("paraphrase=mse", "sts=mse"))
    assert config.recipe == "bert-mastery/until-smallest"


def test_an_unknown_recipe_is_refused_with_the_nearest_name():
    with pytest.raises(InputError, match="bert-mastery/until-smallest"):
        config_from(build_parser().parse(["--recipe", "bert-mastery/until-smalest"]))


def test_a_recipe_with_what_is_no_setting_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("concord.train.settings.recipes.FOLDER", tmp_path)
    (tmp_path / "own").mkdir()
    path = tmp_path / "own" / "system.toml"
    for text, reason in (
        ('description = "x"\nbatchsize = 3', ", line 2: 'batchsize' is no setting.*batch_size"),
        ('description = "x"\nbatch_size = "3"', ", line 2: batch_size is '3', expected a whole number"),
        ("description = ", ": not TOML"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=rf"system\.toml{reason}"):
            read_recipe("own/system")


def test_the_settings_that_recipes_use_are_those_of_the_configuration():
    names = {option.name for option in fields(RunConfig)}
    assert all(set(read_recipe(name).settings) <= names for name in recipes())
