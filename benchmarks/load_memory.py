"""Peak memory and processor seconds of loading a full SD 2.1-sized fp16 model in every layout, beside ComfyUI's own loaders.

Every measurement runs in a process of its own; `held` is what stays in memory after loading, `after unloading` what is
left when the models are dropped. Seconds are of the processor, the quickest of the runs, so that what else the machine
does counts little. python benchmarks/load_memory.py --report F
"""

import argparse
import gc
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
GIB = 2**30
ALLOWED_COPIES = 1.3
RUNS = 2
STOCK, STOCK_UNET = "CheckpointLoaderSimple, 4 channels", "UNETLoader, 4 channels"


def peak_bytes() -> int:
    """Largest resident set of this process so far, file mappings included."""
    if resident_bytes():
        return _status("VmHWM")  # of this program alone; ru_maxrss also remembers the process that started it
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def resident_bytes() -> int:
    """Resident set of this process now, without file mappings (Linux only, elsewhere 0)."""
    return _status("RssAnon")


def _status(field: str) -> int:
    """A figure of this process from Linux's /proc in bytes; 0 elsewhere."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return 0
    line = next(line for line in status.read_text("utf-8").splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def write(kind: str, folder: Path, networks) -> Path:
    """Write a layout of LAYOUTS, or the ordinary file of the same sizes that STOCK and STOCK_UNET load."""
    from benchmarks._layouts import write_layout
    from digseg_nodes.core.checkpoint import write_safetensors

    if kind not in (STOCK, STOCK_UNET):
        return write_layout(kind, folder, networks)
    tensors = stock_tensors(networks.tensors(), networks.config)
    if kind == STOCK_UNET:
        tensors = {k: v for k, v in tensors.items() if k.startswith("model.diffusion_model.")}
    write_safetensors(folder / "model.safetensors", tensors, {})
    return folder / "model.safetensors"


def stock_tensors(parts: dict, config) -> dict:
    """The same model as an ordinary SD 2.1 checkpoint: 4 channels, original names."""
    from digseg_nodes.core.ldm_names import LDM_PREFIX, translate, unet_modules, vae_modules

    unet = {**parts["unet"], "conv_in.weight": parts["unet"]["conv_in.weight"][:, :4].contiguous()}
    tensors = {LDM_PREFIX["unet"] + translate(k, unet_modules(config.unet)): v for k, v in unet.items()}
    for key, value in parts["vae"].items():
        name = translate(key, vae_modules(config.vae))
        tensors[LDM_PREFIX["vae"] + name] = value[:, :, None, None] if ".attn_1." in name and value.ndim == 2 else value
    return {**tensors, **_open_clip(config.text_encoder)}


def _open_clip(config: dict) -> dict:
    """SD 2.1's text encoder as its original file names it, 24 layers of it."""
    width, prefix = config["hidden_size"], "cond_stage_model.model."
    shapes = {
        "positional_embedding": (77, width),
        "token_embedding.weight": (config["vocab_size"], width),
        "ln_final.weight": (width,),
        "ln_final.bias": (width,),
        "text_projection": (width, width),
    }
    for i in range(config["num_hidden_layers"] + 1):
        layer = f"transformer.resblocks.{i}."
        shapes |= {
            layer + "attn.in_proj_weight": (3 * width, width),
            layer + "attn.in_proj_bias": (3 * width,),
            layer + "attn.out_proj.weight": (width, width),
            layer + "attn.out_proj.bias": (width,),
            layer + "mlp.c_fc.weight": (4 * width, width),
            layer + "mlp.c_fc.bias": (4 * width,),
            layer + "mlp.c_proj.weight": (width, 4 * width),
            layer + "mlp.c_proj.bias": (width,),
        }
        shapes |= {f"{layer}ln_{n}.{kind}": (width,) for n in (1, 2) for kind in ("weight", "bias")}
    import torch

    return {prefix + name: torch.full(shape, 0.01, dtype=torch.float16) for name, shape in shapes.items()}


def boot(flags: list[str]):
    """digseg_nodes.host in an imported ComfyUI, on the CPU where there is no accelerator."""
    import importlib

    import dev

    sys.path.append(str(dev.find_host() or dev.unpack_host()))
    arguments = importlib.import_module("comfy.cli_args").args
    import torch

    arguments.cpu = not torch.cuda.is_available()
    for flag in flags:
        setattr(arguments, flag, True)
    return importlib.import_module("digseg_nodes.host")


def load(kind: str, file: Path, host) -> dict:
    """Load one file as ComfyUI's loader nodes or ours do: the network of each part by the part's name."""
    import comfy.sd

    from digseg_nodes.core.checkpoint import open_checkpoint

    if kind == STOCK:
        model, clip, vae = comfy.sd.load_checkpoint_guess_config(str(file))[:3]
    elif kind == STOCK_UNET:
        model, clip, vae = comfy.sd.load_diffusion_model(str(file)), None, None
    else:
        opened = open_checkpoint(file, mask_target="binary")
        model = host.load_model(opened)
        clip = host.load_clip(opened) if "text_encoder" in opened.components else None
        vae = host.load_vae(opened) if "vae" in opened.components else None
    found = {"unet": model.model, "text_encoder": clip and clip.cond_stage_model, "vae": vae and vae.first_stage_model}
    return {part: network for part, network in found.items() if network is not None}


def measure(kind: str, file: Path, flags: list[str]) -> dict:
    """Load one file in this process and say what it took."""
    host = boot(flags)
    files = list(file.rglob("*.safetensors")) if file.is_dir() else [file]
    before, baseline, started = resident_bytes(), peak_bytes(), time.process_time()
    loaded = load(kind, file, host)
    seconds, held, peak = time.process_time() - started, resident_bytes() - before, peak_bytes() - baseline
    model = sum(p.numel() * p.element_size() for network in loaded.values() for p in network.parameters())
    parts = list(loaded)
    loaded.clear()
    host.mm.unload_all_models()
    host.mm.soft_empty_cache()
    gc.collect()
    return {
        "parts": parts,
        "seconds": seconds,
        "file_gib": sum(p.stat().st_size for p in files) / GIB,
        "model_gib": model / GIB,
        "peak_gib": peak / GIB,
        "held_gib": held / GIB,
        "after_unloading_gib": (resident_bytes() - before) / GIB,
    }


def child(kind: str, file: Path, flags: list[str]) -> dict:
    """`measure` in a fresh process."""
    command = [sys.executable, __file__, "--child", kind, "--file", str(file), "--flags", *flags]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        sys.exit(f"Measuring {kind} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def compare(flags: list[str]) -> dict[str, dict]:
    """Every kind's figures; seconds also relative to ComfyUI's loader of the same parts."""
    from benchmarks._layouts import LAYOUTS, make_networks
    from tests.parity.builders import SCHEDULERS

    figures, networks = {}, make_networks("sd21", SCHEDULERS["v"], 768)
    for kind in (STOCK, STOCK_UNET, *LAYOUTS):
        with tempfile.TemporaryDirectory() as folder:
            file = write(kind, Path(folder), networks)
            found = min((child(kind, file, flags) for _ in range(RUNS)), key=lambda run: run["seconds"])
        found["allowed_peak_gib"] = found["file_gib"] + ALLOWED_COPIES * found["model_gib"]
        stock = figures.get(STOCK if len(found["parts"]) == 3 else STOCK_UNET, found)
        found["seconds_relative_to_stock"] = found["seconds"] / stock["seconds"]
        figures[kind] = {k: round(v, 3) if isinstance(v, float) else v for k, v in found.items()}
        print(kind, json.dumps(figures[kind]), flush=True)
    return figures


def main() -> int:
    """Measure every loader; exit status 1 when one of ours held a second copy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", type=Path)
    parser.add_argument("--child", help="measure loading this kind of file in this process")
    parser.add_argument("--file", type=Path)
    parser.add_argument("--flags", nargs="*", default=[], help="ComfyUI settings to switch on, e.g. force_fp16")
    args = parser.parse_args()
    if args.child:
        print(json.dumps(measure(args.child, args.file, args.flags)))
        return 0
    figures = compare(args.flags)
    if args.report:
        args.report.write_text(json.dumps(figures, indent=2), "utf-8")
    ours = [found for kind, found in figures.items() if kind not in (STOCK, STOCK_UNET)]
    return int(any(found["peak_gib"] > found["allowed_peak_gib"] for found in ours))


if __name__ == "__main__":
    sys.exit(main())
