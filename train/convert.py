"""Convert a DiGSeg checkpoint between layouts and precisions; look at and edit what it says about itself.

python train/convert.py SOURCE                          what it is: configuration, parts, precision
python train/convert.py SOURCE TARGET.safetensors       one file, every part the source has
python train/convert.py SOURCE TARGET.safetensors --to unet    the U-Net alone
python train/convert.py SOURCE TARGET.safetensors --to ldm     original names, for stock InstructPixToPix nodes (SD 1.5)
python train/convert.py SOURCE FOLDER                   a diffusers folder
python train/convert.py FILE FILE --set threshold=0.4 title="Road signs" scheduler.prediction_type=epsilon
python train/convert.py RUN1 TARGET --average RUN2 RUN3        the mean of the U-Nets of several trainings from one start

SOURCE is any of these, a Marigold-style folder, or a U-Net alone (say --mask-target). --dtype changes the precision;
without it every tensor is copied bit for bit. --components BASE adds VAE and text encoder to a U-Net.
"""

import argparse
import sys
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path

import torch
import yaml
from torch import Tensor

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from digseg_nodes.core.checkpoint import DTYPES, Checkpoint, CheckpointConfig, CheckpointError, open_checkpoint
from digseg_nodes.core.latent_space import LATENT_CHANNELS
from digseg_nodes.core.mask_targets import MASK_TARGETS
from train.networks.bases import missing
from train.networks.layouts import Components, write_folder, write_ldm, write_single, write_unet
from train.networks.single_file import open_vae_file
from train.settings.command import run
from train.settings.yaml_config import ConfigError, is_whole, parse_value, shortened

WRITERS = {"single": write_single, "unet": write_unet, "ldm": write_ldm, "diffusers": write_folder}
PARTS = {"unet", "vae", "text_encoder", "mask_decoder", "scheduler"}
"""Fields of the configuration that are set key by key, if at all."""
MODELSPEC = ("title", "description", "license", "author")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path, nargs="?")
    parser.add_argument("--to", choices=WRITERS, help="layout of the target; by default from its name")
    parser.add_argument("--dtype", choices=DTYPES, help="precision of the target; by default as it is")
    parser.add_argument("--components", type=Path, help="checkpoint to take a missing VAE and text encoder from")
    parser.add_argument("--average", type=Path, nargs="+", default=[], metavar="OTHER", help="average the U-Net with these")
    parser.add_argument("--mask-target", choices=("auto", *MASK_TARGETS), default="auto")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="edit the configuration")
    return parser.parse_args(arguments)


def open_source(path: Path, mask_target: str = "auto") -> Checkpoint:
    """A DiGSeg checkpoint in any layout, or a base."""
    if not path.exists():
        raise CheckpointError(missing(path))
    try:
        return open_checkpoint(path, mask_target=mask_target)
    except CheckpointError as refused:
        try:
            return open_checkpoint(path, in_channels=LATENT_CHANNELS)
        except CheckpointError:
            raise refused from None


def describe(checkpoint: Checkpoint) -> str:
    """What a person wants to know about a checkpoint, as YAML."""
    configured = {f.name: getattr(checkpoint.config, f.name) for f in fields(CheckpointConfig)}
    parts = {}
    for component in checkpoint.components:
        tensors = checkpoint.state_dict(component)
        kinds = Counter(str(t.dtype).removeprefix("torch.") for t in tensors.values())
        parts[component] = {
            "tensors": len(tensors),
            "parameters": sum(t.numel() for t in tensors.values()),
            "dtypes": dict(kinds),
        }
    modelspec = {k: v for k, v in checkpoint.metadata.items() if k.startswith("modelspec.")}
    return yaml.safe_dump({"parts": parts, "config": configured, "metadata": modelspec}, sort_keys=False)


def edited(config: CheckpointConfig, metadata: dict[str, str], edits: list[str]) -> tuple[CheckpointConfig, dict[str, str]]:
    """Config and modelspec metadata after KEY=VALUE edits; a dotted key reaches into the scheduler or another config."""
    known = {f.name for f in fields(CheckpointConfig)}
    for edit in edits:
        key, separator, text = edit.partition("=")
        if not is_whole(text):
            raise CheckpointError(
                f"Cannot set {shortened(key)}: its value holds half a letter (a lone surrogate). Write it whole."
            )
        name, _, inner = key.partition(".")
        if separator and key in MODELSPEC:
            metadata = {**metadata, f"modelspec.{key}": text}
        elif separator and inner and isinstance(getattr(config, name, None), dict):
            config = replace(config, **{name: {**getattr(config, name), inner: _value(text, edit)}})
        elif separator and not inner and name in known - PARTS:
            config = replace(config, **{name: _value(text, edit)})
        else:
            raise CheckpointError(
                f"Cannot set {shortened(edit)!r}. Write KEY=VALUE with one of: "
                f"{', '.join(sorted(known - PARTS))}, "
                f"{', '.join(MODELSPEC)}, or scheduler.NAME."
            )
    return config, metadata


def _value(text: str, edit: str):
    """The YAML value of an edit; CheckpointError where it is none."""
    try:
        return parse_value(text, f'"{shortened(edit)}"')
    except ConfigError as error:
        raise CheckpointError(str(error)) from error


def read_components(checkpoint: Checkpoint, arguments: argparse.Namespace) -> tuple[Components, CheckpointConfig]:
    """Tensors of every part: the U-Net averaged, missing parts from --components, in --dtype, each as far as asked for."""
    parts, config = {c: checkpoint.state_dict(c) for c in checkpoint.components}, checkpoint.config
    if arguments.average:
        parts["unet"] = averaged(checkpoint, arguments.average)
    if arguments.components:
        other = open_vae_file(arguments.components) or open_source(arguments.components)
        added = {c: other.state_dict(c) for c in other.components if c not in parts}
        parts |= added
        config = replace(config, **{c: getattr(other.config, c) for c in added})
    if arguments.dtype:
        dtype = DTYPES[arguments.dtype]
        parts = {c: {k: v.to(dtype) if v.is_floating_point() else v for k, v in tensors.items()} for c, tensors in parts.items()}
    return parts, config


def averaged(source: Checkpoint, others: list[Path]) -> dict[str, Tensor]:
    """The mean of the U-Net weights of `source` and `others`, computed in fp32, in the precision of `source`.

    A "model soup" (Wortsman et al. 2022): of trainings from one start, it is often better than each. Raises
    CheckpointError for a model of another kind.
    """
    unets = [source.state_dict("unet")]
    for path in others:
        other = open_source(path)
        unets.append(other.state_dict("unet"))
        kinds = [kind(checkpoint.config, unet) for checkpoint, unet in ((source, unets[0]), (other, unets[-1]))]
        different = [name for name, value in kinds[0].items() if value != kinds[1][name]]
        if different:
            raise CheckpointError(
                f"{path} cannot be averaged with the source: another {', '.join(different)}. Only U-Nets of one shape, trained "
                "from one start for one objective, have a mean that is a model."
            )
    return {
        name: torch.stack([unet[name].float() for unet in unets]).mean(0).to(tensor.dtype) for name, tensor in unets[0].items()
    }


def kind(config: CheckpointConfig, unet: dict[str, Tensor]) -> dict[str, object]:
    """What two U-Nets must have in common to be averaged."""
    return {
        "U-Net architecture": {name: tensor.shape for name, tensor in unet.items()},
        "number of attention heads": config.unet.get("attention_head_dim"),
        "mask target": config.mask_target,
        "prediction type": config.prediction_type,
        "initial noise": config.initial_noise,
    }


def convert(arguments: argparse.Namespace) -> None:
    """Read, edit, write; without a target only tell."""
    source = open_source(arguments.source, arguments.mask_target)
    if arguments.target is None:
        print(describe(source))
        return
    layout = arguments.to or ("single" if arguments.target.suffix == ".safetensors" else "diffusers")
    if (layout == "diffusers") == (arguments.target.suffix == ".safetensors"):
        raise CheckpointError(
            f"{arguments.target} does not fit --to {layout}: a diffusers folder has no suffix, the "
            "other layouts are one .safetensors file."
        )
    parts, config = read_components(source, arguments)
    kept = {k: v for k, v in source.metadata.items() if k.startswith("modelspec.")}
    config, metadata = edited(config, kept, arguments.set)
    WRITERS[layout](arguments.target, parts, config, metadata)
    if layout == "ldm" and (config.prediction_type != "epsilon" or config.unet.get("cross_attention_dim") != 768):
        print("Note: ComfyUI's own loader knows this layout for SD 1.5 with epsilon prediction only; ours opens it.")
    print(f"Wrote {arguments.target}: {', '.join(parts)}")


def main(line: list[str] | None = None) -> None:
    """Parse the command line and convert."""
    arguments = parse(line)
    run("convert.py", lambda: convert(arguments), arguments)


if __name__ == "__main__":
    main()
