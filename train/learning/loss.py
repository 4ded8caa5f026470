"""The loss of one batch, by objective."""

from collections.abc import Callable, Mapping
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from digseg_nodes.core.ddim import predict_x0
from train.latents.batches import Batch
from train.learning.mask_loss import mask_loss
from train.learning.objective import add_noise, diffusion_target, min_snr_weights, weighted_mse
from train.networks.bases import call_unet, decode_latents, scaling
from train.settings.train_config import EndToEnd, MaskDecoding, TrainConfig

Loss = Callable[[Mapping[str, nn.Module], Batch], Tensor]
"""(the trained networks by name, batch) -> scalar."""


def make_loss(config: TrainConfig, vae, alpha_bar: Tensor, prediction_type: str) -> Loss:
    """The loss of a configuration. alpha_bar [T] on the training device."""
    if config.objective == "diffusion":
        loss = partial(diffusion_loss, alpha_bar=alpha_bar, prediction_type=prediction_type, gamma=config.noise.min_snr_gamma)
        return lambda networks, batch: loss(networks["unet"], batch)
    if prediction_type == "epsilon" and float(alpha_bar[-1]) == 0:
        raise ValueError(
            "The base predicts epsilon under a zero-terminal-SNR schedule: at the last timestep the noise says "
            "nothing about the mask, so `objective: end_to_end` cannot work. Use a v-prediction base."
        )
    settings = config.end_to_end
    parts = {"vae": vae, "alpha_bar": float(alpha_bar[-1]), "prediction_type": prediction_type}
    if config.mask_decoder is None:
        loss = partial(end_to_end_loss, kind=settings.loss, pixel_weight=settings.pixel_weight, **parts)
        return lambda networks, batch: loss(networks["unet"], batch)
    return partial(guided_loss, settings=settings, decoding=config.mask_decoder, **parts)


def diffusion_loss(unet, batch: Batch, *, alpha_bar: Tensor, prediction_type: str, gamma: float | None) -> Tensor:
    """Mean squared error of the predicted noise or velocity. Paper section 3.3; min-SNR weights when gamma is set."""
    bars = alpha_bar[batch.timesteps]
    output = call_unet(unet, batch.image, add_noise(batch.mask, batch.noise, bars), batch.timesteps, batch.text)
    weights = None if gamma is None else min_snr_weights(bars, gamma, prediction_type)
    return weighted_mse(output, diffusion_target(batch.mask, batch.noise, bars, prediction_type), weights, batch.valid)


def end_to_end_loss(unet, batch: Batch, *, vae, alpha_bar: float, prediction_type: str, kind: str, pixel_weight: float) -> Tensor:
    """One call at t = T-1 with zero noise; error of the predicted mask latent, of the decoded mask, or of both."""
    return _latent_or_pixel_loss(_predicted(unet, batch, alpha_bar, prediction_type), batch, vae, kind, pixel_weight)


def guided_loss(
    networks: Mapping[str, nn.Module],
    batch: Batch,
    *,
    vae,
    alpha_bar: float,
    prediction_type: str,
    settings: EndToEnd,
    decoding: MaskDecoding,
) -> Tensor:
    """The U-Net's loss plus that of the guided mask decoder on its predictions, which are detached unless `settings.loss` is
    "mask": then the decoder's error goes back into the U-Net, with `settings.anchor` times the latent's beside it. Scalar."""
    clean = _predicted(networks["unet"], batch, alpha_bar, prediction_type)
    if settings.loss == "mask":
        return settings.anchor * weighted_mse(clean, batch.mask, valid=batch.valid) + _decoder_loss(
            networks, clean, batch, vae, decoding
        )
    own = _latent_or_pixel_loss(clean, batch, vae, settings.loss, settings.pixel_weight)
    return own + _decoder_loss(networks, clean.detach(), batch, vae, decoding)


def _predicted(unet, batch: Batch, alpha_bar: float, prediction_type: str) -> Tensor:
    """The mask latents [B,4,h,w], scaled, of one call at the last timestep."""
    output = call_unet(unet, batch.image, batch.noise, batch.timesteps, batch.text)
    return predict_x0(output.float(), batch.noise, alpha_bar, prediction_type)


def _latent_or_pixel_loss(clean: Tensor, batch: Batch, vae, kind: str, pixel_weight: float) -> Tensor:
    latent = weighted_mse(clean, batch.mask, valid=batch.valid)
    if kind == "latent":
        return latent
    pixel = pixel_loss(vae, clean, batch)
    return pixel if kind == "pixel" else latent + pixel_weight * pixel


def _decoder_loss(networks: Mapping[str, nn.Module], clean: Tensor, batch: Batch, vae, decoding: MaskDecoding) -> Tensor:
    """The mask decoder's error on the batch's window of the scaled latents, with a little noise on them."""
    top, left, height, width = batch.window
    shown = (clean + decoding.noise * batch.jitter)[..., top : top + height, left : left + width] / scaling(vae)
    logits = networks["mask_decoder"](shown, batch.photo)
    return mask_loss(logits, batch.outline, batch.known, decoding.focal)


def pixel_loss(vae, clean: Tensor, batch: Batch) -> Tensor:
    """Squared error of the decoded mask (mean over its three channels) against {-1,+1}; the decoder's activations are
    recomputed in the backward pass. Scalar."""
    decoded = checkpoint(decode_latents, vae, clean, use_reentrant=False)  # [B,3,H,W]
    valid = None if batch.valid is None else F.interpolate(batch.valid, size=decoded.shape[-2:], mode="nearest")
    return weighted_mse(decoded.mean(1, keepdim=True), batch.truth[:, None] * 2 - 1, valid=valid)
