"""Peak memory and processor seconds of loading a full SD 2.1-sized fp16 checkpoint, beside ComfyUI's own loader on an equal file.

Weights are constants made on the fly. Every measurement runs in a process of its own; `held` is what stays in memory
after loading, `after unloading` what is left when the models are dropped. python benchmarks/load_memory.py --report F
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


def write_files(folder: Path) -> None:
    """ours.safetensors and stock.safetensors: U-Net, VAE and text encoder in SD 2.1's shapes, fp16."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from digseg_nodes.core.checkpoint import CheckpointConfig, save_checkpoint, write_safetensors
    from tests.parity.builders import SCHEDULERS, TEXTS, UNETS, VAES

    levels = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    with torch.device("meta"):
        unet = UNet2DConditionModel(in_channels=8, **UNETS["sd21"])
        vae = AutoencoderKL(latent_channels=4, **levels, **VAES["sd"])
        text = CLIPTextModel(CLIPTextConfig(vocab_size=49408, max_position_embeddings=77, **TEXTS["sd21"]))
    config = CheckpointConfig(unet=dict(unet.config), scheduler=SCHEDULERS["v"], vae=dict(vae.config),
                              text_encoder=text.config.to_dict())
    parts = {name: {k: _filled(v.shape) for k, v in part.state_dict().items()}
             for name, part in (("unet", unet), ("vae", vae), ("text_encoder", text))}
    save_checkpoint(folder / "ours.safetensors", parts, config, title="random")
    write_safetensors(folder / "stock.safetensors", _stock(parts, config), {})


def _filled(shape):
    import torch

    return torch.full(tuple(shape), 0.01, dtype=torch.float16)


def _stock(parts: dict, config) -> dict:
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
    shapes = {"positional_embedding": (77, width), "token_embedding.weight": (config["vocab_size"], width),
              "ln_final.weight": (width,), "ln_final.bias": (width,), "text_projection": (width, width)}
    for i in range(config["num_hidden_layers"] + 1):
        layer = f"transformer.resblocks.{i}."
        shapes |= {layer + "attn.in_proj_weight": (3 * width, width), layer + "attn.in_proj_bias": (3 * width,),
                   layer + "attn.out_proj.weight": (width, width), layer + "attn.out_proj.bias": (width,),
                   layer + "mlp.c_fc.weight": (4 * width, width), layer + "mlp.c_fc.bias": (4 * width,),
                   layer + "mlp.c_proj.weight": (width, 4 * width), layer + "mlp.c_proj.bias": (width,)}
        shapes |= {f"{layer}ln_{n}.{kind}": (width,) for n in (1, 2) for kind in ("weight", "bias")}
    return {prefix + name: _filled(shape) for name, shape in shapes.items()}


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


def measure(kind: str, file: Path, flags: list[str]) -> dict:
    """Load one file in this process and say what it took."""
    host = boot(flags)
    import comfy.model_management as mm
    import comfy.sd

    from digseg_nodes.core.checkpoint import open_checkpoint

    before, baseline, started = resident_bytes(), peak_bytes(), time.process_time()
    if kind == "ours":
        opened = open_checkpoint(file)
        loaded = [host.load_model(opened), host.load_clip(opened), host.load_vae(opened)]
    else:
        loaded = list(comfy.sd.load_checkpoint_guess_config(str(file))[:3])
    seconds, held = time.process_time() - started, resident_bytes() - before
    modules = (loaded[0].model, loaded[1].cond_stage_model, loaded[2].first_stage_model)
    model = sum(p.numel() * p.element_size() for m in modules for p in m.parameters())
    peak = peak_bytes() - baseline
    del loaded, modules
    mm.unload_all_models()
    mm.soft_empty_cache()
    gc.collect()
    return {"seconds": round(seconds, 2), "file_gib": file.stat().st_size / GIB, "model_gib": model / GIB,
            "peak_gib": peak / GIB, "held_gib": held / GIB, "after_unloading_gib": (resident_bytes() - before) / GIB}


def child(kind: str, file: Path, flags: list[str]) -> dict:
    """`measure` in a fresh process."""
    command = [sys.executable, __file__, "--child", kind, "--file", str(file), "--flags", *flags]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        sys.exit(f"Measuring {kind} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    """Measure both loaders; exit status 1 when ours held a second copy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--report", type=Path)
    parser.add_argument("--child", choices=("ours", "stock"))
    parser.add_argument("--file", type=Path)
    parser.add_argument("--flags", nargs="*", default=[], help="ComfyUI settings to switch on, e.g. force_fp16")
    args = parser.parse_args()
    if args.child:
        print(json.dumps(measure(args.child, args.file, args.flags)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder))
        figures = {kind: child(kind, Path(folder) / f"{kind}.safetensors", args.flags) for kind in ("stock", "ours")}
    ours = figures["ours"]
    figures["allowed_peak_gib"] = ours["file_gib"] + ALLOWED_COPIES * ours["model_gib"]
    figures["seconds_relative_to_stock"] = round(ours["seconds"] / figures["stock"]["seconds"], 2)
    print(json.dumps(figures, indent=2))
    if args.report:
        args.report.write_text(json.dumps(figures, indent=2), "utf-8")
    return int(ours["peak_gib"] > figures["allowed_peak_gib"])


if __name__ == "__main__":
    sys.exit(main())
