"""Words on what a node shows, and in the log."""

from __future__ import annotations

import pytest
import torch

from digseg_nodes.core.notes import told, with_words


@pytest.mark.parametrize("size", [(128, 128), (40, 300), (1, 768), (768, 1), (600, 900)])
def test_words_lie_on_the_lower_edge_of_a_picture_of_any_size(size):
    image = torch.full((2, *size, 3), 0.5)
    shown = with_words(image, "nothing found: what hangs behind is skipped")
    assert shown.shape == image.shape and not torch.equal(shown, image)
    if min(size) > 100:
        half = size[0] // 2
        assert torch.allclose(shown[:, :half], image[:, :half], atol=1 / 255), "the upper half stays"
        assert (shown[:, half:] > 0.8).float().mean() > 0.003, "letters"


def test_a_note_is_logged_and_no_note_changes_nothing(caplog):
    image = torch.rand(1, 64, 64, 3)
    assert told(image, "") is image and not caplog.records
    assert told(image, "One line is one prompt") is not image
    assert [record.getMessage() for record in caplog.records] == ["DiGSeg: One line is one prompt."]
