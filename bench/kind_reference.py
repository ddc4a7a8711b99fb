"""What transformers makes of the models that `bench.kind_cases` has written: run by its path, in their folder.

It runs outside the repository, whose room kernels/ transformers would take for a package of its own.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor
from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification


def main() -> None:
    """Answer every case: out.npz in its folder, the models as transformers writes them, and told.json of all."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    inputs, told = np.load("in.npz"), []
    with open("kinds.json", encoding="utf-8") as file:
        kinds = json.load(file)
    for number, kind in enumerate(kinds):
        told.append(_answer(str(number), kind, inputs))
    with open("told.json", "w", encoding="utf-8") as file:
        json.dump(told, file)


def _answer(folder: str, kind: str, inputs: Mapping[str, np.ndarray]) -> list[Any]:
    """The model's type, its encoder's class, and the names of the tensors that it missed."""
    automatic = AutoModelForSequenceClassification if kind in ("distilbert", "electra") else AutoModel
    model, loading = automatic.from_pretrained(folder, attn_implementation="eager", output_loading_info=True)
    masked, of_masked = AutoModelForMaskedLM.from_pretrained(folder + "-masked", output_loading_info=True)
    encoder = getattr(model, kind, model)
    model.eval().save_pretrained(folder + "-again")
    masked.eval().save_pretrained(folder + "-masked-again")
    ids, more = _padded(model.config, inputs)
    output = encoder(ids, **more)
    pooled = _pooled(kind, model, output)
    lengths = inputs["lengths"]
    hidden = torch.cat([output.last_hidden_state[row, :length] for row, length in enumerate(lengths)])
    (pooled * torch.from_numpy(inputs["upstream"])).sum().backward()
    gradients = {
        "gradient." + name.removeprefix(model.base_model_prefix + "."): parameter.grad.numpy()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    scores = masked(ids, **more).logits[0, torch.from_numpy(inputs["positions"])]
    loss = torch.nn.functional.cross_entropy(scores, torch.from_numpy(inputs["targets"]))
    loss.backward()
    found = {"hidden": hidden.detach(), "pooled": pooled.detach(), "loss": loss.detach()}
    found["words"] = masked.get_input_embeddings().weight.grad
    np.savez(folder + "/out.npz", **found, **gradients)
    return [model.config.model_type, type(encoder).__name__, [*loading["missing_keys"], *of_masked["missing_keys"]]]


def _padded(config: Any, inputs: Mapping[str, np.ndarray]) -> tuple[Tensor, dict[str, Tensor]]:
    """The ids, int64 [sequences, longest], and what a model takes beside them."""
    lengths, longest = inputs["lengths"], int(inputs["lengths"].max())
    ids = torch.full((len(lengths), longest), config.pad_token_id, dtype=torch.long)
    mask, types = torch.zeros_like(ids), torch.zeros_like(ids)
    start = 0
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.from_numpy(inputs["ids"][start : start + length])
        types[row, :length] = torch.from_numpy(inputs["segments"][start : start + length])
        mask[row, :length] = 1
        start += length
    more = {"attention_mask": mask}
    if getattr(config, "type_vocab_size", 1) == 2:
        more["token_type_ids"] = types
    return ids, more


def _pooled(kind: str, model: Any, output: Any) -> Tensor:
    """What the classifier of a kind reads, before its last layer."""
    first = output.last_hidden_state[:, 0]
    if kind == "distilbert":
        return torch.relu(model.pre_classifier(first))
    if kind == "electra":
        return torch.nn.functional.gelu(model.classifier.dense(first))
    return output.pooler_output


if __name__ == "__main__":
    main()
