"""The configuration of a run: one validated dataclass, from which `train.flags` makes the command line."""

from dataclasses import dataclass, fields

from concord.bert.errors import InputError, did_you_mean, shown
from concord.kernels.ops import CHOICES as KERNEL_CHOICES
from concord.kernels.ops import HIGHEST_RATE
from concord.train.settings import agreement
from concord.train.settings.adapters import ADAPTERS
from concord.train.settings.options import (
    WORDS,
    check_bounds,
    check_choice,
    flag_of,
    is_of_type,
    of_tables,
    setting,
)
from concord.train.settings.tables import BATCHINGS, HEADS, LOSSES, METRICS, PAIR_LOSSES, RULES, SCHEDULES, SOURCES
from concord.train.settings.values import (
    INVERSE_SHARE,
    MEAN,
    OF_TASK,
    UNCERTAINTY,
    PerTask,
    Stage,
    parse_best_metric,
    parse_class_weights,
    parse_number,
    parse_per_task,
    parse_stages,
)

AMP_CHOICES, DEVICES = ("off", "auto", "bf16", "fp16"), ("auto", "cpu", "cuda")
NEW_HEAD_RATE = "1e-3"  # of heads that no model came with
_HIGHEST_SEED = 2**64 - 1  # the highest that torch's generators take
_PER_TASK = (
    *("heads", "losses", "loss_weights", "smart", "pair_encoding", "head_learning_rate", "metric", "class_weights"),
    "sampling_weights",
)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Every setting of a training run. Each field is the flag of the same name, with dashes for underscores."""

    recipe: str = setting(
        "", "a named system, PAPER/SYSTEM (see --recipes), or a .toml of your own; it stands for the defaults"
    )
    data: str = setting(
        "demo",
        "tasks.toml, directory in the course layout, demo for the generated data set, or module:function of your own",
        tables=(SOURCES,),
    )
    train_file: str = setting(
        "", "one task's rows, in place of --data: .csv, .tsv, .jsonl, .parquet, saved folder, or a name on the hub"
    )
    validation_file: str = setting("", "its dev set; without one, a tenth of the training rows is held out")
    test_file: str = setting("", "its rows to be answered")
    text_column: tuple[str, ...] = setting((), "its one or two columns of text, if they are not obvious")
    label_column: str = setting("", "its column of labels, if it is not obvious")
    tasks: tuple[str, ...] = setting(
        ("sst", "paraphrase", "sts"), "tasks to train on, separated by commas; by default all of a tasks.toml"
    )
    model: str = setting("minilm", "minilm, tiny (random weights), a model directory, a run, or a name on the hub")
    lower_case: str = setting(
        "auto",
        "whether a WordPiece model reads texts in lower case; auto: as its files say",
        choices=("auto", "yes", "no"),
    )

    pooling: str = setting(
        "cls", "what stands for a sequence: the pooled first token, or the mean of all", choices=("cls", "mean")
    )
    heads: tuple[str, ...] = of_tables(("linear",), "each task's head, such as linear,sts=cosine", HEADS)
    shared_layer: tuple[str, ...] = setting(
        (), "tasks whose heads read the pooled output through one layer that they share"
    )
    pair_features: str = setting(
        "difference",
        "what a head reads of two sequences: both and their difference, their product too, or both alone",
        choices=("difference", "product", "concatenation"),
    )
    losses: tuple[str, ...] = of_tables(
        ("auto",),
        "each task's loss, such as sts=huber+mnrl-label; auto is cross-entropy, binary-cross-entropy or mse",
        LOSSES,
        PAIR_LOSSES,
        also=("auto",),
    )
    margin: float = setting(0.0, "cosine that pairs without similarity may have in the cosine-embedding loss", low=-1.0)
    loss_weights: tuple[str, ...] = setting(
        ("1",), "numbers such as sst=1,sts=0.5, or inverse-share (of the examples), or uncertainty (learned)"
    )
    metric: tuple[str, ...] = setting(
        (OF_TASK,),
        f"what a task is judged by beside its kind's metrics, such as sst=macro-f1; {OF_TASK} is what its table in "
        "tasks.toml says, or else accuracy or pearson",
        each=(OF_TASK, *METRICS.names),
    )
    class_weights: tuple[str, ...] = setting(
        (OF_TASK,),
        "what the losses of a task's classes are multiplied by, such as sst=balanced (all classes weigh the same in "
        f"all), or sst=0:1+4:2.5 (by label, 1 for the others), or none; {OF_TASK} is what its table in tasks.toml says",
    )
    threshold: str = setting(
        "0.5",
        "score above which a binary task's answer is 1; dev for the one that is best on the dev set at each evaluation "
        "by the task's metric (by accuracy where that is roc-auc, which no threshold changes)",
        choices=("0.5", "dev"),
    )
    smart: tuple[str, ...] = setting(
        ("0",),
        "weight of the smoothness under adversarial noise on the embeddings (SMART), such as sst=1; not in stages of "
        "the heads alone",
    )
    pals: int = setting(0, "size of the projected attention layers of each task; 0 for none", low=0)

    surgery: str = of_tables("none", "what repairs conflicts between the tasks' gradients", RULES)
    granularity: str = setting(
        "model", "what has surgery of its own: the model, each layer, each matrix", choices=("model", "layer", "matrix")
    )
    surgery_scope: str = setting(
        "shared",
        "what dot products span: shared parameters, or all, heads too, which then are scaled as well",
        choices=("shared", "all"),
    )
    reduction: str = setting(
        "sum",
        "what is taken of the projected gradients, or with surgery none of the tasks' own; TorchJD's rules have a "
        "scale of their own, a mean's",
        choices=("sum", "mean"),
    )
    gradvac_beta: float = setting(0.01, "how fast GradVac's targets follow the cosines", low=0.0)

    amp: str = setting(
        "off",
        "mixed precision; the bare flag means auto: bf16 where the device multiplies it, fp16 on other GPUs, else none",
        choices=AMP_CHOICES,
    )
    kernels: str = setting(
        "auto",
        "what computes: auto takes Triton for CUDA, native kernels or else torch on a CPU; triton on a CPU needs "
        "TRITON_INTERPRET=1",
        choices=KERNEL_CHOICES,
    )
    products: str = setting(
        "auto",
        "which library multiplies fp32 matrices on a CPU: auto times both once a machine, and leaves torch's default "
        "where oneDNN is a fifth faster",
        choices=("auto", "torch", "onednn"),
    )
    self_check: str = setting(
        "auto",
        "judge the kernels on the device before the first step, and take from torch what fails; once for a device and "
        "its software: auto on CUDA and for native kernels, on also where they are interpreted",
        choices=("auto", "on", "off"),
    )
    cuda_graphs: str = setting(
        "auto",
        "replay each step as one CUDA graph: the same numbers, sooner; auto does so where it can",
        choices=("auto", "on", "off"),
    )
    device: str = setting("auto", "auto takes CUDA where there is one", choices=DEVICES)

    epochs: int = setting(3, "passes over the data, as batching and until define them", low=1, most=10**6)
    max_steps: int = setting(0, "stop after this many steps; 0 for no limit", low=0)
    batch_size: int = setting(32, "examples a task in a batch", low=1)
    accumulate: int | str = setting(
        1, "batches a step, with one surgery; auto: one batch, in the fewest parts that fit into memory", low=1
    )
    micro_batch: int = setting(0, "examples a task that a process computes at once of a batch; 0 for all", low=0)
    batching: str = of_tables("joint", "which tasks a step holds", BATCHINGS)
    sampling_weights: tuple[str, ...] = setting(
        ("1",), "how many times as many examples of a task a batch holds as --batching gives it, such as sts=2"
    )
    until: str = setting(
        "largest", "the set whose end ends an epoch; smaller ones begin anew", choices=("largest", "smallest")
    )
    steps_per_epoch: int = setting(0, "steps that make an epoch, whatever the sets' sizes; 0 for a whole set", low=0)
    stages: tuple[str, ...] = setting(
        ("all",), "what is trained, epoch by epoch, such as heads:5,all:20,heads:5 (heads alone: the encoder is frozen)"
    )
    pair_encoding: tuple[str, ...] = setting(
        ("joint",),
        "a pair as one sequence, or as two that the head compares, such as joint,sts=separate",
        each=("joint", "separate"),
    )

    learning_rate: float = setting(
        -1.0, "peak rate of the encoder; -1 for one that suits its width: 2e-4 at 384, 5e-5 at 768", low=0.0, auto=-1.0
    )
    head_learning_rate: tuple[str, ...] = setting((NEW_HEAD_RATE,), "peak rate of the heads, such as 1e-3,sst=5e-4")
    layer_decay: float = setting(
        1.0,
        "what the encoder's rate is multiplied by from each layer to the one below; 1 for one rate",
        low=0.0,
        high=1.0,
    )
    schedule: str = of_tables("linear", "the rates' factor after the warm-up", SCHEDULES)
    milestones: tuple[str, ...] = setting((), "epochs after which the rates fall, such as 5,25")
    decay: float = setting(0.7, "what the rates are multiplied by at a milestone", low=0.0)
    warmup: float = setting(0.1, "share of the steps in which the rates rise linearly", low=0.0)
    weight_decay: float = setting(0.01, "decoupled decay of matrices", low=0.0)
    clip: float = setting(1.0, "global norm that the merged gradient is clipped to; 0 for no clipping", low=0.0)
    average: float = setting(
        0.1, "share of the run's steps over which the weights that are evaluated are averaged; 0 for none", low=0.0
    )
    hidden_dropout: float = setting(
        -1.0, "rate on the encoder's hidden states; -1 for the model's own", low=0.0, auto=-1.0
    )
    attention_dropout: float = setting(
        -1.0, "rate on attention's probabilities; -1 for the model's own", low=0.0, auto=-1.0
    )
    head_dropout: float = setting(0.3, "rate on the heads' features", low=0.0)
    max_length: int = setting(512, "wordpieces after which a sequence is cut", low=8)

    seed: int = setting(1, "of weights, batches, dropout and surgery's orders", low=0, high=_HIGHEST_SEED)
    log_every: int = setting(20, "steps between two logged ones", low=1)
    report_to: tuple[str, ...] = of_tables((), "which other tools are told of the run", ADAPTERS)
    evaluate_every: int = setting(
        300, "steps between two evaluations within an epoch, 0 for none; each epoch ends with one", low=0
    )
    dev_examples: int = setting(0, "evaluate on so many dev examples of each task, evenly spaced; 0 for all", low=0)
    best_metric: str = setting(
        MEAN, "what the best model is chosen by: the mean of the tasks' metrics, or one of them, such as sst.macro-f1"
    )
    early_stopping: int = setting(0, "end the run after so many evaluations without a better model; 0 for never", low=0)
    mistakes: int = setting(20, "worst mistakes of the best model that are listed for each task", low=0)
    skip_test: bool = setting(False, "do not answer the test sets at the end")
    save_every: int = setting(
        500, "steps between two states that --resume can start from; each epoch ends with one", low=1
    )
    skip_bad_rows: bool = setting(False, "skip rows of the data that cannot be used, instead of stopping")

    def __post_init__(self) -> None:
        for option in fields(self):
            value, flag = getattr(self, option.name), flag_of(option.name)
            if not is_of_type(value, option):
                raise InputError(f"{flag} {shown(value)}: expected {WORDS.get(option.type, 'a list of texts')}")
            if "choices" in option.metadata:
                check_choice(f"{flag} {value}", str(value), option.metadata["choices"], option)
            for item in value if "each" in option.metadata else ():
                whole = item.rpartition("=")[2]
                for part in whole.split("+") if option.name == "losses" else [whole]:
                    check_choice(f"{flag} {item}", part, option.metadata["each"], option)
            check_bounds(flag, value, option)
        for name in ("hidden_dropout", "attention_dropout", "head_dropout", "warmup", "average", "gradvac_beta"):
            if not getattr(self, name) < 1:
                raise InputError(f"{flag_of(name)} {getattr(self, name)}: expected less than 1")
            if name.endswith("dropout") and getattr(self, name) > HIGHEST_RATE:
                raise InputError(f"{flag_of(name)} {getattr(self, name)}: expected less than 1, by 2^-16 at least")
        agreement.check_scope(self)
        agreement.check_table(self)
        agreement.check_micro_batch(self)
        if not self.tasks:
            raise InputError("--tasks: expected at least one task")
        for name in _PER_TASK:
            self.per_task(name)
        for name in self.shared_layer:
            if name not in self.tasks:
                raise InputError(f"--shared-layer {name}: {did_you_mean(name, self.tasks)}")
        agreement.check_sampling_weights(self)
        self.loss_weights_per_task()
        self.class_weights_per_task()
        parse_best_metric(self.best_metric, self.tasks)
        agreement.check_decay(self)
        agreement.check_milestones(self)
        agreement.check_stages(self)

    def per_task(self, name: str) -> PerTask[str]:
        """The values of the setting `name`, one a task such as heads; InputError where they name an unknown task."""
        return parse_per_task(flag_of(name), getattr(self, name), self.tasks, default=getattr(RunConfig, name)[0])

    def numbers_per_task(self, name: str) -> PerTask[float]:
        """The same of a setting whose values are numbers; InputError where one is none, or negative."""
        return self.per_task(name).map(lambda text: parse_number(flag_of(name), text))

    def loss_weights_per_task(self) -> PerTask[float | str]:
        """Each task's loss weight: a number, or the name of what it follows from."""
        names = (INVERSE_SHARE, UNCERTAINTY)
        return self.per_task("loss_weights").map(
            lambda text: text if text in names else parse_number("--loss-weights", text, names)
        )

    def class_weights_per_task(self) -> PerTask[str | dict[str, float]]:
        """Each task's class weights: label -> weight, or the name of what they follow from."""
        return self.per_task("class_weights").map(lambda text: parse_class_weights("--class-weights", text))

    def parsed_stages(self) -> tuple[Stage, ...]:
        """The stages of the run; InputError where they do not add up to its epochs."""
        return parse_stages(self.stages, self.epochs)

    def milestone_epochs(self) -> tuple[int, ...]:
        """The epochs after which the rates fall."""
        return tuple(int(item) for item in self.milestones)

    def trains_encoder(self) -> bool:
        """Whether any stage trains more than the heads."""
        return any(stage.trains == "all" for stage in self.parsed_stages())
