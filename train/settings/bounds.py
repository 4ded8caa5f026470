"""Numbers of a configuration with their bounds, and why there is an upper one."""

from typing import Annotated

from pydantic import AfterValidator, Field

Share = Annotated[float, Field(ge=0, le=1)]


def whole(low: int, high: int, why: str):
    """The type of a whole number from `low` to `high`; `why` completes the error: "must be 1 to 4096: ..."."""

    def check(value: int) -> int:
        if not low <= value <= high:
            raise ValueError(f"must be {low} to {high}: {why}")
        return value

    return Annotated[int, AfterValidator(check)]


Steps = whole(1, 99_999_999, "states are named with eight digits of steps")
Interval = whole(1, 99_999_999, "a number of steps")
Calls = whole(1, 1000, "U-Net calls per mask, and the noise schedule has no more timesteps")
Batch = whole(1, 4096, "samples that one device holds at a time; gradient_accumulation makes larger batches")
Side = whole(32, 4096, "pixels of an image's longer side")
Workers = whole(0, 256, "each is a process of its own, and more of them than the machine has cores do not help")
Seed = whole(-(2**63), 2**64 - 1, "a seed has 64 bits")
Count = whole(1, 10_000_000, "nothing here has more")
