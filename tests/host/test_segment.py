"""Photos and texts become masks in a real ComfyUI."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image

import dev
from tools import demo
from tools.api import to_prompt

from .conftest import COVERAGE, LOADER, PHOTO, PICK, SEGMENT, Graph, coverage_of, masks_of, node


def photo(scene: demo.Scene) -> Image.Image:
    return Image.open(demo.SCENES / scene.image)


def test_example_workflow_finds_what_it_asks_for(client):
    graph = json.loads((dev.ROOT / "workflows" / "text_to_mask.json").read_text(encoding="utf-8"))
    prompt = to_prompt(graph, client.object_info())
    scenes = {scene.image: scene for scene in demo.load_scenes()}
    scene = scenes[prompt[demo.node_of(prompt, "LoadImage")]["inputs"]["image"]]
    pick = demo.node_of(prompt, "DiGSegPickMask")
    names = prompt[pick]["inputs"]["names"].split("\n")
    truths = [demo.true_mask(entry, photo(scene).size) for entry in scene.prompts if entry["prompt"] in names]
    [shown] = client.run(prompt).outputs[pick]["images"]
    mask = np.asarray(Image.open(io.BytesIO(client.picture(shown))).convert("L")) > 127
    truth = np.any(truths, axis=0)
    assert (mask & truth).sum() / (mask | truth).sum() > 0.5


def test_mask_has_the_size_of_the_photo_and_only_black_and_white(client, scene, present):
    run = client.run(Graph(scene.image, present[0]).prompt)
    mask = masks_of(client, run)
    assert mask.shape == (1, *photo(scene).size[::-1])
    assert set(np.unique(mask)) <= {0, 255}
    assert coverage_of(run) == pytest.approx((mask > 0).mean(), abs=1e-4)


def test_photo_of_any_size_keeps_its_size(client, scene, present, tmp_path):
    odd = photo(scene).resize((201, 123))
    odd.save(tmp_path / "odd.png")
    run = client.run(Graph(client.upload(tmp_path / "odd.png"), present[0]).prompt)
    assert masks_of(client, run).shape == (1, 123, 201)


def test_absent_prompts_give_masks_of_full_size_and_most_are_empty(client):
    empty = []
    for scene in demo.load_scenes():
        absent = next(entry["prompt"] for entry in scene.prompts if not entry["mask"])
        run = client.run(Graph(scene.image, absent).prompt)
        mask = masks_of(client, run)
        assert mask.shape == (1, *photo(scene).size[::-1])
        empty.append(coverage_of(run) == 0)  # the picture of an empty mask says so in words
    assert np.mean(empty) >= 0.5


def test_mask_does_not_depend_on_the_other_prompts(client, scene, present):
    alone = client.run(Graph(scene.image, present[0]).change(SEGMENT, seed=7).prompt)
    for text in ("\n".join(scene.texts), f"something else\n{present[0]}"):
        among = client.run(Graph(scene.image, text, present[0]).change(SEGMENT, seed=7).prompt)
        assert np.array_equal(masks_of(client, alone), masks_of(client, among))


def test_every_frame_of_a_batch_gets_its_own_mask(client, present):
    first, second = demo.load_scenes()[:2]
    graph = Graph(first.image, present[0])
    graph.prompt |= {"10": node("LoadImage", image=second.image), "11": node("ImageBatch", image1=[PHOTO, 0], image2=["10", 0])}
    both = masks_of(client, client.run(graph.change(SEGMENT, image=["11", 0]).prompt))
    one_by_one = [masks_of(client, client.run(Graph(scene.image, present[0]).prompt)) for scene in (first, second)]
    assert np.array_equal(both, np.concatenate(one_by_one))


def test_second_run_is_cached_and_another_name_only_picks(client, scene, present):
    graph = Graph(scene.image, "\n".join(scene.texts), present[0])
    client.run(graph.prompt)
    assert client.run(graph.prompt).executed == []
    assert set(client.run(graph.change(PICK, names=present[-1]).prompt).executed) == {PICK, COVERAGE}


def test_free_empties_the_cache_and_the_mask_comes_back_the_same(client, scene, present):
    graph = Graph(scene.image, present[0]).change(SEGMENT, seed=3)
    before = masks_of(client, client.run(graph.prompt))
    client.post("/free", {"unload_models": True, "free_memory": True})
    again = client.run(graph.prompt)
    assert {LOADER, SEGMENT} <= set(again.executed)
    assert np.array_equal(before, masks_of(client, again))


def test_the_coverage_of_an_inverted_mask_is_the_same_soft_and_hard(client, scene, present):
    """Inverting changes what is selected, not where the threshold lies."""
    graph = Graph(scene.image, present[0])
    found = [
        coverage_of(client.run(graph.change(PICK, mode=mode, threshold=0.2, invert=True).prompt)) for mode in ("soft", "hard")
    ]
    assert found[0] == found[1] and 0 < found[0] < 1


@pytest.mark.parametrize("size", [(768, 1), (1, 1000)])
def test_a_photo_as_thin_as_a_thread_leaves_the_server_alive(client, scene, present, tmp_path, size):
    """Its preview would shrink to nothing, and an empty picture ends ComfyUI's publishing loop."""
    thin = tmp_path / f"thin-{size[0]}x{size[1]}.png"
    Image.new("RGB", size, (200, 40, 40)).save(thin)
    run = client.run(Graph(client.upload(thin), present[0]).prompt)
    assert masks_of(client, run).shape == (1, *size[::-1])
    assert masks_of(client, client.run(Graph(scene.image, present[0]).prompt)).any()
