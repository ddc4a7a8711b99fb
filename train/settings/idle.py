"""Settings that others leave without effect: a run tells them before it begins."""

from collections.abc import Sequence

from concord.train.settings.config import RunConfig
from concord.train.settings.options import flag_of, setting_text
from concord.train.settings.own import own_names
from concord.train.settings.tables import BATCHINGS, RULES

_ENCODER_ONLY = ("layer_decay", "hidden_dropout", "attention_dropout")


def without_effect(config: RunConfig, kinds: Sequence[str]) -> list[str]:
    """One line for each setting that differs from its default and that other settings leave without effect.

    They are not refused: a flag over a recipe, such as --steps-per-epoch, may well idle what the recipe sets.
    kinds: of the run's tasks.
    """
    encodings, given_losses = config.per_task("pair_encoding"), config.per_task("losses")
    joint = all(encodings[task] == "joint" for task in config.tasks)
    no_binary = "binary" not in kinds
    losses = [name for task in config.tasks for name in given_losses[task].split("+")]
    # A loss of the user's own may read the margin.
    no_margin = "cosine-embedding" not in losses and not own_names({"losses": losses}, ("losses",))
    batching, rule = BATCHINGS.entry(config.batching), RULES.entry(config.surgery)
    frozen = "the encoder is never trained"
    first, trains_encoder = min(config.milestone_epochs(), default=0), config.trains_encoder()
    never_shared = not trains_encoder and not config.shared_layer and config.surgery_scope == "shared"
    # All recipes of a paper share some settings, such as the encoder's rate, even those that freeze the encoder.
    unasked = not config.recipe
    idle = (
        ("pair_features", joint, "no task has --pair-encoding separate"),
        ("threshold", no_binary, "no task's answers are 0 or 1"),
        ("margin", no_margin, "no task has the loss cosine-embedding"),
        ("surgery", len(kinds) == 1, "there is one task"),
        ("surgery", never_shared, frozen),
        ("surgery_scope", unasked and (config.surgery == "none" or len(kinds) == 1), "there is no surgery"),
        ("reduction", unasked and len(kinds) == 1, "there is one task"),
        ("surgery", batching.one_task, f"a step of --batching {config.batching} holds one task"),
        ("granularity", config.surgery == "none" and config.granularity == "layer", "--surgery is none"),
        ("reduction", rule.library, f"--surgery {config.surgery} has a scale of its own"),
        ("gradvac_beta", config.surgery != "gradvac", "it is of --surgery gradvac"),
        ("sampling_weights", batching.all_sets, f"--batching {config.batching} reads sets by their sizes alone"),
        ("until", batching.all_sets, f"an epoch of --batching {config.batching} is as long as all sets together"),
        ("until", len(kinds) == 1, "there is one task"),
        ("until", config.steps_per_epoch > 0, f"--steps-per-epoch {config.steps_per_epoch} ends an epoch"),
        ("decay", config.schedule in ("linear", "constant"), "it is of --schedule milestones"),
        ("milestones", first >= config.epochs, f"the run ends after {config.epochs} epochs"),
        ("learning_rate", unasked and not trains_encoder, f"{frozen}, see --head-learning-rate"),
        *((name, not trains_encoder, frozen) for name in _ENCODER_ONLY),
    )
    found = {
        name: f"{flag_of(name)} {setting_text(getattr(config, name))} has no effect: {reason}"
        for name, without, reason in idle
        if without and getattr(config, name) != getattr(RunConfig, name)
    }
    return list(found.values())
