# ruff: noqa: E501 - tables with a row a line
"""Anything wired into a node: words that name the input, and the next prompt works. Wires skip ComfyUI's own checks."""

from __future__ import annotations

import pytest

import dev
from tests.node_packs import packs_in
from tools.api import Client, RunError

from .conftest import LOADER, PHOTO, PICK, SEGMENT, Graph, coverage_of, node

ODD = """
import torch

class Anything(str):
    def __ne__(self, other):
        return False

MAKE = {
    "none": lambda: None, "list": lambda: [1, 2], "dict": lambda: {"a": 1}, "text": lambda: "abc", "minus": lambda: -1,
    "zero": lambda: 0, "one": lambda: 1, "half": lambda: 0.5, "huge": lambda: 10**30, "true": lambda: True,
    "nan": lambda: float("nan"), "inf": lambda: float("inf"), "up": lambda: "../../../secret", "passwd": lambda: "/etc/passwd",
    "windows": lambda: "C:\\\\\\\\secret.txt", "nul": lambda: "a\\0b", "surrogate": lambda: "a\\ud800b", "long": lambda: "x" * 2_000_000,
    "sparse": lambda: torch.zeros(1, 8, 8, 3).to_sparse(), "nan image": lambda: torch.full((1, 64, 64, 3), float("nan")),
    "inf image": lambda: torch.full((1, 64, 64, 3), float("inf")), "bytes": lambda: torch.zeros(1, 64, 64, 3, dtype=torch.uint8),
    "no batch": lambda: torch.zeros(64, 64, 3), "no frames": lambda: torch.zeros(0, 64, 64, 3),
    "no height": lambda: torch.zeros(1, 0, 64, 3), "five channels": lambda: torch.zeros(1, 64, 64, 5),
    "two channels": lambda: torch.zeros(1, 64, 64, 2), "yes and no": lambda: torch.ones(1, 64, 64, 3, dtype=torch.bool), "sparse mask": lambda: torch.zeros(1, 64, 64).to_sparse(),
    "nan mask": lambda: torch.full((1, 64, 64), float("nan")), "byte mask": lambda: torch.full((1, 64, 64), 200, dtype=torch.uint8),
    "noise mask": lambda: (torch.rand(1, 256, 256, generator=torch.Generator().manual_seed(0)) > 0.6).float(),
    "no samples": lambda: {"noise_mask": None}, "list samples": lambda: {"samples": [1]},
    "video latent": lambda: {"samples": torch.zeros(1, 4, 1, 8, 8)}, "nan latent": lambda: {"samples": torch.full((1, 4, 8, 8), float("nan"))},
    "sparse latent": lambda: {"samples": torch.zeros(1, 4, 8, 8).to_sparse()},
    "flat sigmas": lambda: torch.ones(2, 2), "no sigmas": lambda: torch.zeros(2), "rising sigmas": lambda: torch.tensor([5.0, 0, 1, 0]),
    "nan sigmas": lambda: torch.tensor([float("nan"), 0]), "negative sigmas": lambda: torch.tensor([3.0, -1.0]),
    "latent": lambda: {"samples": torch.zeros(1, 4, 8, 8)}, "tensor": lambda: torch.zeros(3),
}

class OddValue:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"kind": (list(MAKE),)}}
    RETURN_TYPES = (Anything("*"),)
    FUNCTION = "go"
    CATEGORY = "odd"
    def go(self, kind):
        return (MAKE[kind](),)

NODE_CLASS_MAPPINGS = {"OddValue": OddValue}
"""

IMAGES = {
    "none": "image is a NoneType", "list": "image is a list", "text": "image is a str", "dict": "image is a dict",
    "tensor": "image has the shape", "sparse": "a sparse tensor", "nan image": r"no numbers \(NaN or infinite\)",
    "inf image": r"no numbers \(NaN or infinite\)", "bytes": "torch.uint8 values", "yes and no": "torch.bool values", "no batch": "image has the shape",
    "no frames": "none of them empty", "no height": "none of them empty", "five channels": "image has the shape",
}  # fmt: skip
NUMBERS = {
    "steps": "steps is .*; use a whole number from 0 to 1000", "ensemble": "ensemble is .*; use a whole number from 1 to 64",
    "seed": "seed is .*; use a whole number from 0 to 18446744073709551615", "tile": "tile is .*; use a whole number from 0 to 8192",
    "resolution": "resolution is .*; use a whole number from 0 to 4096",
}  # fmt: skip
TEXTS = {
    "none": "text is None; use a text", "list": "text is a list; use a text", "one": "text is 1; use a text", "tensor": "use a text",
    "surrogate": "without halves of letters", "long": "a text of up to 1000000 letters",
}  # fmt: skip
PATHS = ("up", "passwd", "windows", "nul", "none", "list", "one")
ROWS = [
    *((SEGMENT, "image", kind, words) for kind, words in IMAGES.items()),
    *((SEGMENT, name, kind, words) for name, words in NUMBERS.items() for kind in ("minus", "half", "nan", "text", "none", "huge", "true")),
    *((SEGMENT, "threshold", kind, "threshold is .*; use a number from 0.0 to 1.0") for kind in ("minus", "nan", "inf", "huge", "text", "list")),
    *((SEGMENT, "uncertainty", kind, "use true or false") for kind in ("one", "text", "none")),
    *((SEGMENT, "text", kind, words) for kind, words in TEXTS.items()),
    *((SEGMENT, "model", kind, "paints pictures, it cannot segment|no MODEL|model") for kind in ("none", "text", "dict")),
    *((SEGMENT, "vae", kind, "VAE") for kind in ("none", "text", "dict")),
    *((SEGMENT, "clip", kind, "CLIP") for kind in ("none", "text", "dict")),
    *((LOADER, "checkpoint", kind, "There is no checkpoint|use a name of the list") for kind in PATHS),
    *((LOADER, "mask_target", kind, "use one of: auto, binary, overlay") for kind in ("text", "list", "one", "up")),
    *((PICK, "mode", kind, "mode is .*; use one of: ") for kind in ("text", "none", "list", "one")),
    *((PICK, "masks", kind, "use DIGSEG_MASKS of DiGSeg Segment") for kind in ("none", "text", "dict", "tensor", "latent")),
    *((PICK, "names", kind, "names is .*use a text") for kind in ("none", "list", "tensor")),
    *(("presets", "preset", kind, "preset is .*; use one of: none") for kind in PATHS),
]  # fmt: skip


@pytest.fixture(scope="module")
def odd_host(install, process, tmp_path_factory):
    """A ComfyUI with a node that gives out anything."""
    folder = tmp_path_factory.mktemp("odd")
    (folder / "nodes" / "odd").mkdir(parents=True)
    (folder / "nodes" / "odd" / "__init__.py").write_text(ODD, encoding="utf-8")
    extra = packs_in(folder / "nodes", folder / "paths.yaml")
    with dev.running_host(install, f"test-odd{process}", extra=extra) as running:
        yield running


@pytest.fixture(scope="module")
def odd_client(odd_host):
    with Client(odd_host.url) as connected:
        yield connected


@pytest.fixture(scope="module")
def odd_graph(scene) -> Graph:
    """A short run; a second branch encodes prompts from a class list."""
    present = next(entry["prompt"] for entry in scene.prompts if entry["mask"])
    graph = Graph(scene.image, present)
    graph.prompt["presets"] = node("DiGSegPrompts", clip=[LOADER, 1], text=present, preset="none")
    graph.prompt["shown"] = node("PreviewAny", source=["presets", 0])
    return graph


def test_the_graph_without_odd_values_runs(odd_client, odd_graph):
    assert coverage_of(odd_client.run(odd_graph.prompt)) > 0


@pytest.mark.parametrize(("at", "name", "kind", "words"), ROWS, ids=[f"{row[1]}-{row[2]}" for row in ROWS])
def test_an_odd_value_is_named(odd_client, odd_graph, at, name, kind, words):
    changed = odd_graph.change(at, **{name: ["odd", 0]})
    changed.prompt["odd"] = {"class_type": "OddValue", "inputs": {"kind": kind}}
    with pytest.raises(RunError, match=words) as refused:
        odd_client.run(changed.prompt)
    assert "Traceback" not in str(refused.value)


IMAGE_KINDS = (*IMAGES, "one", "two channels")
MASK_WORDS = {
    "sparse mask": "a sparse tensor",
    "nan mask": "no numbers",
    "byte mask": "uint8 values",
    "text": "is a str",
    "dict": "is a dict",
}
SIGMA_WORDS = {
    "one": "SIGMAS is a int", "list": "SIGMAS is a list", "text": "SIGMAS is a str", "flat sigmas": "SIGMAS has the shape",
    "no sigmas": "begin above 0", "rising sigmas": "never rise", "nan sigmas": "no numbers", "negative sigmas": "not go below 0",
}  # fmt: skip
LATENT_WORDS = {
    "none": "LATENT is a NoneType", "text": "LATENT is a str", "list": "LATENT is a list", "no samples": "has no samples",
    "list samples": "LATENT holds samples", "video latent": r"\(1, 4, 1, 8, 8\)", "nan latent": "no numbers", "sparse latent": "a sparse tensor",
}  # fmt: skip
WIRES = [
    *(("DiGSegSplitObjects", "image", kind, "[Tt]he image (is a|has the shape|holds)") for kind in IMAGE_KINDS if kind != "none"),
    *(("DiGSegSavePair", "image", kind, "[Tt]he image (is a|has the shape|holds)") for kind in IMAGE_KINDS),
    *((name, wire, kind, words) for name, wire in (("DiGSegSplitObjects", "mask"), ("DiGSegCompareMasks", "prediction")) for kind, words in MASK_WORDS.items()),
    ("DiGSegSplitObjects", "mask", "noise mask", "5000 at most"),
    *(("DiGSegSampler", "sigmas", kind, words) for kind, words in SIGMA_WORDS.items()),
    *(("DiGSegSampler", "sampler", kind, "SAMPLER of a node like KSamplerSelect") for kind in ("one", "text", "dict")),
    *(("DiGSegDecodeMasks", "masks", kind, words) for kind, words in LATENT_WORDS.items()),
    *(("DiGSegConditioning", "conditioning", kind, "CONDITIONING of CLIP Text Encode") for kind in ("none", "text", "list", "dict")),
    *(("DiGSegSemanticMap", "save_prefix", kind, words) for kind, words in {"long": "up to", "nul": "NUL", "list": "a text"}.items()),
]  # fmt: skip


def wired(scene_graph: Graph, name: str) -> Graph:
    """A node of class `name` as "tested", with everything it needs."""
    graph = scene_graph.change(PICK)
    nodes = graph.prompt
    del nodes["shown"], nodes["5"]
    nodes["encode"] = node("DiGSegEncodeImage", vae=[LOADER, 2], image=[PHOTO, 0], resolution=0, tile=0, mirror=False)
    nodes["sampler"] = node(
        "DiGSegSampler", model=[LOADER, 0], prompts=["presets", 0], image=["encode", 0], seed=0, steps=0, ensemble=1
    )
    nodes["text"] = node("CLIPTextEncode", clip=[LOADER, 1], text="red star")
    objects = {
        "names": "",
        "threshold": 0.0,
        "smallest": 0.0,
        "largest": 1.0,
        "fill_holes": 0.0,
        "close_gaps": 0,
        "connectivity": "4",
    }
    objects |= {
        "sort": "size",
        "keep": 0,
        "number": 0,
        "padding": 0,
        "crop_factor": 1.0,
        "if_empty": "empty mask",
        "mask": [PICK, 0],
    }
    made = {
        "DiGSegSplitObjects": objects,
        "DiGSegSavePair": {"image": [PHOTO, 0], "masks": [SEGMENT, 0], "class_name": "", "data_set": "odd", "threshold": 0.0, "pair_id": ""},
        "DiGSegCompareMasks": {"prediction": [PICK, 0], "truth": [PICK, 0], "threshold": 0.5, "tolerance": 2},
        "DiGSegSampler": nodes["sampler"]["inputs"],
        "DiGSegDecodeMasks": {"vae": [LOADER, 2], "masks": ["sampler", 0], "uncertainty": False, "decoder": "auto"},
        "DiGSegConditioning": {"conditioning": ["text", 0], "image": ["encode", 0], "name": "mask"},
        "DiGSegSemanticMap": {"masks": [SEGMENT, 0], "threshold": 0.0, "class_thresholds": "", "opacity": 0.5, "legend": True, "save_prefix": ""},
    }  # fmt: skip
    nodes["tested"] = node(name, **made[name])
    nodes["shown"] = node("PreviewAny", source=["tested", 0])
    return graph


@pytest.mark.parametrize("name", sorted({row[0] for row in WIRES}))
def test_the_graphs_of_the_wires_run(odd_client, odd_graph, name):
    assert "shown" in odd_client.run(wired(odd_graph, name).prompt).outputs


@pytest.mark.parametrize(("at", "name", "kind", "words"), WIRES, ids=[f"{row[0]}-{row[1]}-{row[2]}" for row in WIRES])
def test_an_odd_wire_is_named(odd_client, odd_graph, at, name, kind, words):
    changed = wired(odd_graph, at).change("tested", **{name: ["odd", 0]})
    changed.prompt["odd"] = {"class_type": "OddValue", "inputs": {"kind": kind}}
    with pytest.raises(RunError, match=words) as refused:
        odd_client.run(changed.prompt)
    assert "Traceback" not in str(refused.value)


def test_the_next_prompt_works_after_all_of_them(odd_client, odd_graph):
    assert coverage_of(odd_client.run(odd_graph.change(SEGMENT, seed=1).prompt)) > 0


def test_the_table_is_long_enough():
    assert len(ROWS) > 90 and len(WIRES) > 50 and {PHOTO} & {row[0] for row in ROWS} == set()
