"""CLIP's byte-pair tokenizer built from a package's own file: nothing is downloaded.

The vocabulary ships inside the ``open_clip_torch`` wheel (``pip install --no-deps open_clip_torch``), which is never imported.
"""

from __future__ import annotations

import gzip
import importlib.util
from functools import lru_cache
from pathlib import Path

import torch
from transformers import CLIPTokenizer

from digseg_nodes.core.latent_space import PROMPT_TOKENS

MERGES = 49152 - 256 - 2
FILE = "bpe_simple_vocab_16e6.txt.gz"


def vocabulary_path() -> Path:
    """The merges file inside open_clip_torch; raises ModuleNotFoundError with the command that installs it."""
    spec = importlib.util.find_spec("open_clip")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (path := Path(folder) / FILE).exists():
            return path
    raise ModuleNotFoundError(f"CLIP's vocabulary ({FILE}) was not found; install it with: pip install --no-deps open_clip_torch")


def _byte_alphabet() -> list[str]:
    """One printable character per byte: printable bytes stand for themselves, the others follow from U+0100 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(256 - len(printable))]


@lru_cache(maxsize=1)
def clip_tokenizer() -> CLIPTokenizer:
    """The tokenizer of SD 1.x: 49408 tokens, start 49406, end 49407, padded with the end token."""
    lines = gzip.decompress(vocabulary_path().read_bytes()).decode("utf-8").split("\n")
    merges = [tuple(line.split()) for line in lines[1 : MERGES + 1]]
    letters = _byte_alphabet()
    words = [*letters, *(c + "</w>" for c in letters), *("".join(m) for m in merges), "<|startoftext|>", "<|endoftext|>"]
    vocab = {word: i for i, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=PROMPT_TOKENS)


def tokenize(texts: list[str]) -> torch.Tensor:
    """Token ids int64 [N, 77], truncated and padded as SD 1.x does."""
    out = clip_tokenizer()(list(texts), padding="max_length", truncation=True, max_length=PROMPT_TOKENS, return_tensors="pt")
    return out.input_ids
