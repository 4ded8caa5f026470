"""A real ComfyUI that moves weights to and from the device gives the same masks."""

import dev
from benchmarks.host_flags import GPU_FLAGS, difference, masks
from tools.api import Client

FLAGS = ("--disable-smart-memory", *GPU_FLAGS)


def test_masks_do_not_depend_on_where_weights_lie(device, client, install, process):
    expected = masks(client)
    for flag in FLAGS if device.type == "cuda" else FLAGS[:1]:  # ComfyUI refuses the others beside --cpu
        with dev.running_host(install, f"gpu{process}", extra=[flag]) as host, Client(host.url) as moving:
            found = difference(masks(moving), expected)
        assert found["flipped"] <= 1e-3 and found["largest_difference"] <= 8, (flag, found)
