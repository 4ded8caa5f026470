"""Every example graph runs in the real ComfyUI and its pictures hold what they should.

Run here as the page converts them (tools.api.to_prompt; tests/browser compares it with the page's own conversion). The
graphs for SD 1.5, SDXL and Flux Fill paint with the bundled base here, in their loaders' place; test_big_checkpoints.py runs them
as they are.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

import dev
from tools import demo
from tools.api import to_prompt
from tools.graphs import AERIAL, AERIAL_TEXT, BIG, CLIP_TEXT, PAINT, PAINTING, SCENE, THINGS
from tools.layout import growth
from train.data.config import load_data
from train.data.folder import FolderSource

FOLDER = dev.ROOT / "workflows"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))


def graph_of(name: str) -> dict:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


class Finished:
    """A graph that has run: its prompt, and pictures by node class."""

    def __init__(self, client, name: str):
        self.client, self.prompt = client, to_prompt(graph_of(name), client.object_info())
        self.run = client.run(self.prompt)

    def pictures(self, kind: str, nth: int = 0) -> list[Image.Image]:
        nodes = [node for node, content in self.prompt.items() if content["class_type"] == kind]
        return [Image.open(io.BytesIO(self.client.picture(entry))) for entry in self.run.outputs[nodes[nth]]["images"]]

    def array(self, kind: str, nth: int = 0) -> np.ndarray:
        """The first picture as uint8 [H, W, 3]."""
        return np.asarray(self.pictures(kind, nth)[0].convert("RGB"))

    def text(self, nth: int = 0) -> str:
        nodes = [node for node, content in self.prompt.items() if content["class_type"] == "PreviewAny"]
        return self.run.outputs[nodes[nth]]["text"][0]


@pytest.fixture
def finished(client):
    return lambda name: Finished(client, name)


def photo(name: str) -> np.ndarray:
    return np.asarray(Image.open(demo.SCENES / name).convert("RGB"))


def truth(name: str) -> np.ndarray:
    scene = next(scene for scene in demo.load_scenes() if scene.image == SCENE)
    entry = next(entry for entry in scene.prompts if entry["prompt"] == name)
    return demo.true_mask(entry, (128, 128))


def widened(mask: np.ndarray, radius: int) -> np.ndarray:
    """Everything within `radius` pixels of the mask, in a square."""
    padded = np.pad(mask, radius)
    reach = range(-radius, radius + 1)
    near = np.any([np.roll(padded, (dy, dx), (0, 1)) for dy in reach for dx in reach], axis=0)
    return near[radius:-radius, radius:-radius]


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return (a & b).sum() / max(1, (a | b).sum())


@pytest.mark.parametrize("name", NAMES)
def test_every_graph_has_a_thumbnail_notes_groups_and_no_overlap(name):
    graph = graph_of(name)
    with Image.open(FOLDER / f"{name}.jpg") as thumbnail:
        assert min(thumbnail.size) >= 256
    assert (FOLDER / f"{name}.jpg").stat().st_size < 150_000
    assert [node for node in graph["nodes"] if node["type"] == "MarkdownNote"] and len(graph["groups"]) >= 3
    boxes = [(*node["pos"], node["size"][0], node["size"][1] + growth(node)) for node in graph["nodes"]]  # as large as they get
    for i, (ax, ay, aw, ah) in enumerate(boxes):
        for bx, by, bw, bh in boxes[:i]:
            apart = ax >= bx + bw or bx >= ax + aw or ay - 30 >= by + bh or by - 30 >= ay + ah
            assert apart, f"{graph['nodes'][i]['type']} lies over another node"
        around = [box for box in (group["bounding"] for group in graph["groups"]) if inside((ax, ay, aw, ah), box)]
        assert len(around) == 1, f"{graph['nodes'][i]['type']} is in {len(around)} groups"


def inside(node: tuple, group: list) -> bool:
    """Whether a node, (x, y, width, height), is wholly within a group's frame."""
    return all(group[k] <= node[k] and node[k] + node[k + 2] <= group[k] + group[k + 2] for k in (0, 1))


@pytest.mark.parametrize("name", NAMES)
def test_links_fit_the_sockets(name, object_info):
    graph = graph_of(name)
    nodes = {node["id"]: node for node in graph["nodes"]}
    for number, source, slot, target, entry, kind in graph["links"]:
        assert nodes[source]["outputs"][slot]["type"] == kind and number in nodes[source]["outputs"][slot]["links"]
        assert nodes[target]["inputs"][entry]["link"] == number
        assert kind == nodes[target]["inputs"][entry]["type"] or nodes[target]["inputs"][entry]["type"] == "*"
    assert {node["type"] for node in graph["nodes"]} <= set(object_info) | {"MarkdownNote"}


def test_semantic_map(finished):
    done = finished("semantic_map")
    table = dict(line.split("\t")[1:] for line in done.text().splitlines())
    assert list(table) == list(THINGS)
    ids = done.array("PreviewImage")[..., 0]
    assert ids.shape == (128, 128) and set(np.unique(ids)) <= set(range(len(THINGS) + 1))
    found = [iou(ids == number + 1, truth(name)) for number, name in enumerate(THINGS)]
    assert np.mean(found) > 0.5
    shares = [float(table[name].split()[0]) / 100 for name in THINGS]
    assert shares == pytest.approx([(ids == number + 1).mean() for number in range(len(THINGS))], abs=1e-3)
    assert done.array("DiGSegSemanticMap").shape[1] > 128, "no legend"


def test_cutout(finished):
    done = finished("cutout")
    cut = np.asarray(done.pictures("SaveImage")[0])
    assert cut.shape == (128, 128, 4)
    wanted = np.any([truth(name) for name in THINGS], axis=0)
    assert iou(cut[..., 3] > 127, wanted) > 0.5
    pasted, other = done.array("PreviewImage").astype(int), photo("scene-3.png").astype(int)
    outside = cut[..., 3] == 0
    assert outside.any() and np.abs(pasted - other)[outside].max() <= 1
    inside = cut[..., 3] >= 250  # a blurred 1 comes back as 254 of 255: at most 5 parts of the background shine through
    assert inside.any() and np.abs(pasted - photo(SCENE).astype(int))[inside].max() <= 6


def test_inpaint_demo(finished):
    done = finished("inpaint_demo")
    result, before = done.array("SaveImage").astype(int), photo(PAINT).astype(int)
    mask = done.array("DiGSegPickMask")[..., 0] > 127
    assert not np.abs(result - before)[~widened(mask, 6)].any(), "the photo changed outside the mask"
    change = (result - before)[mask].mean(0)
    assert change[2] > 20 > -20 > change[0], "red did not become blue"
    assert float(done.text()) > 0.3


def test_uncertainty(finished):
    done = finished("uncertainty")
    unsure = done.array("MaskPreview")[..., 0]
    assert unsure.shape == (128, 128) and 0 < (unsure > 40).mean() < 0.6
    edge = np.zeros((128, 128), bool)
    for name in THINGS:
        mask = truth(name)
        edge |= np.roll(mask, 2, 0) ^ np.roll(mask, -2, 0) | np.roll(mask, 2, 1) ^ np.roll(mask, -2, 1)
    assert unsure[edge].mean() > unsure[~edge].mean(), "contours are where members disagree"
    assert done.array("PreviewImage").shape == (480, 720, 3)


def test_video(finished, host):
    done = finished("video")
    masks = [np.asarray(picture.convert("L")) > 127 for picture in done.pictures("DiGSegPickMask")]
    assert len(masks) == 24 and all(mask.any() for mask in masks)
    centre = [float(np.nonzero(mask)[1].mean()) for mask in masks]
    assert centre[-1] - centre[0] > 40 and np.diff(centre).min() > -3, "the circle moves to the right"
    saved = sorted((host.base / "output" / "digseg").glob("matte*.mp4"))[-1]
    with av.open(str(saved)) as file:
        assert sum(1 for _ in file.decode(video=0)) == 24 and round(float(file.streams.video[0].average_rate)) == 12


def test_tiles_find_small_things_that_the_whole_image_misses(finished):
    done = finished("tiled_aerial")
    assert photo(AERIAL).shape == (512, 512, 3)
    whole, tiled = (done.array("DiGSegSemanticMap", nth)[:, :512] for nth in (0, 1))
    changed = [(np.abs(shown.astype(int) - photo(AERIAL)).max(-1) > 25).mean() for shown in (whole, tiled)]
    assert 0.02 < changed[1] < 0.2, "18 of 36 objects cover about 6 % of the picture"
    assert tiled.shape == (512, 512, 3)


def test_objects_are_counted_right(finished):
    done = finished("count_objects")
    rows = json.loads(done.text(1))
    assert done.text() == "18" and Counter(row["label"] for row in rows) == dict.fromkeys(AERIAL_TEXT.splitlines(), 6)
    assert len(done.pictures("PreviewImage")) == 3


def test_a_corrected_mask_becomes_a_training_pair(finished, host):
    done = finished("teach")
    [config] = load_data(Path(done.text())).split("train")
    source = FolderSource(config)
    sample = source.sample(0)
    assert np.array_equal(sample.image, photo("red_circle.png"))
    with Image.open(demo.SCENES / "corrected.png") as picture:
        marked = np.asarray(picture)[..., 3] == 0
    assert [(query.name, np.array_equal(query.mask, marked)) for query in sample.queries] == [("red circle", True)]
    assert Path(done.text()).is_relative_to(host.base / "output" / "digseg-data")


def test_nuclei_are_counted(finished):
    """On a stain the model never saw: what it finds is bluer than the rest, and no speck."""
    done = finished("nuclei")
    split = next(node for node, content in done.prompt.items() if content["class_type"] == "DiGSegSplitObjects")
    table = json.loads(done.text(1))
    assert 25 <= int(done.text(0)) == len(table) <= 100
    picture = photo("tissue.png").astype(int)
    done.prompt["mask"] = {"class_type": "MaskPreview", "inputs": {"mask": [split, 0]}}
    run = done.client.run(done.prompt)
    shown = [
        np.asarray(Image.open(io.BytesIO(done.client.picture(entry))).convert("L")) for entry in run.outputs["mask"]["images"]
    ]
    mask, blueness = np.max(shown, 0) > 127, picture[..., 2] - picture[..., 0]
    assert 0.03 < mask.mean() < 0.2 and blueness[mask].mean() > blueness[~mask].mean() + 20


def test_stock_samplers_find_the_same(finished):
    done = finished("stock_sampler")
    custom, plain = (done.array("DiGSegPickMask", nth)[..., 0] > 127 for nth in (0, 1))
    assert iou(custom, truth(THINGS[0])) > 0.4 and iou(plain, custom) > 0.8


@pytest.mark.parametrize("name", BIG)
def test_graphs_of_big_models_lack_nothing_but_their_checkpoints(name, object_info, client):
    """ComfyUI accepts everything in them but the names of the checkpoint files, which their notes name."""
    graph = graph_of(name)
    prompt = to_prompt(graph, object_info)
    notes = next(node for node in graph["nodes"] if node["type"] == "MarkdownNote")["widgets_values"][0]
    files = [
        value
        for content in prompt.values()
        for value in content["inputs"].values()
        if isinstance(value, str) and value.endswith((".safetensors", ".ckpt")) and "digseg" not in value
    ]
    assert files and all(file in notes for file in files)


LOADERS = {"CheckpointLoaderSimple": (0, 1, 2), "UNETLoader": (0,), "DualCLIPLoader": (1,), "VAELoader": (2,)}


def with_base(prompt: dict) -> dict:
    """The prompt with its loaders of big checkpoints exchanged by Load DiGSeg Base, and fewer steps."""
    slots = {node: LOADERS[content["class_type"]] for node, content in prompt.items() if content["class_type"] in LOADERS}
    kept = {node: content for node, content in prompt.items() if node not in slots}
    for content in kept.values():
        for key, value in content["inputs"].items():
            if isinstance(value, list) and value[0] in slots:
                content["inputs"][key] = ["base", slots[value[0]][value[1]]]
        if content["class_type"] == "KSampler":
            content["inputs"]["steps"] = 4
    kept["base"] = {"class_type": "DiGSegBaseLoader", "inputs": {"checkpoint": "digseg-demo-base.safetensors"}}
    return kept


def test_a_tracker_gets_one_mask_an_object_of_the_first_frame(client):
    """The tracker is tests/standins' here, where what it is given stands still."""
    prompt = with_base(to_prompt(graph_of("video_track"), client.object_info()))
    objects, track, union, video = (
        next(node for node, content in prompt.items() if content["class_type"] == kind)
        for kind in ("DiGSegSplitObjects", "SAM3_VideoTrack", "SAM3_TrackToMask", "SaveVideo")
    )
    assert prompt[track]["inputs"]["initial_mask"] == [objects, 0]
    prompt["count"] = {"class_type": "PreviewAny", "inputs": {"source": [objects, 6]}}
    prompt["masks"] = {"class_type": "MaskPreview", "inputs": {"mask": [objects, 0]}}
    prompt["last"] = {"class_type": "MaskPreview", "inputs": {"mask": [union, 0]}}
    run = client.run(prompt)

    def pictures(node: str) -> list[np.ndarray]:
        return [np.asarray(Image.open(io.BytesIO(client.picture(entry))).convert("L")) for entry in run.outputs[node]["images"]]

    masks, frames = pictures("masks"), pictures("last")
    assert run.outputs["count"]["text"] == [str(len(masks))] and len(masks) == len(CLIP_TEXT.splitlines())
    assert len(frames) == 24 and np.array_equal(frames[-1], np.max(masks, 0)) and frames[-1].any()
    assert run.outputs[video]["images"][0]["filename"].endswith(".mp4")


@pytest.mark.parametrize("name", PAINTING)
def test_inpainting_graphs_paint_only_inside_the_mask(name, client):
    prompt = with_base(to_prompt(graph_of(name), client.object_info()))
    run = client.run(prompt)
    ids = {content["class_type"]: node for node, content in prompt.items()}

    def picture(kind: str) -> np.ndarray:
        entry = run.outputs[ids[kind]]["images"][0]
        return np.asarray(Image.open(io.BytesIO(client.picture(entry))).convert("RGB")).astype(int)

    changed = np.abs(picture("SaveImage") - photo(PAINT)).max(-1)
    mask = picture("DiGSegPickMask")[..., 0] > 127
    assert not changed[~widened(mask, 10)].any() and changed[mask].mean() > 5
