"""Stand-ins for ComfyUI's SAM 3 nodes on a host without them, so that the graph video_track opens and runs in tests.

Inputs and outputs are those of the real nodes. The tracker here lets every first-frame mask stand still; a host that has the
real ones keeps them.
"""

import nodes

TRACK = "SAM3_TRACK_DATA"


class VideoTrack:
    """Frames [F,H,W,3] and masks of the first [N,H,W] → the masks of every frame."""

    RETURN_TYPES, RETURN_NAMES, FUNCTION, CATEGORY = (TRACK,), ("track_data",), "track", "detection"

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "images": ("IMAGE",),
                "model": ("MODEL",),
                "detection_threshold": ("FLOAT", {"default": 0.5, "min": 0.0, "max": 1.0, "step": 0.01}),
                "max_objects": ("INT", {"default": 0, "min": 0}),
                "detect_interval": ("INT", {"default": 1, "min": 1}),
            },
            "optional": {"initial_mask": ("MASK",), "conditioning": ("CONDITIONING",)},
        }

    def track(self, images, model, detection_threshold, max_objects, detect_interval, initial_mask=None, conditioning=None):
        if initial_mask is None or initial_mask.shape[1:] != images.shape[1:3]:
            raise ValueError(f"one mask an object of the first frame is expected, {tuple(images.shape[1:3])}")
        return (initial_mask[None].expand(len(images), -1, -1, -1),)  # [F,N,H,W]


class TrackToMask:
    """What was tracked → the union of some objects in every frame [F,H,W]."""

    RETURN_TYPES, RETURN_NAMES, FUNCTION, CATEGORY = ("MASK",), ("masks",), "union", "detection"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"track_data": (TRACK,), "object_indices": ("STRING", {"default": ""})}}

    def union(self, track_data, object_indices):
        chosen = [int(number) for number in object_indices.split(",") if number.strip()]
        return ((track_data[:, chosen] if chosen else track_data).amax(1),)


NODE_CLASS_MAPPINGS = {
    name: node
    for name, node in {"SAM3_VideoTrack": VideoTrack, "SAM3_TrackToMask": TrackToMask}.items()
    if name not in nodes.NODE_CLASS_MAPPINGS
}
NODE_DISPLAY_NAME_MAPPINGS = {"SAM3_VideoTrack": "SAM3 Video Track", "SAM3_TrackToMask": "SAM3 Track to Mask"}
