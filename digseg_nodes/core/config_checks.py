"""What the fields of a checkpoint's configs may hold: kinds and ranges, checked before anything is built from them."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Integral, Real

from .errors import CheckpointError

MOST_STEPS, RESOLUTIONS, MOST_TIMESTEPS = 1000, (8, 8192), 100_000
MOST_NAMES = 100_000
Check = Callable[[object], bool]


def _whole(low: int, high: int) -> Check:
    return lambda value: isinstance(value, Integral) and not isinstance(value, bool) and low <= value <= high


def _number(low: float, high: float) -> Check:
    return lambda value: isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value) and low <= value <= high


def _flag(value: object) -> bool:
    return isinstance(value, bool)


def _text(value: object) -> bool:
    return isinstance(value, str)


def _none_or(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _one_or_list(check: Check, most: int = 16) -> Check:
    return lambda value: check(value) or (isinstance(value, list | tuple) and 0 < len(value) <= most and all(map(check, value)))


def _list(check: Check, most: int = 16) -> Check:
    return lambda value: isinstance(value, list | tuple) and 0 < len(value) <= most and all(map(check, value))


_CHANNELS = _whole(1, 65_536)
_LEVELS = "a list of 1 to 16 "

_UNET: dict[str, tuple[Check, str]] = {
    "in_channels": (_whole(1, 1024), "a whole number from 1 to 1024"),
    "out_channels": (_whole(1, 1024), "a whole number from 1 to 1024"),
    "block_out_channels": (_list(_CHANNELS), _LEVELS + "whole numbers from 1 to 65536"),
    "layers_per_block": (_one_or_list(_whole(1, 64)), "1 to 64, or a list of such"),
    "cross_attention_dim": (_one_or_list(_CHANNELS), "a whole number from 1 to 65536"),
    "attention_head_dim": (_one_or_list(_whole(1, 4096)), "1 to 4096, or a list of such"),
    "transformer_layers_per_block": (_one_or_list(_whole(1, 64)), "1 to 64, or a list of such"),
    "down_block_types": (_list(_text), _LEVELS + "names"),
    "up_block_types": (_list(_text), _LEVELS + "names"),
    "use_linear_projection": (_none_or(_flag), "true or false"),
    "upcast_attention": (_none_or(_flag), "true or false"),
    "only_cross_attention": (_none_or(_one_or_list(_flag)), "true or false"),
    "act_fn": (_text, "a name"),
    "dropout": (_number(0, 1), "a number from 0 to 1"),
    "norm_eps": (_number(0, 1), "a number from 0 to 1"),
    "freq_shift": (_number(-1000, 1000), "a number"),
    "mid_block_scale_factor": (_number(1e-6, 1e6), "a number above 0"),
    "resnet_out_scale_factor": (_number(1e-6, 1e6), "a number above 0"),
    "flip_sin_to_cos": (_flag, "true or false"),
    "center_input_sample": (_flag, "true or false"),
}
_VAE: dict[str, tuple[Check, str]] = {
    "latent_channels": (_whole(1, 1024), "a whole number from 1 to 1024"),
    "in_channels": (_whole(1, 64), "a whole number from 1 to 64"),
    "out_channels": (_whole(1, 64), "a whole number from 1 to 64"),
    "block_out_channels": (_list(_CHANNELS), _LEVELS + "whole numbers from 1 to 65536"),
    "layers_per_block": (_whole(1, 64), "1 to 64"),
    "norm_num_groups": (_whole(1, 1024), "1 to 1024"),
    "scaling_factor": (_number(1e-6, 1e6), "a number above 0"),
    "shift_factor": (_none_or(_number(-1e6, 1e6)), "a number"),
    "down_block_types": (_list(_text), _LEVELS + "names"),
    "up_block_types": (_list(_text), _LEVELS + "names"),
    "act_fn": (_text, "a name"),
    "sample_size": (_none_or(_one_or_list(_whole(1, 65_536))), "a whole number from 1 to 65536"),
}
_TEXT: dict[str, tuple[Check, str]] = {
    "hidden_size": (_CHANNELS, "a whole number from 1 to 65536"),
    "intermediate_size": (_whole(1, 262_144), "a whole number from 1 to 262144"),
    "num_hidden_layers": (_whole(1, 256), "1 to 256"),
    "num_attention_heads": (_whole(1, 4096), "1 to 4096"),
    "max_position_embeddings": (_whole(1, 65_536), "1 to 65536"),
    "vocab_size": (_whole(1, 10_000_000), "a whole number"),
    "hidden_act": (_text, "a name"),
    "projection_dim": (_none_or(_whole(0, 65_536)), "a whole number"),
    "layer_norm_eps": (_number(0, 1), "a number from 0 to 1"),
}
_SCHEDULER: dict[str, tuple[Check, str]] = {
    "num_train_timesteps": (_whole(1, MOST_TIMESTEPS), f"1 to {MOST_TIMESTEPS}"),
    "beta_start": (_number(0, 1), "a number from 0 to 1"),
    "beta_end": (_number(0, 1), "a number from 0 to 1"),
    "beta_schedule": (_text, "a name"),
    "prediction_type": (_text, "a name"),
    "timestep_spacing": (_text, "a name"),
    "steps_offset": (_whole(0, 1000), "0 to 1000"),
    "set_alpha_to_one": (_none_or(_flag), "true or false"),
    "rescale_betas_zero_snr": (_none_or(_flag), "true or false"),
    "trained_betas": (_none_or(_list(_number(0, 1), MOST_TIMESTEPS)), "a list of numbers from 0 to 1"),
}
_OWN: dict[str, tuple[Check, str]] = {
    "unet": (lambda value: isinstance(value, dict), "a table"),
    "scheduler": (lambda value: isinstance(value, dict), "a table"),
    "vae": (_none_or(lambda value: isinstance(value, dict)), "a table"),
    "text_encoder": (_none_or(lambda value: isinstance(value, dict)), "a table"),
    "default_steps": (_whole(1, MOST_STEPS), f"1 to {MOST_STEPS}"),
    "threshold": (_number(0, 1), "a number from 0 to 1"),
    "resolution": (_whole(*RESOLUTIONS), f"{RESOLUTIONS[0]} to {RESOLUTIONS[1]} pixels"),
    "class_names": (lambda v: isinstance(v, list | tuple) and len(v) <= MOST_NAMES and all(map(_text, v)), "a list of names"),
    "base_model": (_text, "a text"),
}


def check_config(values: dict[str, object]) -> None:
    """Raises CheckpointError for the first field of a CheckpointConfig, or of a config in it, that cannot be what it says."""
    _check("", values, _OWN)
    for part, fields in (("unet", _UNET), ("vae", _VAE), ("text_encoder", _TEXT), ("scheduler", _SCHEDULER)):
        if values.get(part) is not None:
            _check(f"{part}.", values[part], fields)
    betas = values["scheduler"].get("trained_betas")
    if betas is not None and len(betas) != values["scheduler"].get("num_train_timesteps", 1000):
        raise CheckpointError(
            f"The checkpoint's scheduler has {len(betas)} trained_betas for "
            f"{values['scheduler'].get('num_train_timesteps', 1000)} timesteps. Export or download it again."
        )


def _check(prefix: str, values: dict, fields: dict[str, tuple[Check, str]]) -> None:
    for name, (fits, expected) in fields.items():
        if name in values and not fits(values[name]):
            found = repr(values[name])
            raise CheckpointError(
                f"The checkpoint's {prefix}{name} is {found if len(found) <= 60 else found[:57] + '...'}; expected {expected}. "
                "The file was edited or is damaged: export or download it again."
            )
