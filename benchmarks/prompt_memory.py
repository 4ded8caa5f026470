"""Memory that many prompts take: sampling 64 above sampling 8, which chunks keep level, and decoding above the masks' size.

python benchmarks/prompt_memory.py --report F
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
MIB = 2**20
SIZE = 256
COUNTS = (8, 64)  # one U-Net call on a CPU, and eight
ALLOWED = 1.10
DECODED, PHOTO = (30, 60), (1600, 2000)
ALLOWED_DECODING = 1.5


def measure(count: int) -> dict:
    """Peak memory in MiB that sampling `count` prompts on one photo adds to this process."""
    import torch

    from benchmarks.load_memory import boot, peak_bytes, resident_bytes
    from tests.parity.builders import SCHEDULERS, make_unet, make_vae, write_checkpoint

    host = boot([])  # after the import above: ComfyUI has a package `tests` of its own
    from digseg_nodes.core import inference
    from digseg_nodes.core.encoded import EncodedPrompts

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        opened = write_checkpoint(
            Path(folder) / "random.safetensors",
            make_unet("one_head_count"),
            make_vae(),
            scheduler=SCHEDULERS["v"],
            resolution=SIZE,
        )
        model, vae = host.load_model(opened), host.load_vae(opened)
        image = inference.encode_image(host.HostEngine(vae=vae), torch.rand(1, 64, 64, 3), inference.ImageSettings(64))
        latents = torch.randn(1, 4, SIZE // 8, SIZE // 8)
        image = type(image)(latents, image.image, image.geometry, None, image.probe)
        words = torch.randn(count, 1, 77, 64)
        prompts = EncodedPrompts(tuple(map(str, range(count))), tuple(words))
        before = resident_bytes()
        found = inference.sample_masks(host.HostEngine(model), prompts, image, inference.SamplerSettings(steps=1))
        assert len(found["samples"]) == count  # noqa: S101
    return {"prompts": count, "peak_mib": (peak_bytes() - before) / MIB, "before_mib": before / MIB}


def measure_decoding(count: int) -> dict:
    """Peak memory in MiB of a process that decodes `count` masks of a large photo, and the size of these masks."""
    import torch

    from benchmarks.load_memory import boot, peak_bytes

    host = boot([])
    from digseg_nodes.core import inference
    from digseg_nodes.core.checkpoint import open_checkpoint
    from digseg_nodes.core.encoded import MaskSource

    torch.set_num_threads(1)
    with torch.inference_mode():
        vae = host.load_vae(open_checkpoint(ROOT / "digseg_nodes/models/digseg-demo.safetensors"))
        image = inference.encode_image(host.HostEngine(vae=vae), torch.rand(1, *PHOTO, 3), inference.ImageSettings(128))
        latents = torch.randn(count, *image.latents.shape[1:])
        latent = {"samples": latents, "digseg": MaskSource(image, tuple(map(str, range(count))))}
        found = inference.decode_masks(host.HostEngine(vae=vae), latent)
        size = found.soft.numel() * found.soft.element_size()
    return {"prompts": count, "masks_mib": size / MIB, "peak_mib": peak_bytes() / MIB}


def decoding() -> dict:
    """How fast the peak grows with the size of the masks: 1 when they are held once."""
    few, many = (in_own_process("--decode", str(count)) for count in DECODED)
    growth = (many["peak_mib"] - few["peak_mib"]) / (many["masks_mib"] - few["masks_mib"])
    return {"measured": [few, many], "peak_over_masks": round(growth, 3)}


def in_own_process(*arguments: str) -> dict:
    """What this file measures when started with these arguments."""
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        sys.exit(f"Measuring {' '.join(arguments)} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    """Measure each in a process of its own; exit status 1 when 64 prompts take over 10 % more than 8 to sample, or the peak of
    decoding grows over 1.5 times as fast as the masks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--report", type=Path)
    parser.add_argument("--count", type=int)
    parser.add_argument("--decode", type=int)
    args = parser.parse_args()
    if args.count or args.decode:
        print(json.dumps(measure(args.count) if args.count else measure_decoding(args.decode)))
        return 0
    figures = [in_own_process("--count", str(count)) for count in COUNTS]
    ratio = figures[1]["peak_mib"] / figures[0]["peak_mib"]
    report = {"measured": figures, "ratio": round(ratio, 3), "decoding": decoding()}
    print(json.dumps(report, indent=2))
    if args.report:
        args.report.write_text(json.dumps(report, indent=2), "utf-8")
    return int(ratio > ALLOWED or report["decoding"]["peak_over_masks"] > ALLOWED_DECODING)


if __name__ == "__main__":
    sys.exit(main())
