"""The demo world: reproducible, exact, and honest about what was never shown in training."""

import numpy as np
import pytest

from train.demo.world import ASPECTS, COLOURS, HELD_OUT, MIN_SHARE, PAIRS, RGB, SEEN, SYNONYMS, DemoWorld

SCENES = 60
HELD_OUT_NAMES = {f"{colour} {shape}" for colour, shape in HELD_OUT}


@pytest.fixture(scope="module", params=["train", "val", "test"])
def world(request):
    return DemoWorld(SCENES, seed=5, split=request.param)


@pytest.fixture(scope="module")
def scenes(world):
    return [world.sample(i) for i in range(len(world))]


def test_a_scene_depends_on_its_seed_split_and_number_alone(world, scenes):
    again = DemoWorld(1000, seed=5, split=world.split).sample(7)
    assert np.array_equal(again.image, scenes[7].image)
    assert list(again.masks) == list(scenes[7].masks)
    assert not np.array_equal(DemoWorld(SCENES, seed=6, split=world.split).sample(7).image, scenes[7].image)
    assert not np.array_equal(scenes[8].image, scenes[7].image)


def test_object_masks_are_disjoint_and_none_is_tiny_or_mostly_hidden(scenes):
    for scene in scenes:
        stack = np.stack([thing.mask for thing in scene.objects])
        assert stack.sum(0).max() == 1
        assert (stack.mean((1, 2)) >= MIN_SHARE).all()
        assert all(thing.visible >= 0.7 for thing in scene.objects)


def test_masks_show_the_colour_they_are_named_for(scenes):
    """Under a mask, the middle of the pixels is nearest to the colour that its name says."""
    rgb = np.array([RGB[colour] for colour in COLOURS], float)
    nearest = {
        thing.colour == COLOURS[np.abs(rgb - np.median(scene.image[thing.mask], axis=0)).sum(1).argmin()]
        for scene in scenes
        for thing in scene.objects
    }
    assert nearest == {True}


def test_attribute_prompts_are_unions_of_their_objects(scenes):
    for scene in scenes:
        for thing in scene.objects:
            for key, prompt in (("shape", f"the {thing.shape}"), ("colour", f"everything {thing.colour}")):
                same = [o.mask for o in scene.objects if getattr(o, key) == getattr(thing, key)]
                assert np.array_equal(scene.masks[prompt], np.logical_or.reduce(same))


def test_captions_name_every_object_and_nothing_else(scenes):
    for scene in scenes:
        named = {f"{c} {s}" for c, s in PAIRS if f"{c} {s}" in scene.caption.rpartition(" on ")[0]}
        assert named == {thing.name for thing in scene.objects}


def test_absent_prompts_are_absent_and_hard_ones_share_an_attribute(scenes):
    for scene in scenes:
        colours, shapes = {o.colour for o in scene.objects}, {o.shape for o in scene.objects}
        assert set(scene.absent.values()) == {"hard", "random"}
        for prompt, kind in scene.absent.items():
            assert prompt not in scene.masks
            assert any(word in colours | shapes for word in prompt.split()) == (kind == "hard")


def test_training_never_meets_a_held_out_pair():
    ways = {f"{c} {s}" for c, s in HELD_OUT}
    for colour, shape in HELD_OUT:
        ways |= {f"{c} {s}" for c in (colour, *SYNONYMS[colour]) for s in (shape, *SYNONYMS[shape])}
        ways |= {f"{s} that is {c}" for c in (colour, *SYNONYMS[colour]) for s in (shape, *SYNONYMS[shape])}
    world = DemoWorld(300, seed=5, split="train")
    for scene in (world.sample(i) for i in range(len(world))):
        assert not any(thing.held_out for thing in scene.objects)
        texts = [scene.caption, *scene.masks, *scene.absent]
        assert not any(way in text for text in texts for way in ways)


def test_test_scenes_hold_seen_and_held_out_pairs():
    world = DemoWorld(30, seed=5, split="test")
    for scene in (world.sample(i) for i in range(len(world))):
        assert set(scene.pairs.values()) == {True, False}
        assert {name for name in scene.pairs if name in scene.masks} == {thing.name for thing in scene.objects}
        assert scene.pairs == {name: name in HELD_OUT_NAMES for name in scene.pairs}


def test_every_colour_and_every_shape_has_one_held_out_pair():
    assert len({c for c, _ in HELD_OUT}) == len({s for _, s in HELD_OUT}) == len(HELD_OUT) == 8
    assert len(SEEN) == len(PAIRS) - 8


def test_scenes_of_several_shapes_leave_the_square_ones_as_they_are():
    square, mixed = DemoWorld(14, seed=5, split="test"), DemoWorld(14, seed=5, split="test", aspects=ASPECTS)
    sizes = [(128, 128), (96, 128), (85, 128), (72, 128), (128, 96), (128, 85), (128, 72)]
    for index in range(14):
        scene = mixed.sample(index)
        assert scene.image.shape[:2] == sizes[index % 7]
        assert np.array_equal(scene.image, square.sample(index).image) == (index % 7 == 0)
        assert all(thing.mask.shape == sizes[index % 7] for thing in scene.objects)
        assert all(thing.mask.mean() >= MIN_SHARE and thing.visible >= 0.7 for thing in scene.objects)
        ends = [np.ptp(np.nonzero(thing.mask)[axis]) + 1 for thing in scene.objects for axis in (0, 1)]
        assert max(ends) <= min(sizes[index % 7]) * 1.1  # nothing is squeezed or cut off to fit


@pytest.mark.parametrize(
    ("split", "seed", "mean", "areas"),
    [
        ("train", 1000, 134.2, {"purple cross": 1286, "cyan heart": 1928, "orange cross": 1851}),
        ("val", 0, 81.0, {"blue ring": 1225, "yellow star": 753, "pink crescent": 776, "purple crescent": 818}),
        ("test", 0, 118.3, {"yellow star": 3491}),
    ],
)
def test_the_square_scenes_are_those_that_published_scores_are_of(split, seed, mean, areas):
    scene = DemoWorld(200, seed, split).sample(0)
    assert scene.image.mean() == pytest.approx(mean, abs=0.2)
    assert {thing.name: int(thing.mask.sum()) for thing in scene.objects} == pytest.approx(areas, abs=3)


def test_wrong_split_and_index_are_refused_with_the_valid_ones():
    with pytest.raises(ValueError, match="train, val, test"):
        DemoWorld(3, split="dev")
    with pytest.raises(ValueError, match="16:9"):
        DemoWorld(3, aspects=["16x9"])
    with pytest.raises(IndexError, match="0 to 2"):
        DemoWorld(3).sample(3)
