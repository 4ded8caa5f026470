"""How many items a network call takes, and what happens when they do not fit."""

import pytest
import torch

from digseg_nodes.core.engine import halving, sampled_at_once_on_cpu


class TooMuchError(Exception):
    """Memory has run out."""


class Engine:
    released = 0

    def is_out_of_memory(self, error: Exception) -> bool:
        return isinstance(error, TooMuchError)

    def release_memory(self) -> None:
        self.released += 1


def fits(most: float):
    """A network that adds 1, and has no memory for the sum of its items above `most`."""

    def run(batch: torch.Tensor) -> torch.Tensor:
        if batch.sum() > most:
            raise TooMuchError
        return batch + 1

    return run


@pytest.mark.parametrize(
    ("height", "width", "expected"), [(16, 16, 8), (32, 32, 8), (32, 64, 4), (64, 64, 2), (96, 96, 1), (1, 1, 8), (512, 512, 1)]
)
def test_small_latents_share_a_call_and_large_ones_do_not(height, width, expected):
    assert sampled_at_once_on_cpu(height, width) == expected


def test_what_does_not_fit_is_halved_in_its_order():
    engine, batch = Engine(), torch.arange(7.0)
    assert torch.equal(halving(engine, fits(6), batch), batch + 1)
    assert engine.released > 0


def test_a_single_item_that_does_not_fit_has_a_last_resort():
    batch = torch.tensor([1.0, 9.0, 2.0])
    assert halving(Engine(), fits(5), batch, lambda item: -item).tolist() == [2.0, -9.0, 3.0]


def test_without_a_last_resort_the_error_stays():
    with pytest.raises(TooMuchError):
        halving(Engine(), fits(5), torch.tensor([1.0, 9.0]))


def test_another_error_is_no_lack_of_memory():
    def run(_batch):
        raise ZeroDivisionError

    engine = Engine()
    with pytest.raises(ZeroDivisionError):
        halving(engine, run, torch.ones(4))
    assert engine.released == 0
