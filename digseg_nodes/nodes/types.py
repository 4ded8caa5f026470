"""The pack's own connection types, and the widgets several nodes share."""

from comfy_api.latest import io

from .. import host
from ..core.decoding import DECODERS
from ..core.mask_targets import MASK_TARGETS
from ..core.masks import EMPTY_MASK, IF_EMPTY, MODES

DigsegMasks = io.Custom("DIGSEG_MASKS")
DigsegImage = io.Custom("DIGSEG_IMAGE")
DigsegPrompts = io.Custom("DIGSEG_PROMPTS")
BoundingBox = io.Custom("BOUNDING_BOX")
"""ComfyUI's own boxes, by name: older ComfyUI has no class for them."""
Segs = io.Custom("SEGS")
"""Impact Pack's segments."""

CATEGORY = "DiGSeg"


def text_input():
    """The prompt box: one class a line."""
    return io.String.Input(
        "text",
        multiline=True,
        default="red circle",
        tooltip="What to select, one thing a line. Synonyms go behind a colon: car: automobile, sedan. A line that starts with "
        "- is taken away from the others: -eyes. Text is taken literally: brackets are not weights, commas do not separate.",
    )


def seed_input():
    """Seed of the initial noise."""
    return io.Int.Input(
        "seed",
        default=0,
        min=0,
        max=2**64 - 1,
        control_after_generate=False,
        tooltip="Seed of the noise the masks are drawn from (0 to 2^64-1). The same seed gives the same mask, whatever "
        "else is asked for. Without effect on one-step checkpoints, which start from no noise.",
    )


def steps_input():
    """DDIM steps."""
    return io.Int.Input(
        "steps",
        default=0,
        min=0,
        max=1000,
        tooltip="Sampling steps per mask (1 to 1000). 0 takes the checkpoint's own number: 1 for one-step checkpoints, "
        "otherwise 4 to 10 are usual. More steps take proportionally longer.",
    )


def ensemble_input():
    """Noises averaged per mask."""
    return io.Int.Input(
        "ensemble",
        default=1,
        min=1,
        max=64,
        tooltip="Noises whose results are averaged per mask (1 to 64): steadier masks and an uncertainty map, for that "
        "many times the work. One-step checkpoints are deterministic and always use 1.",
    )


def resolution_input():
    """Longest side the network sees."""
    return io.Int.Input(
        "resolution",
        default=0,
        min=0,
        max=4096,
        step=8,
        tooltip="Longest image side in pixels that the network sees (64 to 4096). 0 takes the resolution the checkpoint "
        "was trained at, which is nearly always best. The mask comes back at the image's own size.",
    )


def tile_input():
    """Tile size for large images."""
    return io.Int.Input(
        "tile",
        default=0,
        min=0,
        max=8192,
        step=8,
        tooltip="0 takes the image whole. Otherwise the side in image pixels (64 to 8192) of overlapping tiles that are "
        "segmented one by one and blended, for large images with small things, like aerial photographs.",
    )


def threshold_input():
    """The paper's τ."""
    return io.Float.Input(
        "threshold",
        default=0.0,
        min=0.0,
        max=1.0,
        step=0.01,
        tooltip="Where a soft mask becomes a hard one (0.01 to 1). 0 takes the checkpoint's own value, usually 0.5. "
        "Lower selects more.",
    )


def names_input():
    """Which masks to take, written as in a prompt list."""
    return io.String.Input(
        "names",
        default="",
        multiline=True,
        tooltip="Names as typed in the prompt, one a line; the prompt text itself may be wired in. Upper and lower case do not "
        "count. A line that starts with - takes its mask away. Empty: all prompts, without those that start with -.",
    )


def mode_input():
    """Hard or soft masks."""
    return io.Combo.Input(
        "mode",
        options=list(MODES),
        default="hard",
        tooltip="hard: exactly 0 or 1. soft: the model's own values from 0 to 1.",
    )


def if_empty_input():
    """What to give when nothing is found."""
    return io.Combo.Input(
        "if_empty",
        options=list(IF_EMPTY),
        default=EMPTY_MASK,
        optional=True,
        tooltip="What to give when nothing is found. empty mask: zeros of full size. whole picture: everything is selected, for "
        "nodes that cannot crop to nothing. skip: the nodes behind this one do not run.",
    )


def uncertainty_input():
    """Whether to decode every ensemble member."""
    return io.Boolean.Input(
        "uncertainty",
        default=False,
        tooltip="Also decode every ensemble member, for DiGSeg Uncertainty. Needs an ensemble of 2 or more, or mirror; takes "
        "one more decode per member.",
    )


def mirror_input():
    """Whether to ask about the mirrored photo too."""
    return io.Boolean.Input(
        "mirror",
        default=False,
        optional=True,
        tooltip="Also segment the photo with left and right swapped, and average both masks: a little more exact, steadier, "
        "for twice the work. Leave it off when left and right matter, as in: left hand.",
    )


def decoder_input():
    """Which decoder turns mask latents into masks."""
    return io.Combo.Input(
        "decoder",
        options=list(DECODERS),
        default="auto",
        optional=True,
        tooltip="What turns mask latents into masks. guided: the checkpoint's own mask decoder, which follows the edges of the "
        "photo and is many times faster than the VAE. vae: the VAE, as in the paper. auto: guided where the checkpoint has "
        "one, otherwise vae.",
    )


def checkpoint_options(default: str = "digseg-demo.safetensors") -> dict:
    """options and default of a list of checkpoints: the user's own, the demo models; the demo preselected."""
    names = host.checkpoint_names()
    return {"options": names, "default": default} if default in names else {"options": names}


def mask_target_input():
    """How the checkpoint draws its masks, for files that cannot say it themselves."""
    return io.Combo.Input(
        "mask_target",
        options=["auto", *MASK_TARGETS],
        default="auto",
        optional=True,
        tooltip="How this model draws its masks. auto: as the file says. binary: white on black. overlay: white painted "
        "on the photo, as cocogold does. Only for files without DiGSeg's metadata.",
    )
