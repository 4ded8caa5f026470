"""The VAE's encoder as the cache and the uncached training use it: its precision, and how much it is given at a time."""

import torch
from torch import Tensor

from digseg_nodes.core.checkpoint import DTYPES
from train.networks.bases import encode_pixels

MOST_AT_ONCE = 32
"""Images or masks in a call at most: more are no faster."""
SHARE_OF_FREE = 0.6
"""Of a GPU's free memory, for a call."""


class Encoder:
    """A frozen VAE where it lies. precision: that of the run, "no" for float32; on CUDA its weights lie channels last."""

    def __init__(self, vae, precision: str = "no"):
        self.vae, self.precision = vae, precision
        if vae.device.type == "cuda":
            vae.to(memory_format=torch.channels_last)

    @torch.no_grad()
    def encode(self, pixels: Tensor, at_once: int) -> Tensor:
        """[N,3,H,W] in [-1,1] → scaled latents [N,4,H/8,W/8] float32 on the VAE's device, `at_once` images at a time.

        A part that half precision turns into infinities is encoded in float32; one that does not fit into memory, in halves.
        """
        return torch.cat([self._part(part) for part in pixels.split(at_once)])

    def _part(self, pixels: Tensor) -> Tensor:
        try:
            found = self._call(pixels, self.precision)
        except torch.OutOfMemoryError:
            if len(pixels) == 1:
                raise
            found = None  # outside of the handler, which holds on to the call's tensors
        if found is None:
            torch.accelerator.empty_cache()
            return torch.cat([self._part(half) for half in pixels.split(-(-len(pixels) // 2))])
        return found if self.precision == "no" or found.isfinite().all() else self._call(pixels, "no")

    def _call(self, pixels: Tensor, precision: str) -> Tensor:
        device, dtype = self.vae.device, DTYPES.get(precision)
        layout = torch.channels_last if device.type == "cuda" else torch.contiguous_format
        pixels = pixels.to(device, non_blocking=True).contiguous(memory_format=layout)
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            return encode_pixels(self.vae, pixels).float().contiguous()

    def fits(self, resolution: int, fallback: int) -> int:
        """Square images of `resolution` pixels in a call: a power of two that takes SHARE_OF_FREE of what is free on a GPU,
        by the memory that one takes; `fallback` elsewhere."""
        device = self.vae.device
        if device.type != "cuda":
            return fallback
        blank = torch.zeros((1, 3, resolution, resolution))
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        self.encode(blank, 1)
        taken = max(1, torch.cuda.max_memory_allocated(device) - before)
        free, _ = torch.cuda.mem_get_info(device)
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return power_of_two(int(SHARE_OF_FREE * free / taken))


def power_of_two(count: int) -> int:
    """The largest power of two that is not above `count`, 1 at least and MOST_AT_ONCE at most."""
    return 1 << min(max(1, count), MOST_AT_ONCE).bit_length() - 1
