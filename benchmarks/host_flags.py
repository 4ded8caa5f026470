"""The pack under ComfyUI's memory and precision flags and in every weight_dtype, on the bundled model and its demo scenes.

Boots a ComfyUI per flag and compares every mask with those of a ComfyUI without flags; likewise for every weight_dtype of
Load DiGSeg U-Net. python benchmarks/host_flags.py --report F
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
from tools.api import Client, show_mask  # noqa: E402
from tools.demo import load_scenes  # noqa: E402

FLAGS = ("--cpu", "--force-fp16", "--fp16-unet", "--bf16-unet", "--fp8_e4m3fn-unet", "--fp8_e5m2-unet",
         "--bf16-vae", "--fp16-text-enc")  # fmt: skip
GPU_FLAGS = ("--lowvram", "--novram")
"""ComfyUI refuses these beside --cpu, which it is told where there is no GPU (tests/parity/test_memory.py stands in)."""
WEIGHT_DTYPES = ("default", "fp32", "fp16", "bf16", "fp8_e4m3fn", "fp8_e4m3fn_fast", "fp8_e5m2")
CHECKPOINT = "digseg-demo.safetensors"
HALF = 127
"""Grey level above which a pixel of a soft mask is selected; the bundled model's threshold is 0.5."""


def node(kind: str, **inputs) -> dict:
    return {"class_type": kind, "inputs": inputs}


def masks(client: Client, weight_dtype: str = "default") -> np.ndarray:
    """The soft masks of all demo scenes and prompts: uint8 [N, H, W]."""
    found = []
    for scene in load_scenes():
        texts = list(dict.fromkeys(scene.texts))
        prompt = {
            "all": node("DiGSegCheckpointLoader", checkpoint=CHECKPOINT, mask_target="auto"),
            "unet": node("DiGSegUNETLoader", checkpoint=CHECKPOINT, weight_dtype=weight_dtype, mask_target="auto"),
            "photo": node("LoadImage", image=scene.image),
            "segment": node("DiGSegSegment", model=["unet", 0], clip=["all", 1], vae=["all", 2], image=["photo", 0],
                            text="\n".join(texts), seed=0, steps=0, ensemble=1, threshold=0.0, resolution=0, tile=0,
                            uncertainty=False),
        }  # fmt: skip
        for number, text in enumerate(texts):
            prompt[str(number)] = node(
                "DiGSegPickMask", masks=["segment", 0], names=text, mode="soft", threshold=0.0, invert=False
            )
        shown = [show_mask(prompt, str(number)) for number in range(len(texts))]
        outputs = client.run(prompt).outputs
        pictures = [client.picture(outputs[node]["images"][0]) for node in shown]
        found += [np.asarray(Image.open(io.BytesIO(png)).convert("L")) for png in pictures]
    return np.stack(found)


def difference(found: np.ndarray, plain: np.ndarray) -> dict[str, float]:
    """Share of pixels on the other side of the threshold, and the largest difference in grey levels."""
    return {
        "flipped": float(((found > HALF) != (plain > HALF)).mean()),
        "largest_difference": int(np.abs(found.astype(int) - plain).max()),
    }


def main() -> None:
    """A line for every flag and weight_dtype; a flag with which ComfyUI or the pack does not run ends the program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", type=Path)
    args = parser.parse_args()
    install, figures = dev.find_or_make_install(), {}
    with dev.running_host(install, "flags") as host, Client(host.url) as client:
        plain = masks(client)
        for dtype in WEIGHT_DTYPES:
            figures[f"weight_dtype {dtype}"] = difference(masks(client, dtype), plain)
            print(dtype, figures[f"weight_dtype {dtype}"], flush=True)
    for flag in flags_here(install):
        with dev.running_host(install, "flags", extra=[flag]) as host, Client(host.url) as client:
            figures[flag] = difference(masks(client), plain)
        print(flag, figures[flag], flush=True)
    print(f"{len(plain)} masks of {plain[0].size} pixels, {(plain > HALF).mean():.1%} of them selected")
    figures["masks"], figures["pixels"] = len(plain), int(plain.size)
    if args.report:
        args.report.write_text(json.dumps(figures, indent=2), "utf-8")


def flags_here(install: dev.Install) -> tuple[str, ...]:
    """The flags that ComfyUI takes on this machine."""
    return FLAGS if dev.device_arguments(install.python) else (*FLAGS, *GPU_FLAGS)


if __name__ == "__main__":
    main()
