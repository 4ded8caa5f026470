"""Label Studio's brush strokes: RGBA pixels as run lengths, packed bit by bit (the format of @thi.ng/rle-pack)."""

import numpy as np

from train.data.outlines import OutlineError


def brush_mask(runs, height: int, width: int) -> np.ndarray:
    """Bool [H,W] of a brush stroke, a list of bytes: where its alpha is above 0. OutlineError for what is none of that size."""
    if not isinstance(runs, list) or not all(isinstance(one, int) and 0 <= one < 256 for one in runs):
        raise OutlineError("its `rle` is no list of bytes")
    values = _decoded(_Bits(bytes(runs)), height * width * 4)
    return values.reshape(height, width, 4)[..., 3] > 0  # [H*W*4] -> [H,W,4]


def _decoded(bits: "_Bits", expected: int) -> np.ndarray:
    """The words of a stream, uint8 [N]; each chunk is one word repeated, or that many words as they are."""
    count = bits.read(32)
    if count != expected:
        raise OutlineError(f"its run lengths fill {count} values, the picture has {expected} (width x height x 4)")
    word = bits.read(5) + 1
    lengths = [bits.read(4) + 1 for _ in range(4)]
    out, start = np.zeros(count, np.uint32), 0
    while start < count:
        repeated = bits.read(1)
        end = start + 1 + bits.read(lengths[bits.read(2)])
        if end > count:
            raise OutlineError("its run lengths go beyond the picture")
        out[start:end] = bits.read(word) if repeated else [bits.read(word) for _ in range(start, end)]
        start = end
    return out


class _Bits:
    """Reads numbers of any number of bits from bytes, the highest bit first."""

    def __init__(self, content: bytes):
        self.content, self.position = content, 0

    def read(self, size: int) -> int:
        """The next `size` bits as a number, 32 at most."""
        first, end = self.position // 8, self.position + size
        last = -(-end // 8)
        if last > len(self.content):
            raise OutlineError("its run lengths end early")
        value = int.from_bytes(self.content[first:last], "big") >> (last * 8 - end)
        self.position = end
        return value & ((1 << size) - 1)
