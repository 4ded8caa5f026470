"""The edges of what a checkpoint's configs may hold, a row a kind of check."""

import pytest

from digseg_nodes.core.checkpoint import CheckpointError
from digseg_nodes.core.config_checks import check_config

ROWS = [
    ("default_steps", [1, 1000], [0, 1001, True, 1.5, "4", None, [4]]),
    ("threshold", [0, 0.5, 1.0], [-0.1, 1.1, float("nan"), float("inf"), False, "0.5"]),
    ("class_names", [[], ["cat"]], ["cat", [1], None]),
    ("base_model", ["", "sd"], [None, 1]),
    ("unet.layers_per_block", [1, 64, [2, 2]], [0, 65, [], [2] * 17, [True], None]),
    ("unet.block_out_channels", [[1], [64] * 16], [64, [], [64] * 17, [0]]),
    ("unet.use_linear_projection", [None, True], [0, "yes"]),
    ("vae.shift_factor", [None, 0.5], [True, "0"]),
    ("scheduler.trained_betas", [None, [0.5, 0.1]], [[], [2.0], [0.1] * 3]),
]


def config(field: str, value: object) -> dict:
    """A config with one field set, its scheduler of two timesteps."""
    values = {"unet": {}, "vae": {}, "scheduler": {"num_train_timesteps": 2}}
    *part, name = field.split(".")
    (values[part[0]] if part else values)[name] = value
    return values


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, good, _ in ROWS for value in good])
def test_accepted(field, value):
    check_config(config(field, value))


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, _, bad in ROWS for value in bad])
def test_refused(field, value):
    with pytest.raises(CheckpointError, match=field.split(".")[-1]):
        check_config(config(field, value))
