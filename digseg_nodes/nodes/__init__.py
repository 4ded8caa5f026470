"""What a user drags into a graph: every node of the pack, and the extension that registers them."""

from pathlib import Path

from comfy_api.latest import ComfyExtension, io

from .. import host

host.register_folders(Path(__file__).resolve().parent.parent / "models")

from . import load, lora, masks, measure, objects, pairs, segment, steps, stock  # noqa: E402 (their lists of files need the folders above)
from .checked import checked  # noqa: E402

NODES: list[type[io.ComfyNode]] = [
    load.DiGSegCheckpointLoader,
    load.DiGSegUNETLoader,
    lora.DiGSegLoraLoader,
    stock.DiGSegBaseLoader,
    steps.DiGSegPrompts,
    steps.DiGSegEncodeImage,
    steps.DiGSegSampler,
    steps.DiGSegDecodeMasks,
    segment.DiGSegSegment,
    masks.DiGSegPickMask,
    masks.DiGSegListMasks,
    objects.DiGSegSplitObjects,
    measure.DiGSegSemanticMap,
    measure.DiGSegUncertainty,
    measure.DiGSegCompareMasks,
    pairs.DiGSegSavePair,
    stock.DiGSegConditioning,
    stock.DiGSegSigmas,
]


class DiGSegExtension(ComfyExtension):
    """The pack, as ComfyUI sees it."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """All nodes."""
        return [checked(node) for node in NODES]
