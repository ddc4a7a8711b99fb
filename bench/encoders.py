"""Texts to embeddings, as sentence encoders are used: by Concord, and by sentence-transformers and transformers.

The embedding of a text is the mean of its tokens' states, of length one. All read the same directory, MiniLM's, cut
texts at the same number of wordpieces, and tokenise within what is timed.
"""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import transformers
from sentence_transformers import SentenceTransformer
from torch import Tensor
from torch.nn import functional

from concord import load
from concord.train.steps.precision import Precision

LONGEST = 256  # wordpieces, special tokens included, where nothing else is said
BATCH = 32  # texts, of the peers

Encode = Callable[[Sequence[str]], Tensor]
"""Texts -> their embeddings, fp32 [texts, hidden], on the CPU."""


def concord_encoder(precision: Precision, longest: int = LONGEST) -> Encode:
    """Concord's packed path, as a program uses it."""
    amp = {"fp32": "off"}.get(precision.name, precision.name)
    model = load("minilm", device=precision.device.type, amp=amp, max_length=longest)

    def encode_texts(texts: Sequence[str]) -> Tensor:
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # the peers cut texts without a word
            return torch.from_numpy(model.encode(texts))

    return encode_texts


def sentence_transformers_encoder(directory: Path, precision: Precision, longest: int = LONGEST) -> Encode:
    """sentence-transformers, which sorts texts by length, in the dtype."""
    model = SentenceTransformer(
        str(directory), device=str(precision.device), model_kwargs={"dtype": precision.compute_dtype}
    )
    model.max_seq_length = longest

    def encode_texts(texts: Sequence[str]) -> Tensor:
        found = model.encode(list(texts), batch_size=BATCH, convert_to_tensor=True, normalize_embeddings=True)
        return found.float().cpu()

    return encode_texts


def transformers_encoder(directory: Path, precision: Precision, longest: int = LONGEST) -> Encode:
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
                max_length=longest,
                return_tensors="pt",
            ).to(precision.device)
            states = model(**read).last_hidden_state.float()
            mask = read["attention_mask"][..., None].float()
            found.append(functional.normalize((states * mask).sum(1) / mask.sum(1), dim=1).cpu())
        return torch.cat(found)

    return encode_texts
