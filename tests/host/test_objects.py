"""Objects, exclusion, lists and empty masks in a real ComfyUI, beside its own mask nodes."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image

from tools.api import Client, Run, RunError
from tools.graphs import SCENE, THINGS

from .conftest import COVERAGE, PHOTO, PICK, SEGMENT, Graph, node

SPLIT, TABLE, COUNT, SHOWN, EACH, BOXES = "40", "41", "42", "43", "44", "45"
ABSENT = "blue heart"
SETTINGS = {
    "names": "",
    "threshold": 0.0,
    "smallest": 0.001,
    "largest": 1.0,
    "fill_holes": 0.0,
    "close_gaps": 0,
    "connectivity": "8",
    "sort": "size",
    "keep": 0,
    "number": 0,
    "padding": 0,
    "crop_factor": 3.0,
}


def greys(client: Client, run: Run, which: str) -> np.ndarray:
    """What a node shows as uint8 [N, H, W]; nothing when it did not run."""
    shown = run.outputs.get(which, {}).get("images", [])
    return np.stack([np.asarray(Image.open(io.BytesIO(client.picture(entry))).convert("L")) for entry in shown])


def text(run: Run, which: str) -> str:
    return run.outputs[which]["text"][0]


def split(graph: Graph, **settings) -> dict:
    """The graph with Split Objects behind Segment, and everything it gives shown."""
    inputs = {"masks": [SEGMENT, 0], **SETTINGS, **settings}
    return graph.prompt | {
        SPLIT: node("DiGSegSplitObjects", **{key: value for key, value in inputs.items() if value is not None}),
        TABLE: node("PreviewAny", source=[SPLIT, 5]),
        COUNT: node("PreviewAny", source=[SPLIT, 6]),
        SHOWN: node("MaskPreview", mask=[SPLIT, 0]),
        EACH: node("MaskPreview", mask=[SPLIT, 1]),
        BOXES: node("PreviewAny", source=[SPLIT, 2]),
    }


def test_objects_agree_with_the_masks_they_come_from(client):
    graph = Graph(SCENE, "\n".join((*THINGS, ABSENT)))
    run = client.run(split(graph))
    rows, boxes = json.loads(text(run, TABLE)), json.loads(text(run, BOXES))
    assert [row["label"] for row in rows] == list(THINGS) and text(run, COUNT) == "4"
    masks = greys(client, run, SHOWN)
    assert masks.shape == (4, 128, 128) and np.array_equal(masks, greys(client, run, EACH)), "the list holds the batch"
    assert np.array_equal(masks.max(0), greys(client, run, PICK)[0])
    for mask, row, box in zip(masks, rows, boxes[0], strict=True):
        ys, xs = np.nonzero(mask)
        found = (xs.min(), ys.min(), xs.max() + 1 - xs.min(), ys.max() + 1 - ys.min())
        assert found == (row["x"], row["y"], row["width"], row["height"]) == (box["x"], box["y"], box["width"], box["height"])
        assert (box["label"], box["score"]) == (row["label"], row["score"]) and 0.5 < row["score"] <= 1


def test_any_mask_is_split_like_the_masks_of_prompts(client):
    graph = Graph(SCENE, "\n".join(THINGS))
    ours, theirs = (client.run(split(graph, **given)) for given in ({}, {"masks": None, "mask": [PICK, 0], "image": [PHOTO, 0]}))
    boxes = [
        {(row["x"], row["y"], row["width"], row["height"]) for row in json.loads(text(run, TABLE))} for run in (ours, theirs)
    ]
    assert {row["label"] for row in json.loads(text(theirs, TABLE))} == {"object"}
    assert len(boxes[0] & boxes[1]) >= 2, "things that touch another are one object in a union"
    with pytest.raises(RunError, match="Both masks and mask are connected"):
        client.run(split(graph, mask=[PICK, 0]))


@pytest.mark.parametrize(("if_empty", "level"), [("empty mask", 0), ("whole picture", 255), ("skip", None)])
def test_nothing_found_is_what_if_empty_says(client, if_empty, level):
    run = client.run(split(Graph(SCENE, ABSENT).change(PICK, if_empty=if_empty), if_empty=if_empty))
    assert text(run, COUNT) == "0" and json.loads(text(run, TABLE)) == [] and float(text(run, COVERAGE)) == 0
    if level is None:
        assert SHOWN not in run.outputs and EACH not in run.outputs and SPLIT in run.outputs
    else:
        for which in (SHOWN, EACH):
            masks = greys(client, run, which)
            assert masks.shape == (1, 128, 128) and (masks == level).all()


def test_skipped_nodes_do_not_run_behind_pick_mask(client):
    graph = Graph(SCENE, f"{THINGS[0]}\n{ABSENT}")
    for names, shown in ((ABSENT, False), (THINGS[0], True)):
        prompt = graph.change(PICK, names=names, if_empty="skip").prompt | {SHOWN: node("MaskPreview", mask=[PICK, 0])}
        run = client.run(prompt)
        assert (SHOWN in run.outputs) == shown and run.outputs[PICK]["images"], "the node itself always shows something"


@pytest.mark.parametrize("mode", ["hard", "soft"])
def test_exclusion_is_the_set_difference_of_comfyuis_own_node(client, mode):
    """`everything red` without `red star`, by a line with -, by names, and by MaskComposite: the same bits."""
    whole, part = "everything red", "red star"
    texts = (f"{whole}\n{part}", f"{whole}\n-{part}")  # the VAE's blurred edges differ, so that something is left
    plain, excluding = (Graph(SCENE, text).change(SEGMENT, decoder="vae") for text in texts)
    prompt = {**plain.prompt, PICK: node("DiGSegPickMask", **pick(whole, mode)), "50": node("DiGSegPickMask", **pick(part, mode))}
    composite = {"destination": [PICK, 0], "source": ["50", 0], "x": 0, "y": 0, "operation": "subtract"}
    prompt |= {
        "51": node("MaskComposite", **composite),
        SHOWN: node("MaskPreview", mask=["51", 0]),
        "52": node("DiGSegPickMask", **pick(f"{whole}\n-{part}", mode)),
        "53": node("DiGSegCompareMasks", prediction=["51", 0], truth=["52", 0], threshold=0.5, tolerance=2),
        "54": node("PreviewAny", source=["53", 0]),
    }
    run = client.run(prompt)
    theirs = greys(client, run, SHOWN)
    assert theirs.any() and np.array_equal(theirs, greys(client, run, "52"))
    whole_mask, part_mask = greys(client, run, PICK), greys(client, run, "50")
    assert (whole_mask & part_mask).any(), "nothing is taken away"
    excluded = client.run(excluding.change(PICK, mode=mode).prompt)
    assert np.array_equal(theirs, greys(client, excluded, PICK))
    again = client.run(excluding.change(PICK, names=part.upper(), mode=mode).prompt)
    assert np.array_equal(part_mask, greys(client, again, PICK)), "it stays available under its name"


def pick(names: str, mode: str) -> dict:
    return {"masks": [SEGMENT, 0], "names": names, "mode": mode, "threshold": 0.0, "invert": False}


def test_one_text_serves_prompt_and_names(client):
    words = f"{THINGS[0]}: scarlet star\n{THINGS[3]}\n-{THINGS[1]}"
    graph = Graph(SCENE, "").change(SEGMENT, text=["60", 0]).change(PICK, names=["60", 0])
    graph.prompt["60"] = node("PrimitiveStringMultiline", value=words)
    wired = greys(client, client.run(graph.prompt), PICK)
    assert wired.any() and np.array_equal(wired, greys(client, client.run(Graph(SCENE, words).prompt), PICK))


def test_a_near_miss_is_suggested(client):
    with pytest.raises(RunError, match=f"no mask named 'red sta'. Did you mean '{THINGS[0]}'"):
        client.run(Graph(SCENE, "\n".join(THINGS), names="red sta").prompt)


def test_masks_leave_as_a_batch_and_as_a_list_with_names(client):
    graph = Graph(SCENE, "\n".join(THINGS))
    graph.prompt |= {
        "70": node("DiGSegListMasks", masks=[SEGMENT, 0], names="", mode="hard", threshold=0.0, frame=0),
        SHOWN: node("MaskPreview", mask=["70", 0]),
        EACH: node("MaskPreview", mask=["70", 1]),
        TABLE: node("PreviewAny", source=["70", 2]),
    }
    run = client.run(graph.prompt)
    masks = greys(client, run, SHOWN)
    assert masks.shape == (len(THINGS), 128, 128) and np.array_equal(masks, greys(client, run, EACH))
    assert run.outputs[TABLE]["text"] == list(THINGS)
    assert np.array_equal(masks.max(0), greys(client, run, PICK)[0])


def test_a_batch_of_length_0_and_load_images_zeros_are_told_apart(client):
    graph = Graph(SCENE, THINGS[0])
    graph.prompt["80"] = node("DiGSegCompareMasks", prediction=[PICK, 0], truth=[PHOTO, 1], threshold=0.5, tolerance=2)
    with pytest.raises(RunError, match="truth looks like the MASK of Load Image for a photo without transparency"):
        client.run(graph.prompt)


def test_one_line_that_looks_like_several_is_said_once(client, host):
    before = host.log.read_text(encoding="utf-8").count("One line is one prompt")
    several, plain = (client.run(Graph(SCENE, words).prompt) for words in ("red star, pink circle", "red star"))
    assert host.log.read_text(encoding="utf-8").count("One line is one prompt") == before + 1
    noted, clean = (greys(client, run, SEGMENT)[0] for run in (several, plain))
    assert (noted[-12:] < 40).mean() > 0.5 > (clean[-12:] < 40).mean()


def test_maps_of_one_class_list_have_one_size(client):
    settings = {"threshold": 0.0, "class_thresholds": "", "opacity": 0.6, "legend": True, "save_prefix": ""}
    sizes = set()
    for image in (SCENE, "scene-4.png", "scene-1.png"):
        graph = Graph(image, "\n".join((*THINGS, ABSENT)))
        graph.prompt["90"] = node("DiGSegSemanticMap", masks=[SEGMENT, 0], **settings)
        sizes.add(greys(client, client.run(graph.prompt), "90").shape)
    assert len(sizes) == 1
