"""Segment photos without ComfyUI.

python train/predict.py --checkpoint FILE --images PHOTOS --prompts "cat" "dog: puppy" --output FOLDER

PHOTOS is a folder, a .txt with one path a line, or tar shards (a file, a folder of them or "shards/*.tar"). Writes
masks/<prompt>/<photo>.png (black and white), semantic/<photo>.png (palette PNG, 0 is background, k the k-th prompt),
overlays/<photo>.jpg, predictions.jsonl (area, score and box of every mask; a line for each photo) and settings.json. What
is there already is not done again: start again after a stop. A photo that cannot be read is named and left out.
`accelerate launch train/predict.py ...` shares the photos among several GPUs.
"""

import argparse
import json
import sys
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from digseg_nodes.core.checkpoint import CheckpointError
from digseg_nodes.core.file_names import word_names
from digseg_nodes.core.inference import ImageSettings, SamplerSettings
from digseg_nodes.core.label_maps import MOST_IDS
from digseg_nodes.core.prompts import Prompt, parse_prompts
from train.data.base import DataError
from train.settings.command import run
from train.settings.inference_options import add_inference_options, check_inference_options, decoder_of
from train.settings.yaml_config import ConfigError, shortened


def predict(arguments: argparse.Namespace) -> None:
    """Load the checkpoint and go through this process's share of the photos; DataError at the end when some failed."""
    from accelerate.utils import gather_object

    from train.networks.engine import open_segmenter
    from train.predicting.coco_results import write_coco
    from train.predicting.masks_on_disk import Layout
    from train.predicting.photos import find_photos, share_of
    from train.predicting.results import Results

    check_inference_options(arguments)
    prompts = read_prompts(arguments.prompts)
    photos, hidden = find_photos(arguments.images)
    processes = start_processes(arguments.device)
    files = (arguments.checkpoint, arguments.components, arguments.lora)
    segmenter = open_segmenter(*files, arguments.device or processes.device)
    arguments.decoder = decoder_of(segmenter.engine, arguments.decoder)
    threshold = segmenter.engine.config.threshold if arguments.threshold is None else arguments.threshold
    layout = Layout(arguments.output, word_names([prompt.name for prompt in prompts]))
    results = Results(arguments.output, settings_of(arguments, prompts, threshold), processes.process_index)
    results.check(arguments.overwrite)
    done = results.done()
    processes.wait_for_everyone()  # before anybody writes
    if processes.is_main_process:
        results.begin()
        if hidden:
            print(f"left out as hidden: {', '.join(hidden)}", file=sys.stderr)
    left = [
        photo
        for photo in share_of(photos, processes.process_index, processes.num_processes)
        if (photo.name, photo.size) not in done or not layout.complete(photo.stem)
    ]
    failed = gather_object(segment_all(left, segmenter, prompts, threshold, arguments, layout, results))
    if not processes.is_main_process:
        return
    results.merge(photos)
    if arguments.coco:
        write_coco(results, [prompt.name for prompt in prompts])
    if failed:
        named = ", ".join(map(shortened, sorted(failed)[:10])) + (" ..." if len(failed) > 10 else "")
        raise DataError(
            f"{len(failed)} of {len(photos)} photos could not be segmented, the others are done: {named}. Mend or remove them, "
            "and start the same command again."
        )


def segment_all(left, segmenter, prompts: list[Prompt], threshold: float, arguments, layout, results) -> list[str]:
    """Write the files and the line of every photo of `left`; returns the names of those that could not be segmented."""
    from tqdm import tqdm

    from train.predicting.masks_on_disk import write_masks

    settings = SamplerSettings(arguments.seed, arguments.steps or 0, arguments.ensemble)
    look = ImageSettings(arguments.resolution or 0, arguments.tile, arguments.mirror)
    failed = []
    for photo in tqdm(left, unit="image", disable=None if results.rank == 0 else True):
        try:
            image = photo.read()
            segmenter.set_image(image, look)
            masks = lambda some: segmenter.predict(some, settings, decoder=arguments.decoder).soft[0]  # noqa: E731
            said = write_masks(image, photo.stem, prompts, masks, threshold, layout)
        except CheckpointError:
            raise  # every other photo would fail as well
        except ValueError as error:
            tqdm.write(f"{photo.name}: {error}", file=sys.stderr)
            failed.append(photo.name)
        else:
            results.add(photo, image.shape[:2], said)
    return failed


def read_prompts(texts: list[str]) -> list[Prompt]:
    """The prompts of the command line; raises ConfigError for none, too many, or two of one name."""
    try:
        prompts = parse_prompts("\n".join(texts))
    except ValueError as error:
        raise ConfigError(f"--prompts: {error}") from error
    if len(prompts) > MOST_IDS:
        raise ConfigError(f"--prompts: {len(prompts)} prompts; a palette PNG numbers up to {MOST_IDS}. Ask in several runs.")
    return prompts


def start_processes(device: str | None):
    """Which process this is, among those that `accelerate launch` started; ConfigError for a device that is not there."""
    from datetime import timedelta

    import torch
    from accelerate import PartialState

    if device is not None:
        try:
            torch.empty(1, device=device).cpu()
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            reason = shortened(str(error).partition("\n")[0])
            raise ConfigError(f"--device {shortened(device)} cannot be used: {reason}") from error
    several = {"timeout": timedelta(days=7)} if torch.distributed.is_torchelastic_launched() else {}  # shares end far apart
    return PartialState(cpu=device == "cpu", **several)


def settings_of(arguments: argparse.Namespace, prompts: list[Prompt], threshold: float) -> dict:
    """All that the masks depend on, as JSON values."""
    from train.predicting.results import fingerprint

    files = {"checkpoint": arguments.checkpoint, "components": arguments.components, "lora": arguments.lora}
    named = {name: f"{path.name} {fingerprint(path)}" for name, path in files.items() if path}
    asked = {name: getattr(arguments, name) for name in ("steps", "ensemble", "mirror", "tile", "resolution", "seed")}
    asked |= {name: asked[name] or 0 for name in ("steps", "resolution")}  # 0: the checkpoint's
    asked |= {"decoder": "guided"} if arguments.decoder == "guided" else {}  # older folders, all of the VAE's masks, say nothing
    values = {**named, **asked, "threshold": threshold, "prompts": {prompt.name: prompt.wordings for prompt in prompts}}
    return json.loads(json.dumps(values))


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True, help='folder, list (.txt), or tar shards such as "shards/*.tar"')
    parser.add_argument("--prompts", nargs="+", required=True, help='what to look for, e.g. "cat" or "dog: puppy, hound"')
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    add_inference_options(parser)
    parser.add_argument("--overwrite", action="store_true", help="make masks anew that other settings have made")
    parser.add_argument("--coco", action="store_true", help="also write predictions.coco.json with every mask as run lengths")
    parser.add_argument("--device", help="torch device, default: a GPU where there is one")
    return parser


def main(line: list[str] | None = None) -> None:
    """Parse the command line and predict."""
    parser = make_parser()
    arguments = parser.parse_args(line)
    run(parser.prog, lambda: predict(arguments), arguments)


if __name__ == "__main__":
    main()
