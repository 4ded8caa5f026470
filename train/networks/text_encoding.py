"""Frozen text encoding of prompts (paper section 3.5), cached on disk."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from digseg_nodes.core.checkpoint import END_TOKEN, pad_token
from train.latents.row_store import RowStore, digest, fill
from train.networks.bases import module_digest
from train.networks.tokenizer import tokenize


def prompt_tokens(text_encoder, prompts: Sequence[str]) -> Tensor:
    """Token ids int64 [N,77] padded as the encoder was trained and as the nodes pad: see `pad_token`."""
    tokens = tokenize(list(prompts))
    ends = (tokens == END_TOKEN).int()
    return tokens.masked_fill(ends.cumsum(1) - ends > 0, pad_token(text_encoder.config.to_dict()))


@torch.no_grad()
def encode_texts(text_encoder, prompts: Sequence[str]) -> Tensor:
    """Last hidden state after the final norm: N prompts -> [N,77,D]."""
    tokens = prompt_tokens(text_encoder, prompts).to(text_encoder.device)
    return text_encoder(input_ids=tokens).last_hidden_state


class TextCache:
    """Encoded prompts as rows [77, D] of a store that belongs to one text encoder."""

    def __init__(self, folder: Path, text_encoder, batch: int = 64):
        width, length = text_encoder.config.hidden_size, text_encoder.config.max_position_embeddings
        self.store = RowStore(folder / f"text-{module_digest(text_encoder)}", "text", (length, width), what="encoded texts")
        self.text_encoder, self.batch = text_encoder, batch

    def row_numbers(self, prompts: Sequence[str]) -> list[int]:
        """Row of every prompt, encoding those not seen before."""
        keys = [digest(prompt) for prompt in prompts]
        fresh = {key: prompt for key, prompt in zip(keys, prompts, strict=True) if key not in self.store}
        order, texts = list(fresh), list(fresh.values())
        with tqdm(total=len(order), desc="texts", disable=not order, leave=False) as progress:
            fill(
                self.store,
                order,
                lambda at: encode_texts(self.text_encoder, [texts[i] for i in at]),
                self.batch,
                progress,
            )
        return [self.store.index[key] for key in keys]
