"""A real Chromium with ComfyUI's real page: the frontend that this ComfyUI names, and the newest there is."""

from __future__ import annotations

import re
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from filelock import FileLock
from playwright.sync_api import Page, sync_playwright

import dev
from tools.shots import ARGUMENTS, READY, chromium

DAY = 24 * 3600
SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.Workflow.Persist": False,
    "Comfy.Workflow.ShowMissingModelsWarning": False,  # the painting graphs name files that are not here
}
PATIENCE = 240_000  # ms; a machine under load draws slowly


@dataclass
class Tab:
    """ComfyUI's page in one frontend, and what its console and its requests complained about so far."""

    frontend: str
    page: Page
    url: str
    complaints: list[str] = field(default_factory=list)

    def of_the_pack(self) -> list[str]:
        """The complaints that name the pack; the rest is the frontend's own business.

        The page asks for a help page in the user's language first and takes <node>.md when there is none; and it asks
        ComfyUI's registry about every node, which ComfyUI without API nodes forbids.
        """
        ours = [text for text in self.complaints if "digseg" in text.lower()]
        return [text for text in ours if not re.search(r"/docs/\w+/\w+\.md|https://api\.comfy\.org/", text)]


def newest_frontend() -> Path:
    """The newest frontend wheel's pages, looked up once a day."""
    folder = dev.CACHE / "frontend-newest"
    with FileLock(f"{folder}.lock"):  # the test processes want it at the same moment
        if folder.is_dir() and time.time() - folder.stat().st_ctime > DAY:
            shutil.rmtree(folder)
        return dev.unpack_wheel("comfyui-frontend-package", "comfyui_frontend_package/static", folder)


@pytest.fixture(scope="session")
def browser(lacking):
    if not chromium():
        lacking("no chromium, chromium-browser or google-chrome on PATH")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
        yield running
        running.close()


@pytest.fixture(scope="session")
def newest_host(install, process, lacking, standins):
    try:
        pages = newest_frontend()
    except dev.StepError as failure:
        lacking(f"the newest frontend could not be downloaded: {failure.what}")
    extra = ["--front-end-root", str(pages), *standins]
    with dev.running_host(install, f"test-newest-frontend{process}", extra=extra) as running:
        yield running


@pytest.fixture(scope="module", params=["pinned", "newest"])
def tab(request, browser) -> Tab:
    """A page with the pack's nodes registered; the tests of a module share it."""
    host = request.getfixturevalue("host" if request.param == "pinned" else "newest_host")
    page = browser.new_page(viewport={"width": 1600, "height": 1000})
    page.set_default_timeout(PATIENCE)
    page.add_init_script("localStorage.setItem('vueNodesBannerDismissed', 'true')")
    page.request.post(f"{host.url}/settings", data=SETTINGS)
    tab = Tab(request.param, page, host.url)
    page.on("console", lambda message: _note(tab, message))
    page.on("pageerror", lambda error: tab.complaints.append(f"uncaught: {error.stack or error}"))
    page.on(
        "response", lambda answer: answer.ok or answer.status == 304 or tab.complaints.append(f"{answer.status}: {answer.url}")
    )
    page.goto(host.url)
    page.wait_for_function(READY)
    yield tab
    page.close()


def _note(tab: Tab, message) -> None:
    if message.type == "error":
        tab.complaints.append(f"console: {message.text} ({message.location.get('url')})")


@pytest.fixture(scope="session")
def screenshots() -> Path:
    return dev.make_folder(dev.OUTPUT / "screenshots")
