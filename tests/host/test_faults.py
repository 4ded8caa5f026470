"""The device runs out of memory, or somebody presses stop, at every stage: words, nothing left behind, and the next try works.

A node of a second pack arms the fault: torch's own error is raised inside ComfyUI, where the stage's work would be done.
"""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

import dev
from tests.node_packs import packs_in
from tools.api import Client, RunError, RunInterrupted

from .conftest import CHECKPOINT, LOADER, SEGMENT, Graph, coverage_of, node

LORA = "fault-lora"
FAULTS = '''
import functools, gc, sys
import comfy.ldm.models.autoencoder, comfy.model_management as mm, comfy.model_patcher, comfy.sample, comfy.sd, comfy.utils
import torch

ARMED = {"stage": "", "kind": "", "times": 0}

def strike(stage):
    if ARMED["stage"] == stage and ARMED["times"]:
        ARMED["times"] -= 1
        if ARMED["kind"] == "memory":
            raise mm.OOM_EXCEPTION("out of memory: armed")
        mm.interrupt_current_processing()

def watch(owner, name, stage):
    inner = getattr(owner, name)
    @functools.wraps(inner)
    def watched(*args, **values):
        strike(stage)
        return inner(*args, **values)
    setattr(owner, name, watched)

watch(comfy.utils, "load_torch_file", "load")
watch(comfy.sd.CLIP, "encode_from_tokens", "text")
watch(comfy.sd.VAE, "encode", "encode")
watch(comfy.sample, "sample_custom", "sample")
watch(comfy.model_patcher.ModelPatcher, "patch_weight_to_device", "lora")
watch(comfy.ldm.models.autoencoder.AutoencodingEngineLegacy, "decode", "vae network")

def late():
    """Our own modules are there once their nodes are."""
    segment = next(m for n, m in sys.modules.items() if n.endswith("digseg_nodes.nodes.segment"))
    host = next(m for n, m in sys.modules.items() if n.endswith("digseg_nodes.host"))
    if not hasattr(segment.draw_overlay, "__wrapped__"):
        watch(segment, "draw_overlay", "overlay")
        watch(host.HostMaskDecoder, "logits", "guided")
        watch(host, "decode", "decode")

class ArmFault:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"stage": ("STRING",), "fault": ("STRING",), "times": ("INT", {"max": 99}), "unique": ("INT",)}}
    RETURN_TYPES = ("STRING",)
    FUNCTION, CATEGORY, OUTPUT_NODE = "go", "fault", True
    def go(self, stage, fault, times, unique):
        late()
        ARMED.update(stage=stage, kind=fault, times=times)
        gc.collect()
        held = sum(t.nbytes for t in gc.get_objects() if type(t) in (torch.Tensor, torch.nn.Parameter))
        return {"ui": {"text": [str(held), str(ARMED["times"])]}, "result": (str(held),)}

NODE_CLASS_MAPPINGS = {"ArmFault": ArmFault}
'''
STAGES = ("load", "text", "encode", "sample", "guided", "decode", "overlay", "lora")


@pytest.fixture(scope="module")
def faulty(install, process, tmp_path_factory):
    """A ComfyUI with the node that arms faults, and a LoRA."""
    folder = tmp_path_factory.mktemp("faults")
    (folder / "nodes" / "fault").mkdir(parents=True)
    (folder / "nodes" / "fault" / "__init__.py").write_text(FAULTS, encoding="utf-8")
    extra = [*packs_in(folder / "nodes", folder / "paths.yaml"), "--cache-none"]
    with dev.running_host(install, f"test-faults{process}", extra=extra) as running:
        (running.base / "models/loras").mkdir(parents=True, exist_ok=True)
        save_file(lora_tensors(), running.base / f"models/loras/{LORA}.safetensors")
        yield running


def lora_tensors() -> dict[str, torch.Tensor]:
    """A LoRA of rank 1 on one layer of the demo model."""
    weights = load_file(dev.ROOT / "digseg_nodes/models" / CHECKPOINT)
    name = next(key for key in weights if key.startswith("unet.") and key.endswith("attn1.to_q.weight"))
    layer = "lora_unet_" + name.removeprefix("unet.").removesuffix(".weight").replace(".", "_")
    high, wide = weights[name].shape
    return {f"{layer}.lora_down.weight": torch.ones(1, wide) / wide, f"{layer}.lora_up.weight": torch.ones(high, 1) / 10}


@pytest.fixture(scope="module")
def faulty_client(faulty):
    with Client(faulty.url) as connected:
        yield connected


def graph_of(stage: str, scene, present: str) -> dict:
    """A run that passes the stage."""
    graph = Graph(scene.image, present).change(SEGMENT, decoder="vae" if stage == "decode" else "auto")
    graph.prompt["lora"] = node("DiGSegLoraLoader", model=[LOADER, 0], lora=f"{LORA}.safetensors", strength=1.0)
    return graph.change(SEGMENT, model=["lora", 0]).prompt


def arm(client: Client, stage: str, fault: str, times: int) -> int:
    """Arm a fault (or none); returns the bytes of all tensors that ComfyUI holds."""
    arm.count = getattr(arm, "count", 0) + 1
    run = client.run({"9": node("ArmFault", stage=stage, fault=fault, times=times, unique=arm.count)})
    return int(run.outputs["9"]["text"][0])


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("kind", ["memory", "stop"])
def test_a_fault_at_any_stage_leaves_nothing_and_the_next_try_works(faulty_client, scene, present, stage, kind):
    prompt = graph_of(stage, scene, present[0])
    arm(faulty_client, "", "", 0)
    expected = coverage_of(faulty_client.run(prompt))
    before = arm(faulty_client, stage, kind, 50)
    with pytest.raises((RunError, RunInterrupted), match=r"memory|stopped in"):
        faulty_client.run(prompt)
    after = arm(faulty_client, "", "", 0)
    assert expected > 0 and coverage_of(faulty_client.run(prompt)) == expected
    assert after <= 1.02 * before + 2**20


def test_memory_that_comes_back_after_one_failure_is_used(faulty_client, scene, present):
    """One decode fails: the work goes on in smaller pieces, with nearly the same mask."""
    prompt = graph_of("decode", scene, present[0])
    arm(faulty_client, "", "", 0)
    expected = coverage_of(faulty_client.run(prompt))
    arm(faulty_client, "vae network", "memory", 1)
    assert coverage_of(faulty_client.run(prompt)) == pytest.approx(expected, abs=0.01)
