"""Stage 1 of the demo stack: the variational autoencoder (of Stable Diffusion's latent space), trained on scenes and masks.

Loss: L1 + 0.5 MSE + 0.5 L1 of the image gradients + a small KL term; 64-pixel crops first, whole scenes later. Afterwards the
latents' mean and standard deviation are folded into ``quant_conv`` and ``post_quant_conv``, so that the customary scaling
factor (SCALING_FACTOR) gives latents of zero mean and unit variance, as Stable Diffusion's users expect.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import distributed, multiprocessing
from torch.nn import functional as F

from digseg_nodes.core.latent_space import LATENT_CHANNELS, SCALING_FACTOR
from train.demo.runtime import Clock, train_stage
from train.demo.scene_cache import SceneCache

CONFIG = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [64, 64, 64, 64],
    "layers_per_block": 1,
    "latent_channels": LATENT_CHANNELS,
    "norm_num_groups": 32,
    "scaling_factor": SCALING_FACTOR,
    "sample_size": 128,
}


def build() -> AutoencoderKL:
    """A new autoencoder whose posterior starts narrow: with a deviation of 1 the first minutes are spent on noise."""
    vae = AutoencoderKL(**CONFIG)
    torch.nn.init.constant_(vae.quant_conv.bias[CONFIG["latent_channels"] :], -5.0)
    return vae


def batch(cache: SceneCache, rng: np.random.Generator, images: int, masks: int, crop: int) -> torch.Tensor:
    """Crops [images + masks, 3, crop, crop] in [-1, 1]: scenes first, then masks as three equal channels."""
    out = np.empty((images + masks, crop, crop, 3), np.float32)
    size = cache.images.shape[1]
    for k in range(images + masks):
        i = rng.integers(len(cache))
        y, x = rng.integers(0, size - crop + 1, 2)
        window = np.s_[y : y + crop, x : x + crop]
        if k < images:
            out[k] = cache.images[i][window] / 127.5 - 1
        else:
            out[k] = cache.masks[i, rng.integers(cache.masks.shape[1])][window][..., None] * 2.0 - 1
        if rng.random() < 0.5:
            out[k] = out[k, :, ::-1]
    return torch.from_numpy(out).permute(0, 3, 1, 2)  # NHWC -> NCHW, channels_last in memory


def reconstruction_loss(decoded: torch.Tensor, truth: torch.Tensor, progress: float) -> torch.Tensor:
    """L1 + MSE, and 0.5 L1 of horizontal and vertical differences once the colours are there: earlier it favours flat grey."""
    error = decoded - truth
    loss = error.abs().mean() + error.square().mean()
    if progress < 0.2:
        return loss + error.square().mean()
    return loss + 0.5 * (error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean())


@torch.no_grad()
def fold_statistics(vae: AutoencoderKL, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rewrite the 1x1 convolutions so that mean latents of ``images`` have mean 0 and deviation 1 / SCALING_FACTOR per channel.

    Returns the old mean and deviation, [4] each. Decoding is unchanged.
    """
    latents = torch.cat([vae.encode(x).latent_dist.mean for x in images.split(16)])
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    gain = 1 / (std * SCALING_FACTOR)
    c = mean.numel()
    quant, post = vae.quant_conv, vae.post_quant_conv
    quant.weight[:c] *= gain.view(-1, 1, 1, 1)
    quant.bias[:c] = (quant.bias[:c] - mean) * gain
    quant.bias[c:] += 2 * gain.log()  # the second half holds log-variances
    post.bias += (post.weight[:, :, 0, 0] * mean).sum(1)
    post.weight /= gain.view(1, -1, 1, 1)
    return mean, std


def train(folder: Path, *, seconds: float | None, steps: int | None = None, seed: int = 0, workers: int = 1) -> AutoencoderKL:
    """Train on ``folder``'s scenes to the end of the budget (resuming), in ``workers`` processes that average their gradients.

    Returns the averaged autoencoder with folded statistics.
    """
    if workers > 1:
        rendezvous = folder.resolve() / "vae.rendezvous"
        rendezvous.unlink(missing_ok=True)
        multiprocessing.start_processes(_work, (workers, rendezvous, folder, seconds, steps, seed), workers, start_method="spawn")
    else:
        _fit(folder, seconds, steps, seed, 8)
    final = build()
    final.load_state_dict(torch.load(folder / "vae.pt", weights_only=True)["ema"])
    cache = SceneCache(folder / "scenes")
    fold_statistics(final, batch(cache, np.random.default_rng(seed), 96, 32, cache.images.shape[1]))
    return final.eval()


def _work(rank: int, workers: int, rendezvous: Path, folder: Path, seconds: float | None, steps: int | None, seed: int) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=rendezvous.as_uri(), rank=rank, world_size=workers)
    _fit(folder, seconds, steps, seed, 8 // workers)
    distributed.destroy_process_group()


def _fit(folder: Path, seconds: float | None, steps: int | None, seed: int, size: int) -> None:
    torch.manual_seed(seed)
    vae, cache = build().to(memory_format=torch.channels_last), SceneCache(folder / "scenes")

    def loss_of(generator: torch.Generator, progress: float) -> tuple[torch.Tensor, str]:
        rng = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
        crop, n = (64, size) if progress < 0.7 else (128, max(size // 2, 2))
        masks = max(int(rng.random() < 0.6), n * 3 // 8)
        truth = batch(cache, rng, n - masks, masks, crop)
        posterior = vae.encode(truth).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator)
        decoded = vae.decode(posterior.mean + posterior.std * noise).sample
        loss = reconstruction_loss(decoded, truth, progress) + 2e-4 * posterior.kl().mean() / posterior.mean[0].numel()
        with torch.no_grad():
            mse = F.mse_loss(decoded[: n - masks], truth[: n - masks])
        return loss, f"loss {loss.item():.4f} psnr {-10 * torch.log10(mse / 4):.2f}"

    train_stage("vae", folder, Clock(seconds, steps), vae, loss_of, peak=1e-3, decay=0.995, seed=seed)


@torch.no_grad()
def evaluate(vae: AutoencoderKL, cache: SceneCache, count: int = 64) -> dict[str, float]:
    """PSNR of scenes in dB and IoU of masks after the round trip through the autoencoder."""
    rng = np.random.default_rng(1)
    size = cache.images.shape[1]
    pictures, masks = batch(cache, rng, count, 0, size), batch(cache, rng, 0, count, size)
    mse = F.mse_loss(vae.decode(vae.encode(pictures).latent_dist.mean).sample.clamp(-1, 1), pictures)
    out, truth = vae.decode(vae.encode(masks).latent_dist.mean).sample.mean(1) > 0, masks.mean(1) > 0
    iou = (out & truth).sum((1, 2)) / (out | truth).sum((1, 2)).clamp(min=1)
    return {"psnr": float(-10 * torch.log10(mse / 4)), "mask_iou": float(iou.mean())}
