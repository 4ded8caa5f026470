"""The painting graphs for SD 1.5 inpainting, SDXL and Flux Fill, with random files of those very architectures.

Each runs as the page converts it (tests/browser/test_page.py compares the conversion), in a ComfyUI of its own, on the 128-pixel
photo it comes with. Only the sampler's steps are fewer, and T5 reads fewer tokens. The files are full-size, but for Flux Fill's
depth and T5's fp8 (tests/big_checkpoints.py), and are deleted with the ComfyUI's folder.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import time

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import dev
from tests import big_checkpoints
from tests.big_checkpoints import ModelFile
from tools import demo
from tools.api import Client, to_prompt

from .conftest import node

GIB = 2**30
MEMORY = 9 * GIB
STEPS = 2
PATIENCE = 240
SPECIES = {"inpaint_sd15": ("EPS", 4), "inpaint_sdxl": ("EPS", 4), "inpaint_flux_fill": ("FLUX", 16)}  # latent channels
COMPLAINT = re.compile(r"(unet|clip) (missing|unexpected)|(Missing|Leftover) VAE keys|left over keys")
FILLED_IN = ("logit_scale", "text_projection.weight")  # ComfyUI makes them for a CLIP-L: no file has them
FLAGS = ["--verbose", "DEBUG", "--fp16-unet"]  # SDXL in the fp32 that a CPU would get takes 10 GiB


@pytest.fixture
def comfy(install, process, lacking):
    """A ComfyUI of this test's own that tells everything; call with files to put among its models first."""
    folder = dev.make_folder(dev.CACHE)
    free, memory = shutil.disk_usage(folder).free, memory_within(PATIENCE if process else 0)
    if memory < MEMORY:
        lacking(f"{MEMORY / GIB:.0f} GiB of free memory are needed, {memory / GIB:.1f} GiB are there")
    with dev.running_host(install, "test-big", extra=FLAGS) as host:

        def put(files: list[ModelFile]) -> dev.Host:
            needed = sum(file.size for file in files) + GIB
            if free < needed:
                lacking(f"{needed / GIB:.0f} GiB of free disk are needed in {folder}, {free / GIB:.1f} GiB are there")
            for file in files:
                big_checkpoints.write(file, host.base / "models")
            return host

        yield put


def memory_within(seconds: float) -> int:
    """Free bytes, once there are enough of them or the time is over: another test process may give some back."""
    deadline = time.monotonic() + seconds
    while (free := psutil.virtual_memory().available) < MEMORY and time.monotonic() < deadline:
        time.sleep(1)
    return free


def complaints(host: dev.Host) -> list[str]:
    """Names of the weights that ComfyUI missed, or found no place for."""
    lines = [line for line in host.log.read_text(encoding="utf-8").splitlines() if COMPLAINT.search(line)]
    return [name for line in lines for name in re.findall(r"'([\w.]+)'", line) if not name.endswith(FILLED_IN)]


def with_short_texts(prompt: dict) -> dict:
    """The prompt with T5 reading the text's own tokens instead of 256: most of the work on a CPU."""
    added = {}
    for content in prompt.values():
        loader = content["inputs"].get("clip")
        if loader and prompt[loader[0]]["class_type"] == "DualCLIPLoader":
            added["short"] = node("T5TokenizerOptions", clip=loader, min_padding=0, min_length=0)
            content["inputs"]["clip"] = ["short", 0]
    return prompt | added


class Painted:
    """A painting graph that has run: photo, soft (the feathered mask) and result, uint8 [H, W, 3]; latent [1, C, h, w]."""

    def __init__(self, client: Client, host: dev.Host, name: str):
        graph = json.loads((dev.ROOT / "workflows" / f"{name}.json").read_text(encoding="utf-8"))
        self.prompt = with_short_texts(to_prompt(graph, client.object_info()))
        self.prompt[demo.node_of(self.prompt, "KSampler")]["inputs"]["steps"] = STEPS
        painted, soft = (demo.node_of(self.prompt, kind) for kind in ("KSampler", "ImageToMask"))
        self.prompt["mask"] = node("MaskPreview", mask=[soft, 0])
        self.prompt["latent"] = node("SaveLatent", samples=[painted, 0], filename_prefix="painted")
        run = client.run(self.prompt)
        self.photo = np.asarray(Image.open(demo.SCENES / self._input("LoadImage", "image")).convert("RGB"))
        self.soft, self.result = (
            np.asarray(Image.open(io.BytesIO(client.picture(run.outputs[key]["images"][0]))).convert("RGB"))
            for key in ("mask", demo.node_of(self.prompt, "SaveImage"))
        )
        [file] = (host.base / "output").glob("painted*.latent")
        self.latent = load_file(file)["latent_tensor"]

    def _input(self, kind: str, name: str) -> str:
        return self.prompt[demo.node_of(self.prompt, kind)]["inputs"][name]


@pytest.mark.parametrize("name", big_checkpoints.FILES)
def test_graph_paints_only_inside_the_mask_and_the_log_lacks_no_weight(comfy, name):
    host = comfy(big_checkpoints.FILES[name]())
    with Client(host.url) as client:
        done = Painted(client, host, name)
    kind, channels = SPECIES[name]
    assert complaints(host) == [] and f"model_type {kind}" in host.log.read_text(encoding="utf-8")
    assert done.latent.shape == (1, channels, 16, 16)
    assert torch.isfinite(done.latent).all() and done.latent.std() > 0.1
    assert done.result.shape == done.photo.shape == done.soft.shape == (128, 128, 3)
    outside, inside = done.soft.max(-1) == 0, done.soft.min(-1) == 255
    changed = np.abs(done.result.astype(int) - done.photo).max(-1)
    assert outside.mean() > 0.5 and changed[outside].max() <= 1, "less than half a grey level of mask is left out of the preview"
    assert inside.sum() > 100 and changed[inside].mean() > 10 and done.result[inside].std() > 1


def test_the_log_tells_of_every_weight_that_lacks_or_is_not_known(comfy):
    """The check above would see it: one weight of each network of a checkpoint under a wrong name."""
    [file] = big_checkpoints.sd15_inpainting()
    last = {name.split(".")[0]: name for name in file.shapes}.values()  # of U-Net, text encoder and VAE
    wrong = {f"{name}x" if name in last else name: shape for name, shape in file.shapes.items()}
    host = comfy([file._replace(shapes=wrong)])
    loader = node("CheckpointLoaderSimple", ckpt_name="sd-v1-5-inpainting.ckpt")
    with Client(host.url) as client:
        client.run({"1": loader, "2": node("PreviewAny", source=["1", 2])})
    told = complaints(host)
    assert len(told) == 2 * len(last) == 6
    for ending in (".".join(name.split(".")[-2:]) for name in last):
        assert any(name.endswith(ending) for name in told) and any(name.endswith(f"{ending}x") for name in told)
