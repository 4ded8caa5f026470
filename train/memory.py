"""How much memory a training takes, by going through one step with tensors that have shapes but no content.

python train/memory.py --config FILE [key=value ...]     what that run will need
python train/memory.py --table                           Stable Diffusion sizes and options as a Markdown table

An estimate: what the libraries need beside the tensors (cuDNN's workspace, CUDA's context, fragmentation) is left out.
"""

import argparse
import sys
import weakref
from dataclasses import dataclass, replace
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextModel

from digseg_nodes.core.bare_unet import STABLE_DIFFUSION_UNETS, bare_scheduler
from digseg_nodes.core.checkpoint import CheckpointConfig
from digseg_nodes.core.latent_space import PIXELS_PER_LATENT
from digseg_nodes.core.schedule import alphas_cumprod
from train.data.config import DataConfig
from train.latents.batches import Batch
from train.learning.loss import make_loss
from train.networks.bases import decode_latents, encode_pixels, open_base, text_model, widened
from train.networks.engine import decoded_at_once
from train.networks.lora import add_lora
from train.networks.single_file import TEXT_ENCODERS, VAE
from train.settings.command import run
from train.settings.train_config import TrainConfig, load_config

GIB = 2**30
EIGHT_BIT_FROM = 4096
"""bitsandbytes keeps the moments of weights with fewer numbers in 32 bits."""
EIGHT_BIT_BLOCK = 256
"""... and one scale of 32 bits for that many numbers."""

SAVING = (
    "Smaller: batch_size with more gradient_accumulation, gradient_checkpointing: true, mixed_precision: bf16, "
    "optimizer.kind: adamw_8bit, ema: 0, lora, a lower resolution, validation.batch_size, encode_batch."
)
"""What to try when a run does not fit."""


class Ledger(TorchDispatchMode):
    """Counts the bytes of every storage that is alive, and their peak, while operations run inside it."""

    def __init__(self):
        super().__init__()
        self.live = self.peak = 0
        self.known: set[int] = set()

    def hold(self, tensor: Tensor) -> None:
        """Count a tensor's storage until it is freed; several tensors on one storage count once."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self.known:
            self.known.add(key)
            self.live += size
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.live -= size

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self.hold(leaf)
        return out


@dataclass(frozen=True)
class Need:
    """Bytes a run takes. step, encoding, validation: the peak on top of what is kept all the time: weights (the U-Net and
    the frozen VAE and text encoder), optimizer (moments) and averages. filling: all that is there while the latent cache is
    filled, before the U-Net comes to the device. flops: operations of one optimizer step."""

    trained: int
    weights: int
    optimizer: int
    averages: int
    step: int
    encoding: int
    validation: int
    filling: int
    flops: float

    @property
    def peak(self) -> int:
        """Bytes at the worst moment of a run."""
        kept = self.weights + self.optimizer + self.averages
        return max(kept + max(self.step, self.encoding, self.validation), self.filling)

    def describe(self) -> str:
        """One line for people."""
        parts = {
            "weights": self.weights,
            "optimizer": self.optimizer,
            "averages": self.averages,
            "gradients and activations of a step": self.step,
            "validation": self.validation,
        }
        if self.encoding:
            parts["encoding"] = self.encoding
        listed = ", ".join(f"{name} {size / GIB:.2f}" for name, size in parts.items())
        before = f"; before that, filling the latent cache {self.filling / GIB:.2f}" if self.filling else ""
        return (
            f"{self.trained / 1e6:.1f} million trained weights; memory about {self.peak / GIB:.2f} GiB at most ({listed}{before})"
        )


@dataclass
class Empty:
    """Networks without content."""

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel


def estimate(config: TrainConfig, model: CheckpointConfig, processes: int = 1) -> Need:
    """What a configuration takes on each process's device; `model` holds the configs of U-Net, VAE and text encoder.

    Counted with the CPU's kernels, which keep the same tensors as a GPU's for the backward pass.
    """
    networks = _outlines(config, model)
    loss = make_loss(config, networks.vae, alphas_cumprod(model.scheduler).float(), model.prediction_type)
    with FakeTensorMode(allow_non_fake_inputs=True):
        for module in (networks.unet, networks.vae, networks.text_encoder):
            module.to_empty(device="cpu")
        trained = [weight for weight in networks.unet.parameters() if weight.requires_grad]
        ledger = Ledger()
        for module in (networks.unet, networks.vae, networks.text_encoder):
            for weight in (*module.parameters(), *module.buffers()):
                ledger.hold(weight)
        weights = ledger.live
        step, flops = _step(config, networks, loss, ledger)
        size = sum(weight.numel() * weight.element_size() for weight in trained)
        encoding = _encoding(config, networks, ledger) - weights
        return Need(
            trained=sum(weight.numel() for weight in trained),
            weights=weights,
            optimizer=sum(moments(weight, config.optimizer.kind) for weight in trained),
            averages=size if config.ema else 0,
            step=max(step - weights, size) + (size if processes > 1 else 0),  # several processes exchange whole gradients
            encoding=0 if config.cache_latents else encoding,
            validation=_validation(config, networks, ledger) - weights,
            filling=_frozen(networks) + encoding if config.cache_latents else 0,
            flops=flops,
        )


def _outlines(config: TrainConfig, model: CheckpointConfig) -> Empty:
    """The networks as the trainer sets them up, on no device."""
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(widened(model.unet)).train()
        vae = AutoencoderKL.from_config(model.vae).requires_grad_(False)
        text = text_model(model.text_encoder).requires_grad_(False)
        if config.lora:
            add_lora(unet, config.lora.rank, config.lora.alpha, config.lora.targets, config.seed)
    if config.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    return Empty(unet, vae, text)


def moments(weight: nn.Parameter, kind: str) -> int:
    """Bytes of AdamW's two moments of a weight."""
    if kind == "adamw_8bit" and weight.numel() >= EIGHT_BIT_FROM:
        return 2 * (weight.numel() + 4 * -(-weight.numel() // EIGHT_BIT_BLOCK))
    return 2 * 4 * weight.numel()


def _step(config: TrainConfig, networks: Empty, loss, ledger: Ledger) -> tuple[int, float]:
    """Peak bytes and operations of one optimizer step's forward and backward passes.

    Counted one after the other: the counter of operations leaves tensors in reference cycles, where they live on until
    Python's collector happens to run.
    """
    ledger.peak = ledger.live
    with ledger:
        for _ in range(min(config.gradient_accumulation, 2)):  # from the second on, gradients are there already
            _forward_and_backward(config, networks, loss)
    peak = ledger.peak
    with FlopCounterMode(display=False) as counter:
        _forward_and_backward(config, networks, loss)
    for weight in networks.unet.parameters():
        weight.grad = None
    return peak, counter.get_total_flops() * config.gradient_accumulation


def _forward_and_backward(config: TrainConfig, networks: Empty, loss) -> None:
    """One batch without content through the loss and back."""
    precision = {"no": None, "fp16": torch.float16, "bf16": torch.bfloat16}[config.mixed_precision]
    with torch.autocast("cpu", dtype=precision, enabled=precision is not None):
        value = loss(networks.unet, _empty_batch(config, networks))
    value.backward()


def _empty_batch(config: TrainConfig, networks: Empty) -> Batch:
    count, side = config.batch_size, config.resolution // PIXELS_PER_LATENT
    image, mask, noise = (torch.empty((count, networks.vae.config.latent_channels, side, side)) for _ in range(3))
    text = networks.text_encoder.config
    words = torch.empty((count, text.max_position_embeddings, text.hidden_size))
    truth = torch.empty((count, config.resolution, config.resolution))
    return Batch(image, mask, noise, words, torch.zeros(count, dtype=torch.int64), truth=truth)


def _frozen(networks: Empty) -> int:
    """Bytes of the VAE and the text encoder."""
    return sum(weight.nbytes for part in (networks.vae, networks.text_encoder) for weight in part.parameters())


@torch.no_grad()
def _encoding(config: TrainConfig, networks: Empty, ledger: Ledger) -> int:
    ledger.peak = ledger.live
    with ledger:
        count = config.encoded_at_once if config.cache_latents else min(config.encoded_at_once, config.batch_size)
        encode_pixels(networks.vae, torch.empty((count, 3, config.resolution, config.resolution)))
    return ledger.peak


@torch.no_grad()
def _validation(config: TrainConfig, networks: Empty, ledger: Ledger) -> int:
    if not config.data.validation:
        return ledger.live
    masks, batch = config.validation.batch_size, _empty_batch(config, networks)
    ledger.peak = ledger.live
    with ledger:
        image, text = (one[:1].expand(masks, *one.shape[1:]) for one in (batch.image, batch.text))
        networks.unet(torch.cat([image, image], 1), batch.timesteps[0], text)
        decode_latents(networks.vae, image[: decoded_at_once(*image.shape[-2:])])
    return ledger.peak


def device_memory(device: torch.device) -> int | None:
    """Bytes of a CUDA device's memory, None elsewhere."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None


def synchronize(device: torch.device) -> None:
    """Wait until everything asked of a device is done, so that clocks mean something."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def stable_diffusion(width: int = 768) -> CheckpointConfig:
    """The configs of Stable Diffusion 1.x (text of width 768) or 2.x (1024) as a DiGSeg model."""
    return CheckpointConfig(
        unet=STABLE_DIFFUSION_UNETS[width], vae=VAE, text_encoder=TEXT_ENCODERS[width], scheduler=bare_scheduler(width, {})
    )


KINDS = {"full": {}, "LoRA, rank 16": {"lora": {"rank": 16}}}
SIZES = ((256, 8, False), (512, 1, False), (512, 8, True))
"""Pixels, batch size, gradient checkpointing."""
GPUS = (8, 12, 16, 24, 32, 40, 48, 80)
HEADROOM = 1.1
"""Room for what the estimate does not see, besides one GiB."""


def table_row(kind: str, pixels: int, batch: int, checkpointing: bool) -> str:
    """One line of the table: SD 1.x, one U-Net call, bf16, with AdamW and averages and without averages with 8-bit Adam."""
    settings = {"base": "sd", "output": "run", "data": DataConfig(validation=[{"type": "demo"}]), "resolution": pixels}
    settings |= {"batch_size": batch, "gradient_checkpointing": checkpointing, "mixed_precision": "bf16"}
    settings |= {"validation": {"batch_size": 8}, "objective": "end_to_end", **KINDS[kind]}
    config, model = TrainConfig(**settings), stable_diffusion()
    need = estimate(config, model)
    trained = [weight for weight in _outlines(config, model).unet.parameters() if weight.requires_grad]
    small = replace(need, averages=0, optimizer=sum(moments(weight, "adamw_8bit") for weight in trained))
    cells = [f"{one.peak / GIB:.1f} | {smallest_gpu(one)}" for one in (need, small)]
    mark = "yes" if checkpointing else "no"
    return f"| {kind} | {pixels} | {batch} | {mark} | {' | '.join(cells)} | {need.flops / 1e12:.1f} |"


def smallest_gpu(need: Need) -> str:
    """The smallest of the usual memory sizes that a run fits into."""
    return next((f"{gpu} GB" for gpu in GPUS if need.peak * HEADROOM + GIB <= gpu * GIB), "none")


def table() -> None:
    """Print the table."""
    print("| training | px | batch | checkpointing | GiB | fits | GiB, 8-bit Adam, no averages | fits | TFLOP a step |")
    print("|---|---|---|---|---|---|---|---|---|")
    for kind in KINDS:
        for size in SIZES:
            print(table_row(kind, *size), flush=True)


def main(line: list[str] | None = None) -> None:
    """Parse the command line and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, help="YAML file, see train/configs/")
    parser.add_argument("--table", action="store_true", help="Stable Diffusion sizes instead")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="replaces a setting of the file")
    arguments = parser.parse_args(line)
    if arguments.table == bool(arguments.config):
        parser.error("give either --config FILE or --table")

    def of_one_run() -> None:
        config = load_config(arguments.config, arguments.overrides)
        model = open_base(config.base).config
        if config.components:
            other = open_base(config.components).config
            model = replace(model, vae=other.vae, text_encoder=other.text_encoder)
        print(estimate(config, model).describe())

    run(parser.prog, table if arguments.table else of_one_run)


if __name__ == "__main__":
    main()
