"""What a run is going to need, said before its first step: memory and time.

The memory is counted by going through one step with tensors that have shapes but no content. An estimate: what the libraries
need beside the tensors (cuDNN's workspace, CUDA's context, fragmentation) is left out.
"""

import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta

import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from tqdm import tqdm
from transformers import CLIPTextModel

from digseg_nodes.core.checkpoint import DTYPES, CheckpointConfig
from digseg_nodes.core.latent_space import PIXELS_PER_LATENT
from digseg_nodes.core.mask_decoder import MaskDecoder, MaskDecoderConfig
from digseg_nodes.core.schedule import alphas_cumprod
from train.latents.batches import Batch
from train.learning.loss import make_loss
from train.learning.resume import ResumeError
from train.networks.bases import decode_latents, encode_pixels, text_model, widened
from train.networks.engine import decoded_at_once
from train.networks.lora import add_lora
from train.settings.train_config import TrainConfig

GIB = 2**30
WORTH_REPEATING = 5.0
"""Seconds up to which a trial pass on a CPU is made twice."""
EIGHT_BIT_FROM = 4096
"""bitsandbytes keeps the moments of weights with fewer numbers in 32 bits."""
EIGHT_BIT_BLOCK = 256
"""... and one scale of 32 bits for that many numbers."""

ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda grad, q, k, v, *_, **__: sdpa_backward_flop_count(grad, q, k, v)
    ),
}
"""Operations of the CPU's attention, which PyTorch's counter leaves out."""

SAVING = (
    "Smaller: batch_size with more gradient_accumulation, gradient_checkpointing: true, mixed_precision: bf16, "
    "optimizer.kind: adamw_8bit, ema: 0, lora, a lower resolution, validation.batch_size, encode_batch."
)
"""What to try when a run does not fit."""


class MemoryFullError(ResumeError):
    """A run that does not fit into the memory of its device; the message says what makes it smaller."""


@contextmanager
def memory_errors(saving: str = SAVING) -> Iterator[None]:
    """Context whose errors of full memory, of an accelerator or of the machine, become MemoryFullError. saving: what to try."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        said = str(error)
        if not isinstance(error, (torch.OutOfMemoryError, MemoryError)) and "allocate memory" not in said:
            raise
        first = said.splitlines()[0] if said else type(error).__name__
        raise MemoryFullError(f"The memory is full: {first} {saving} The same command goes on from the last state.") from error


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
    """Networks without content: those that are trained, by name, and the frozen ones."""

    trained: dict[str, nn.Module]
    vae: AutoencoderKL
    text_encoder: CLIPTextModel

    def modules(self) -> tuple[nn.Module, ...]:
        """All of them."""
        return (*self.trained.values(), self.vae, self.text_encoder)

    def weights(self) -> list[nn.Parameter]:
        """What the optimizer moves."""
        return [weight for module in self.trained.values() for weight in module.parameters() if weight.requires_grad]


def estimate(config: TrainConfig, model: CheckpointConfig, processes: int = 1) -> Need:
    """What a configuration takes on each process's device; `model` holds the configs of U-Net, VAE and text encoder.

    Counted with the CPU's kernels, which keep the same tensors as a GPU's for the backward pass.
    """
    networks = outlines(config, model)
    loss = make_loss(config, networks.vae, alphas_cumprod(model.scheduler).float(), model.prediction_type)
    with FakeTensorMode(allow_non_fake_inputs=True):
        for module in networks.modules():
            module.to_empty(device="cpu")
        trained = networks.weights()
        ledger = Ledger()
        for module in networks.modules():
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


def outlines(config: TrainConfig, model: CheckpointConfig) -> Empty:
    """The networks as the trainer sets them up, on no device."""
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(widened(model.unet)).train()
        vae = AutoencoderKL.from_config(model.vae).requires_grad_(False)
        text = text_model(model.text_encoder).requires_grad_(False)
        if config.lora:
            add_lora(unet, config.lora.rank, config.lora.alpha, config.lora.targets, config.seed)
        guided = {"mask_decoder": MaskDecoder(MaskDecoderConfig(**config.mask_decoder.shape))} if config.mask_decoder else {}
    if config.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    return Empty({"unet": unet, **guided}, vae, text)


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
    with FlopCounterMode(display=False, custom_mapping=ATTENTION) as counter:
        _forward_and_backward(config, networks, loss)
    for module in networks.trained.values():
        module.zero_grad(set_to_none=True)
    return peak, counter.get_total_flops() * config.gradient_accumulation


def _forward_and_backward(config: TrainConfig, networks: Empty, loss) -> None:
    """One batch without content through the loss and back."""
    precision = DTYPES.get(config.mixed_precision)
    with torch.autocast("cpu", dtype=precision, enabled=precision is not None):
        value = loss(networks.trained, _empty_batch(config, networks))
    value.backward()


def _empty_batch(config: TrainConfig, networks: Empty) -> Batch:
    count, side = config.batch_size, config.resolution // PIXELS_PER_LATENT
    image, mask, noise = (torch.empty((count, networks.vae.config.latent_channels, side, side)) for _ in range(3))
    text = networks.text_encoder.config
    words = torch.empty((count, text.max_position_embeddings, text.hidden_size))
    truth = torch.empty((count, config.resolution, config.resolution))
    batch = Batch(image=image, mask=mask, noise=noise, text=words, timesteps=torch.zeros(count, dtype=torch.int64), truth=truth)
    if not config.mask_decoder:
        return batch
    photo = torch.empty((count, 3, config.resolution, config.resolution))
    return replace(batch, photo=photo, outline=truth, known=truth, window=(0, 0, side, side), jitter=noise)


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
        networks.trained["unet"](torch.cat([image, image], 1), batch.timesteps[0], text)
        decode_latents(networks.vae, image[: decoded_at_once(*image.shape[-2:])])
    return ledger.peak


def device_memory(device: torch.device) -> int | None:
    """Bytes of a CUDA device's memory, None elsewhere."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None


def synchronize(device: torch.device) -> None:
    """Wait until everything asked of a device is done, so that clocks mean something."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def announce(
    config: TrainConfig, model: CheckpointConfig, accelerator: Accelerator, trial: Callable[[], None], steps_left: int
) -> None:
    """Say before the first step what is going to be needed: memory, and time by a trial pass of one micro-batch."""
    if accelerator.is_main_process:
        _announce_memory(config, model, accelerator)
    seconds = _seconds(trial, accelerator, config.compile) * config.gradient_accumulation
    left = timedelta(seconds=round(seconds * steps_left))
    accelerator.print(f"about {seconds:.2f} s a step, {left} for what is left, without validation")


def _announce_memory(config: TrainConfig, model: CheckpointConfig, accelerator: Accelerator) -> None:
    try:
        need = estimate(config, model, accelerator.num_processes)
    except Exception as error:  # it counts by means that PyTorch changes; training goes on without
        tqdm.write(f"no memory estimate with PyTorch {torch.__version__}: {type(error).__name__}: {error}")
        return
    tqdm.write(need.describe())
    device = accelerator.device
    if (there := device_memory(device)) and there < need.peak:
        tqdm.write(f"WARNING: {device} has {there / GIB:.2f} GiB. {SAVING}")


def _seconds(trial: Callable[[], None], accelerator: Accelerator, first_is_special: bool) -> float:
    """Seconds of a trial pass: encoding without the cache, forward and backward pass of one micro-batch.

    The first pass is slow, so a second one counts; one that takes long on a CPU is not worth it, unless it compiled. Several
    processes have to make as many passes as each other, whatever their clocks say.
    """
    device = accelerator.device
    for _ in range(2):
        synchronize(device)
        started = time.perf_counter()
        trial()
        synchronize(device)
        seconds = time.perf_counter() - started
        if not first_is_special and accelerator.num_processes == 1 and device.type == "cpu" and seconds > WORTH_REPEATING:
            break
    return seconds
