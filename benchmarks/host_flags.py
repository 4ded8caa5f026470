"""The pack under ComfyUI's memory and precision flags: each boots a host, segments, and is compared with the first.

python benchmarks/host_flags.py --report F
"""

import argparse
import io
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import dev  # noqa: E402
from workflows.api import Client  # noqa: E402

FLAGS = [[], ["--cpu"], ["--lowvram"], ["--novram"], ["--force-fp16"], ["--fp8_e4m3fn-unet"], ["--bf16-unet"]]
MODEL = "random.safetensors"


def write_model(host: dev.Host) -> None:
    """A small random checkpoint and a photo of noise in the host's own folders."""
    from tests.parity.builders import SCHEDULERS, make_text, make_unet, make_vae, write_checkpoint

    write_checkpoint(host.base / "models" / "digseg" / MODEL, make_unet("one_head_count"), make_vae(), make_text(),
                     SCHEDULERS["v_zero_snr"], resolution=64, default_steps=2)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(host.base / "input" / "noise.png")


def soft_mask(url: str) -> np.ndarray:
    """One soft mask through the nodes, then free_memory; uint8 [64,64]."""
    prompt = {
        "1": {"class_type": "DiGSegCheckpointLoader", "inputs": {"checkpoint": MODEL, "mask_target": "auto"}},
        "2": {"class_type": "LoadImage", "inputs": {"image": "noise.png"}},
        "3": {"class_type": "DiGSegSegment", "inputs": {
            "model": ["1", 0], "clip": ["1", 1], "vae": ["1", 2], "image": ["2", 0], "text": "a red circle", "seed": 0,
            "steps": 0, "ensemble": 1, "threshold": 0.0, "resolution": 0, "tile": 0, "uncertainty": False}},
        "4": {"class_type": "DiGSegPickMask", "inputs": {"masks": ["3", 0], "names": "", "mode": "soft",
                                                         "threshold": 0.0, "invert": False}},
        "5": {"class_type": "PreviewImage", "inputs": {"images": ["6", 0]}},
        "6": {"class_type": "MaskToImage", "inputs": {"mask": ["4", 0]}}}
    with Client(url) as client:
        run = client.run(prompt)
        return np.asarray(Image.open(io.BytesIO(client.picture(run.outputs["5"]["images"][0]))).convert("L"))


def main() -> int:
    """One line per flag: whether it ran, largest difference in grey levels, share of pixels on the other side of 0.5."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--report", type=Path)
    args = parser.parse_args()
    install, figures, first = dev.find_or_make_install(), {}, None
    for flags in FLAGS:
        with dev.running_host(install, "flags", extra=flags) as host:
            write_model(host)
            mask = soft_mask(host.url)
        first = mask if first is None else first
        figures[" ".join(flags) or "none"] = {
            "largest_difference": int(np.abs(mask.astype(int) - first).max()),
            "flipped": float(((mask > 127) != (first > 127)).mean())}
        print(flags, figures[" ".join(flags) or "none"], flush=True)
    if args.report:
        args.report.write_text(json.dumps(figures, indent=2), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
