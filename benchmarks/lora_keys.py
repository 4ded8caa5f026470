"""How many layers of a LoRA on every layer of the U-Net apply, by format: Load DiGSeg LoRA, and ComfyUI's own loader.

On the bundled demo model and on a full SD 1.5-sized U-Net. Exit status 1 when one of ours leaves a layer out.
python benchmarks/lora_keys.py --report F
"""

import argparse
import json
import logging
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from benchmarks._layouts import make_networks, write_unet  # noqa: E402 (ComfyUI has a package `tests` of its own)
from benchmarks.load_memory import boot  # noqa: E402
from tests.parity.builders import SCHEDULERS  # noqa: E402
from tests.parity.lora_formats import ATTENTION, FORMATS, PROCESSORS, random_lora  # noqa: E402

DEMO = ROOT / "digseg_nodes" / "models" / "digseg-demo.safetensors"
PROCESSORS_NAME = "old attention processors"


def count(host, model, unet, folder: Path) -> dict[str, dict[str, int]]:
    """Layers in the file and layers applied by either loader, for every format."""
    import comfy.sd
    from safetensors.torch import save_file

    found = {}
    for name, convert in {**FORMATS, PROCESSORS_NAME: PROCESSORS}.items():
        lora = convert(random_lora(unet, only=ATTENTION if name == PROCESSORS_NAME else ()))
        save_file(lora, folder / "lora.safetensors")
        ours = host.apply_lora(model, folder / "lora.safetensors")
        logging.disable(logging.WARNING)  # a line for every tensor that ComfyUI's loader leaves out
        stock, _ = comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0.0)
        logging.disable(logging.NOTSET)
        found[name] = {"layers": len(lora) // 2, "ours": len(ours.patches), "stock": len(stock.patches)}
        print(name, found[name], flush=True)
    return found


def demo_model(host):
    """The bundled model as a MODEL, and its U-Net as diffusers' module without weights."""
    import torch
    from diffusers import UNet2DConditionModel

    from digseg_nodes.core.checkpoint import open_checkpoint

    opened = open_checkpoint(DEMO)
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(opened.config.unet)
    return host.load_model(opened), unet


def large_model(host, folder: Path):
    """A random SD 1.5-sized U-Net as a MODEL, and as diffusers' module."""
    from digseg_nodes.core.checkpoint import open_checkpoint

    networks = make_networks("sd15", SCHEDULERS["epsilon"], 512)
    write_unet(folder / "large.safetensors", networks)
    return host.load_model(open_checkpoint(folder / "large.safetensors"), "fp16"), networks.unet


def main() -> int:
    """Count, print, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", type=Path)
    args = parser.parse_args()
    host = boot([])
    with tempfile.TemporaryDirectory() as name:
        figures = {
            "demo": count(host, *demo_model(host), Path(name)),
            "sd15": count(host, *large_model(host, Path(name)), Path(name)),
        }
    if args.report:
        args.report.write_text(json.dumps(figures, indent=2), "utf-8")
    return int(any(row["ours"] != row["layers"] for rows in figures.values() for row in rows.values()))


if __name__ == "__main__":
    sys.exit(main())
