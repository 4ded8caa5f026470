"""The latent cache's rows on disk: one set of stores for every shape of photos."""

from pathlib import Path

from digseg_nodes.core.latent_space import PIXELS_PER_LATENT
from train.latents.row_store import RowStore


class Stores:
    """Rows of all images of one shape (height, width) in pixels: latents, mask latents, masks bit by bit, known labels."""

    def __init__(self, folder: Path, channels: int, shape: tuple[int, int], target: str):
        height, width = (side // PIXELS_PER_LATENT for side in shape)
        latent = (channels, height, width)
        self.shape = shape
        self.images = RowStore(folder, "images", latent, what="image latents")
        self.masks = RowStore(folder, "masks" if target == "binary" else target, latent, what="mask latents")
        self.bits = RowStore(folder, "bits", (shape[0] * shape[1] // 8,), "uint8", "masks")
        self.valid = RowStore(folder, "valid", (1, height, width), "uint8", "known labels")

    def refresh(self) -> None:
        """Learn of rows that other processes have added."""
        for store in (self.images, self.masks, self.bits, self.valid):
            store.refresh()
