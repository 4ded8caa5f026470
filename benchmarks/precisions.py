"""Mask pixels that flip when U-Net or VAE compute in half precision: the bundled model, all demo scenes, in this process.

python benchmarks/precisions.py --report F
"""

import argparse
import json
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from benchmarks.load_memory import boot  # noqa: E402
from tests.parity.precisions import hard_masks  # noqa: E402 (before ComfyUI, which has a package `tests` of its own)
from tools.demo import load_scenes  # noqa: E402

CASES = {
    "U-Net fp16": ("fp16", torch.float32),
    "U-Net bf16": ("bf16", torch.float32),
    "VAE bf16": ("fp32", torch.bfloat16),
}


def main() -> None:
    """One line per case: the share of pixels, and the share of those that the masks select."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", type=Path)
    args = parser.parse_args()
    host, scenes, figures = boot([]), load_scenes(), {}
    torch.set_num_threads(1)
    with torch.inference_mode():
        full = hard_masks(host, scenes)
        for name, (unet, vae) in CASES.items():
            flipped = (hard_masks(host, scenes, unet, vae) != full).sum().item()
            figures[name] = {"flipped": flipped / full.numel(), "of_selected": flipped / full.sum().item()}
            print(name, figures[name], flush=True)
    print(f"{len(full)} masks, {full.numel()} pixels, {full.float().mean():.1%} selected")
    if args.report:
        args.report.write_text(json.dumps(figures, indent=2), "utf-8")


if __name__ == "__main__":
    main()
