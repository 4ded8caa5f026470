"""Segment a folder of images without ComfyUI.

python train/predict.py --checkpoint FILE --images FOLDER --prompts "cat" "dog: puppy" --output FOLDER

Writes masks/<prompt>/<image>.png (black and white), semantic/<image>.png (palette PNG, 0 is background, k the k-th
prompt) and overlays/<image>.jpg. Images whose three files are there already are skipped: start again after a stop.
"""

import argparse
import re
import sys
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from digseg_nodes.core.files import written_atomically
from digseg_nodes.core.inference import ImageSettings, SamplerSettings
from digseg_nodes.core.masks import overlay, semantic_map
from digseg_nodes.core.palettes import palette
from digseg_nodes.core.prompts import parse_prompts
from train.settings.command import run


def predict(arguments: argparse.Namespace) -> None:
    """Load the checkpoint and go through the folder."""
    from train.data.folder import list_images
    from train.data.labelled import read_photo
    from train.networks.engine import open_segmenter

    prompts = parse_prompts("\n".join(arguments.prompts))
    segmenter = open_segmenter(arguments.checkpoint, arguments.components, arguments.lora, arguments.device)
    settings = SamplerSettings(arguments.seed, arguments.steps or 0, arguments.ensemble)
    look = ImageSettings(arguments.resolution or 0, arguments.tile, arguments.mirror)
    threshold = segmenter.engine.config.threshold if arguments.threshold is None else arguments.threshold
    for path in tqdm(list_images(arguments.images), unit="image"):
        targets = output_files(arguments.output, path.stem, [prompt.name for prompt in prompts])
        if not all(target.is_file() for target in targets):
            image = read_photo(path)
            segmenter.set_image(image, look)
            write_all(targets, image, segmenter.predict(prompts, settings).soft[0], threshold)


def output_files(folder: Path, stem: str, names: list[str]) -> list[Path]:
    """One mask per prompt, then the palette PNG, then the overlay."""
    masks = [folder / "masks" / re.sub(r"[^\w-]+", "_", name) / f"{stem}.png" for name in names]
    return [*masks, folder / "semantic" / f"{stem}.png", folder / "overlays" / f"{stem}.jpg"]


def write_all(targets: list[Path], image: np.ndarray, soft: Tensor, threshold: float) -> None:
    """Write the files of one image, each under a temporary name first."""
    hard = soft > threshold
    colours = palette(len(soft))
    pictures = [Image.fromarray((mask.numpy() * 255).astype(np.uint8)) for mask in hard]
    ids = semantic_map(soft[None], torch.full((len(soft),), threshold))[0].numpy().astype(np.uint8)
    indexed = Image.fromarray(ids).convert("P")
    indexed.putdata(ids.flatten())
    indexed.putpalette([0, 0, 0, *np.asarray(colours).flatten().tolist()])
    photo = torch.from_numpy(image.copy())[None].float() / 255
    painted = overlay(photo, hard[:, None].float(), torch.as_tensor(np.asarray(colours)).float() / 255)[0]
    pictures += [indexed, Image.fromarray((painted.numpy() * 255).round().astype(np.uint8))]
    for target, picture in zip(targets, pictures, strict=True):
        with written_atomically(target) as temporary:
            picture.save(temporary, "JPEG" if target.suffix == ".jpg" else "PNG")


def main(line: list[str] | None = None) -> None:
    """Parse the command line and predict."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="DiGSeg checkpoint, file or diffusers folder")
    parser.add_argument("--images", type=Path, required=True, help="folder of images")
    parser.add_argument("--prompts", nargs="+", required=True, help='what to look for, e.g. "cat" or "dog: puppy, hound"')
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    parser.add_argument("--components", type=Path, help="checkpoint with VAE and text encoder, for a U-Net-only file")
    parser.add_argument("--lora", type=Path, help="LoRA file to add to the checkpoint")
    parser.add_argument("--steps", type=int, help="DDIM steps, default: the checkpoint's")
    parser.add_argument("--ensemble", type=int, default=1, help="noises per mask, default 1")
    parser.add_argument("--mirror", action="store_true", help="average with the masks of the mirrored image: twice the work")
    parser.add_argument("--tile", type=int, default=0, help="side of overlapping tiles in image pixels, 0 for the whole image")
    parser.add_argument("--threshold", type=float, help="tau in (0, 1), default: the checkpoint's")
    parser.add_argument("--resolution", type=int, help="longest side in pixels, default: the checkpoint's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", help="torch device, default: a GPU where there is one")
    arguments = parser.parse_args(line)
    run(parser.prog, lambda: predict(arguments))


if __name__ == "__main__":
    main()
