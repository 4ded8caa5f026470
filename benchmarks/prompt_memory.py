"""Memory that sampling 64 prompts takes above sampling one: prompts go through the U-Net in chunks, so it stays level.

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
COUNTS = (1, 64)
ALLOWED = 1.10


def measure(count: int) -> dict:
    """Peak memory in MiB that sampling `count` prompts on one photo adds to this process."""
    import torch

    from benchmarks.load_memory import boot, peak_bytes, resident_bytes
    from tests.parity.builders import SCHEDULERS, make_unet, make_vae, write_checkpoint

    host = boot([])  # after the import above: ComfyUI has a package `tests` of its own
    from digseg_nodes import segmentation
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
        image = segmentation.encode_image(vae, torch.rand(1, 64, 64, 3), 64)
        latents = torch.randn(1, 4, SIZE // 8, SIZE // 8)
        image = type(image)(latents, image.image, image.geometry, None, image.probe)
        words = torch.randn(count, 1, 77, 64)
        prompts = EncodedPrompts(tuple(map(str, range(count))), tuple(words))
        before = resident_bytes()
        found = segmentation.sample_masks(model, prompts, image, segmentation.SamplerSettings(steps=1))
        assert len(found["samples"]) == count  # noqa: S101
    return {"prompts": count, "peak_mib": (peak_bytes() - before) / MIB, "before_mib": before / MIB}


def main() -> int:
    """Measure 1 and 64 prompts, each in a process of its own; exit status 1 when 64 take over 10 % more."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--report", type=Path)
    parser.add_argument("--count", type=int)
    args = parser.parse_args()
    if args.count:
        print(json.dumps(measure(args.count)))
        return 0
    figures = []
    for count in COUNTS:
        done = subprocess.run([sys.executable, __file__, "--count", str(count)], capture_output=True, text=True, cwd=ROOT)
        if done.returncode:
            sys.exit(f"Measuring {count} prompts failed:\n{done.stderr[-3000:]}")
        figures.append(json.loads(done.stdout.splitlines()[-1]))
    ratio = figures[1]["peak_mib"] / figures[0]["peak_mib"]
    report = {"measured": figures, "ratio": round(ratio, 3)}
    print(json.dumps(report, indent=2))
    if args.report:
        args.report.write_text(json.dumps(report, indent=2), "utf-8")
    return int(ratio > ALLOWED)


if __name__ == "__main__":
    sys.exit(main())
