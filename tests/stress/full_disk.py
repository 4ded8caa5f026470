"""The disk fills up, or is read-only, under predict.py, convert.py and finetune.py: words, status 1, and what was written before
is whole.

A tmpfs of a few megabytes where this user may mount one, else a limit on the size of files.

python tests/stress/full_disk.py [--minutes 2] [--seed 0] [--report F]
"""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from PIL import Image
from safetensors.torch import load_file

from tests.stress.campaign import options, report, small_disk
from tests.train.helpers import folder_dataset, tiny_base

ROOT = Path(__file__).resolve().parents[2]
READ_ONLY = 0
SIZES = (READ_ONLY, 40_000, 200_000, 1_000_000)
"""Bytes of the small disk."""
SAID = ("could not be written", "Read-only file system", "the disk is read-only")


def commands(folder: Path, disk: Path) -> dict[str, list]:
    """The commands, writing to `disk`."""
    model, data = folder / "model.safetensors", folder / "data/data.yaml"
    small = ["resolution=64", "steps=4", "batch_size=2", "validation.images=1", "checkpoints.every=2", "optimizer.warmup_steps=1"]
    config = folder / "config.yaml"
    config.write_text(f"base: {folder / 'base.safetensors'}\ndata: {data}\noutput: {disk / 'run'}\n", encoding="utf-8")
    predict = [
        "--checkpoint",
        model,
        "--images",
        folder / "data/images",
        "--output",
        disk / "masks",
        "--steps",
        1,
        "--device",
        "cpu",
    ]
    return {
        "predict.py": [*predict, "--prompts", *[f"thing {number}" for number in range(40)]],
        "convert.py": [model, disk / "copy.safetensors"],
        "finetune.py": ["--config", config, f"cache={disk / 'cache'}", *small],
    }


def torn(disk: Path) -> list[str]:
    """Files on the disk that are not whole; temporary ones count as well, for every command here ended by itself."""
    bad = []
    for path in (path for path in disk.rglob("*") if path.is_file()):
        try:
            if path.suffix in (".png", ".jpg"):
                Image.open(path).load()
            elif path.suffix == ".safetensors":
                load_file(path)
            elif path.suffix == ".tmp":
                raise ValueError("left over")
        except Exception as error:
            bad.append(f"{path.relative_to(disk)}: {error}")
    return bad


def limit_files(size: int) -> None:
    """No file of this process may grow beyond `size` bytes: the nearest thing to a full disk that needs no rights."""
    import resource  # POSIX only

    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def attempt(script: str, line: list, mounted: bool, size: int, disk: Path) -> dict:
    """Run one command on the small disk; what it said and left. On a read-only one it must not end well."""
    limit = None if mounted else lambda: limit_files(size // 8)  # no file has a byte where there is no read-only disk
    command = [sys.executable, str(ROOT / "train" / script), *map(str, line)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, preexec_fn=limit)
    words = done.stderr.strip().splitlines()
    return {
        "command": script,
        "bytes": size,
        "status": done.returncode,
        "said": words[-1][-300:] if words else "",
        "good": "Traceback" not in done.stderr
        and ((done.returncode == 0 and size != READ_ONLY) or any(said in done.stderr for said in SAID))
        and not torn(disk),
        "torn": torn(disk),
    }


def main() -> int:
    """Every command on every size."""
    arguments, results, kinds = options(__doc__, minutes=2), [], set()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as Ctrl-C: everything is unmounted on the way out
    if os.name == "nt":
        return report(arguments, {"skipped": "small disks and limits of files are POSIX's"}, good=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder_dataset(folder / "data", count=3, size=(480, 640))
        tiny_base(folder / "base.safetensors")
        tiny_base(folder / "model.safetensors", in_channels=8)
        for size in SIZES:
            for script in ("predict.py", "convert.py", "finetune.py"):
                disk = folder / f"{script}-{size}"
                with small_disk(disk, size) as mounted:
                    kinds.add("tmpfs" if mounted else "file size limit")
                    results.append(attempt(script, commands(folder, disk)[script], mounted, size, disk))
                print(results[-1], flush=True)
    full = sum(result["status"] != 0 for result in results if result["bytes"] != READ_ONLY)
    return report(
        arguments, {"disk": sorted(kinds), "ended_full": full, "attempts": results}, good=all(r["good"] for r in results)
    )


if __name__ == "__main__":
    sys.exit(main())
