"""ComfyUI's own kinds of values as they reach the pack, over wires that check nothing: what is wrong with one, in words."""

from __future__ import annotations

import torch
from torch import Tensor


def check_picture(image: object) -> None:
    """Raises ValueError unless this is an IMAGE: finite numbers [B,H,W,C], 1, 3 or 4 channels, nothing empty."""
    if not isinstance(image, Tensor) or image.ndim != 4 or image.shape[-1] not in (1, 3, 4) or 0 in image.shape:
        raise ValueError(
            f"The image {_shape_of(image)}; frames x height x width x 1, 3 or 4 channels is expected, none of them empty. "
            "Connect the IMAGE of a node like Load Image."
        )
    check_numbers("The image", image, "numbers from 0 to 1 are expected")


def check_numbers(what: str, tensor: Tensor, expected: str) -> None:
    """Raises ValueError for a tensor that is sparse, or holds anything but finite floating-point numbers."""
    found = ""
    if tensor.layout is not torch.strided:
        found = "a sparse tensor"
    elif not tensor.is_floating_point():
        found = f"{tensor.dtype} values"
    elif not torch.isfinite(tensor).all():
        found = "values that are no numbers (NaN or infinite)"
    if found:
        raise ValueError(f"{what} holds {found}; {expected}. Look at the node it comes from.")


def check_latent(latent: object) -> None:
    """Raises ValueError unless this is a LATENT of pictures: a mapping with samples [N,C,h,w], finite numbers."""
    samples = latent.get("samples") if isinstance(latent, dict) else None
    if not isinstance(samples, Tensor) or samples.ndim != 4 or 0 in samples.shape:
        found = f"is a {type(latent).__name__}" if not isinstance(latent, dict) else "has no samples"
        found = found if samples is None else f"holds samples: its tensor {_shape_of(samples)}"
        raise ValueError(f"The LATENT {found}; items x channels x height x width are expected. Connect the LATENT of a sampler.")
    check_numbers("The LATENT", samples, "finite numbers are expected; a sampler's settings or its model made them")


def check_sigmas(sigmas: object) -> None:
    """Raises ValueError unless these are SIGMAS to go down: finite numbers [n+1], n >= 1, from above 0, none rising."""
    if not isinstance(sigmas, Tensor) or sigmas.ndim != 1:
        raise ValueError(f"The SIGMAS {_shape_of(sigmas)}; a row of noise levels is expected. Use DiGSeg Scheduler.")
    if sigmas.layout is torch.strided and len(sigmas) < 2:
        raise ValueError("The SIGMAS are empty; at least one step is needed. Use DiGSeg Scheduler.")
    check_numbers("SIGMAS", sigmas, "noise levels, from high to 0, are expected")
    if not (float(sigmas[0]) > 0 <= float(sigmas[-1]) and bool((sigmas.diff() <= 0).all())):
        some = ", ".join(f"{value:.4g}" for value in sigmas[:6].tolist()) + (", ..." if len(sigmas) > 6 else "")
        raise ValueError(
            f"The SIGMAS are {some}; noise levels must begin above 0, never rise and not go below 0. Use DiGSeg Scheduler."
        )


def check_conditioning(conditioning: object) -> None:
    """Raises ValueError unless this is CONDITIONING: a list of pairs of a text embedding [B,N,D] and a mapping."""
    pairs = conditioning if isinstance(conditioning, list) else []
    if not pairs or not all(map(_is_text, pairs)):
        found = f"a list of {len(pairs)} things" if isinstance(conditioning, list) else f"a {type(conditioning).__name__}"
        raise ValueError(f"conditioning is {found}; the CONDITIONING of CLIP Text Encode is expected.")


def check_sampler(sampler: object) -> None:
    """Raises ValueError unless this can sample."""
    if not callable(getattr(sampler, "sample", None)):
        raise ValueError(f"sampler is a {type(sampler).__name__}; the SAMPLER of a node like KSamplerSelect is expected.")


def _is_text(pair: object) -> bool:
    return (
        isinstance(pair, list | tuple)
        and len(pair) == 2
        and isinstance(pair[0], Tensor)
        and pair[0].ndim == 3
        and pair[0].is_floating_point()
        and isinstance(pair[1], dict)
    )


def _shape_of(value: object) -> str:
    return f"has the shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"is a {type(value).__name__}"
