"""Texts to embeddings, as sentence encoders are used: by Concord, and by sentence-transformers and transformers.

The embedding of a text is the mean of its tokens' states, of length one. All read the same directory, MiniLM's, cut
texts at the same number of wordpieces, and tokenise within what is timed.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import transformers
from sentence_transformers import SentenceTransformer
from torch import Tensor
from torch.nn import functional

from concord.train.data.tasks import Example, select_tasks
from concord.train.data.tokenized import tokenize_split
from concord.train.settings.config import RunConfig
from concord.train.settings.typed import fine_tuning_config
from concord.train.steps import build
from concord.train.steps.evaluation import encode
from concord.train.steps.precision import Precision

LONGEST = 256  # wordpieces, special tokens included
BATCH = 32  # texts, of the peers

Encode = Callable[[Sequence[str]], Tensor]
"""Texts -> their embeddings, fp32 [texts, hidden], on the CPU."""


def concord_encoder(precision: Precision) -> Encode:
    """Concord's packed path."""
    task = select_tasks(["sst"], None)[0]
    config = fine_tuning_config(RunConfig(tasks=(task.name,), model="minilm", pooling="mean"))
    pretrained = build.load_pretrained(config.model)
    config = build.fit_model(config, pretrained.encoder.config)
    model = build.build_model(config, [task], pretrained.encoder, precision)

    def encode_texts(texts: Sequence[str]) -> Tensor:
        examples = [Example(str(number), text, None, None) for number, text in enumerate(texts)]
        split = tokenize_split(
            task, examples, pretrained.tokenizer, pair_encoding="joint", max_length=LONGEST, cache=None
        )
        pooled = encode(model, split, np.arange(len(texts)), precision.device)
        return functional.normalize(pooled.float(), dim=1).cpu()

    return encode_texts


def sentence_transformers_encoder(directory: Path, precision: Precision) -> Encode:
    """sentence-transformers, which sorts texts by length, in the dtype."""
    model = SentenceTransformer(
        str(directory), device=str(precision.device), model_kwargs={"dtype": precision.compute_dtype}
    )
    model.max_seq_length = LONGEST

    def encode_texts(texts: Sequence[str]) -> Tensor:
        found = model.encode(list(texts), batch_size=BATCH, convert_to_tensor=True, normalize_embeddings=True)
        return found.float().cpu()

    return encode_texts


def transformers_encoder(directory: Path, precision: Precision) -> Encode:
    """transformers, as a model's card shows it: batches as the texts come, padded to their longest."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    model = transformers.AutoModel.from_pretrained(directory, dtype=precision.compute_dtype).to(precision.device).eval()

    @torch.inference_mode()
    def encode_texts(texts: Sequence[str]) -> Tensor:
        found = []
        for start in range(0, len(texts), BATCH):
            read = tokenizer(
                list(texts[start : start + BATCH]),
                padding=True,
                truncation=True,
                max_length=LONGEST,
                return_tensors="pt",
            ).to(precision.device)
            states = model(**read).last_hidden_state.float()
            mask = read["attention_mask"][..., None].float()
            found.append(functional.normalize((states * mask).sum(1) / mask.sum(1), dim=1).cpu())
        return torch.cat(found)

    return encode_texts
