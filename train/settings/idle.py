"""Settings that others leave without effect: a run tells them before it begins."""

from collections.abc import Sequence

from concord.train.settings.config import LIBRARY_RULES, RunConfig, flag_of, setting_text

_ENCODER_ONLY = ("layer_decay", "hidden_dropout", "attention_dropout")


def without_effect(config: RunConfig, kinds: Sequence[str]) -> list[str]:
    """One line for each setting that differs from its default and that other settings leave without effect.

    They are not refused: a flag over a recipe, such as --steps-per-epoch, may well idle what the recipe sets.
    kinds: of the run's tasks.
    """
    joint = all(config.for_task("pair_encoding", task) == "joint" for task in config.tasks)
    no_binary = "binary" not in kinds
    no_margin = all("cosine-embedding" not in config.for_task("losses", task) for task in config.tasks)
    through_all = config.batching in ("sequential", "annealed")
    one_a_step = through_all or config.batching == "alternate"
    frozen = "the encoder is never trained"
    first = min(map(int, config.milestones), default=0)
    idle = (
        ("pair_features", joint, "no task has --pair-encoding separate"),
        ("threshold", no_binary, "no task's answers are 0 or 1"),
        ("margin", no_margin, "no task has the loss cosine-embedding"),
        ("surgery", len(kinds) == 1, "there is one task"),
        ("surgery", one_a_step, f"a step of --batching {config.batching} holds one task"),
        ("granularity", config.surgery == "none" and config.granularity == "layer", "--surgery is none"),
        ("reduction", config.surgery in LIBRARY_RULES, f"--surgery {config.surgery} has a scale of its own"),
        ("gradvac_beta", config.surgery != "gradvac", "it is of --surgery gradvac"),
        ("until", through_all, f"an epoch of --batching {config.batching} is as long as all sets together"),
        ("until", len(kinds) == 1, "there is one task"),
        ("until", config.steps_per_epoch > 0, f"--steps-per-epoch {config.steps_per_epoch} ends an epoch"),
        ("decay", config.schedule != "milestones", "it is of --schedule milestones"),
        ("milestones", first >= config.epochs, f"the run ends after {config.epochs} epochs"),
        # A paper's recipes share its encoder's rate, those of a frozen one too.
        ("learning_rate", not (config.trains_encoder or config.recipe), f"{frozen}, see --head-learning-rate"),
        *((name, not config.trains_encoder, frozen) for name in _ENCODER_ONLY),
    )
    found = {
        name: f"{flag_of(name)} {setting_text(getattr(config, name))} has no effect: {reason}"
        for name, without, reason in idle
        if without and getattr(config, name) != getattr(RunConfig, name)
    }
    return list(found.values())
