"""Run graphs in a ComfyUI over HTTP and WebSocket; used by the demo, the tests and the benchmarks.

Needs aiohttp only, which every ComfyUI has.
"""

from __future__ import annotations

import asyncio
import json
import queue
import struct
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

WIDGET_TYPES = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
NOTES = ("Note", "MarkdownNote")
PREVIEW_WITH_METADATA = 4
GONE = "connection closed"


class GraphError(ValueError):
    """A graph that cannot be turned into a prompt, or that ComfyUI refuses; says which node and why."""


class RunError(RuntimeError):
    """A node failed while the graph ran; says which one and its message."""


class RunInterrupted(RuntimeError):  # noqa: N818 - named for what happened; nothing is wrong
    """Somebody pressed stop."""


@dataclass
class Run:
    """What came of one prompt.

    `outputs`: node id -> what the node shows, e.g. {"images": [{"filename", "subfolder", "type"}]}.
    `events`: the WebSocket messages as (type, data), previews as ("preview", image bytes).
    """

    prompt_id: str
    outputs: dict[str, dict] = field(default_factory=dict)
    events: list[tuple[str, object]] = field(default_factory=list)

    def of(self, kind: str) -> list:
        """The data of all events of one type, in order."""
        return [data for name, data in self.events if name == kind]

    @property
    def executed(self) -> list[str]:
        """Ids of the nodes that really ran, cached ones left out."""
        return [data["node"] for data in self.of("executing") if data["node"]]


def to_prompt(graph: dict, object_info: dict) -> dict:
    """API prompt of a graph in UI format, as the frontend makes it: {node id: {"class_type", "inputs"}}.

    Covers plain graphs: no subgraphs, reroutes or bypassed nodes; GraphError names the node otherwise.
    """
    links = {link[0]: [str(link[1]), link[2]] for link in graph["links"]}
    nodes = [node for node in graph["nodes"] if node["type"] not in NOTES]
    for node in nodes:
        if node["type"] not in object_info:
            raise GraphError(f"node {node['id']}: this ComfyUI has no {node['type']}")
        if node.get("mode", 0) != 0:
            raise GraphError(f"node {node['id']} ({node['type']}) is muted or bypassed: switch it on")
    return {
        str(node["id"]): {"class_type": node["type"], "inputs": _inputs(node, links, object_info[node["type"]])} for node in nodes
    }


def show_mask(prompt: dict, node: str) -> str:
    """Add ComfyUI's own nodes that show the MASK a node gives first, and nothing but it; returns the node whose picture it is.

    DiGSeg Pick Mask's preview is for people: it says in words when nothing was found.
    """
    as_image, shown = f"{node}-image", f"{node}-mask"
    prompt[as_image] = {"class_type": "MaskToImage", "inputs": {"mask": [node, 0]}}
    prompt[shown] = {"class_type": "PreviewImage", "inputs": {"images": [as_image, 0]}}
    return shown


def _inputs(node: dict, links: dict, info: dict) -> dict:
    values = dict(zip(widget_names(info), node.get("widgets_values") or [], strict=False))
    values.pop("", None)
    linked = {slot["name"]: links[slot["link"]] for slot in node.get("inputs", []) if slot.get("link") is not None}
    return values | linked


def widget_names(info: dict) -> list[str]:
    """Names of a node's widgets in the order of `widgets_values`; "" is the one that changes a seed after a run."""
    names = []
    for name, (kind, *options) in (info["input"].get("required", {}) | info["input"].get("optional", {})).items():
        option = options[0] if options else {}
        if option.get("forceInput") or not (isinstance(kind, list) or kind in WIDGET_TYPES):
            continue
        names.append(name)
        if option.get("control_after_generate", name in ("seed", "noise_seed")):
            names.append("")
    return names


class Client:
    """One user of a running ComfyUI. Synchronous; the network runs in a thread of its own.

    with Client("http://127.0.0.1:8188") as client:
        run = client.run({"1": {"class_type": "LoadImage", "inputs": {"image": "photo.png"}}, ...})
        png = client.picture(run.outputs["2"]["images"][0])
    """

    def __init__(self, url: str):
        self.url, self.id = url.rstrip("/"), uuid.uuid4().hex
        self._events: queue.Queue = queue.Queue()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Client:
        self._thread.start()
        self._wait(self._open())
        return self

    def __exit__(self, *_: object) -> None:
        self._wait(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def get(self, path: str, **query: str):
        """The JSON answer to a GET; raises aiohttp.ClientResponseError for 4xx and 5xx."""
        return json.loads(self.get_bytes(path, **query))

    def get_bytes(self, path: str, **query: str) -> bytes:
        """The answer to a GET as it comes."""
        return self._wait(self._request("GET", path, params=query))

    def post(self, path: str, payload: dict | None = None) -> bytes:
        """The answer to a POST of JSON, as bytes (some routes answer with nothing)."""
        return self._wait(self._request("POST", path, json=payload or {}))

    def object_info(self) -> dict:
        """All nodes ComfyUI knows: id -> description, inputs, outputs."""
        return self.get("/object_info")

    def upload(self, path: Path) -> str:
        """Put an image among ComfyUI's inputs; returns the name LoadImage knows it by."""
        form = aiohttp.FormData({"overwrite": "true"})
        form.add_field("image", path.read_bytes(), filename=path.name, content_type="application/octet-stream")
        return json.loads(self._wait(self._request("POST", "/upload/image", data=form)))["name"]

    def picture(self, shown: dict) -> bytes:
        """The file behind one entry of `Run.outputs[id]["images"]`."""
        return self.get_bytes("/view", **shown)

    def interrupt(self) -> None:
        """Stop the graph that runs now."""
        self.post("/interrupt")

    def submit(self, prompt: dict) -> str:
        """Queue an API prompt; returns its id. GraphError carries ComfyUI's and the nodes' messages."""
        answer = json.loads(
            self._wait(self._request("POST", "/prompt", ok=(200, 400), json={"prompt": prompt, "client_id": self.id}))
        )
        if "prompt_id" not in answer:
            raise GraphError(_refusal(answer))
        return answer["prompt_id"]

    def wait(self, prompt_id: str, on_event: Callable[[str, object], None] | None = None, timeout: float = 600) -> Run:
        """Follow a queued prompt to its end; each event goes to `on_event` as it arrives.

        RunError or RunInterrupted when it did not succeed, RunError when ComfyUI went away, queue.Empty after `timeout`
        seconds of silence.
        """
        run = Run(prompt_id)
        while True:
            kind, data = self._events.get(timeout=timeout)
            if isinstance(data, dict) and data.get("prompt_id", prompt_id) != prompt_id:
                continue
            if kind == GONE:
                self._events.put((kind, data))
                raise RunError("ComfyUI closed the connection while the graph ran; its log says why.")
            run.events.append((kind, data))
            if on_event:
                on_event(kind, data)
            if kind == "execution_error":
                raise RunError(f"{data['node_type']} (node {data['node_id']}): {data['exception_message'].strip()}")
            if kind == "execution_interrupted":
                raise RunInterrupted(f"stopped in {data['node_type']} (node {data['node_id']})")
            if kind == "executing" and data["node"] is None:
                run.outputs = self.get(f"/history/{prompt_id}")[prompt_id]["outputs"]
                return run

    def run(self, prompt: dict, on_event: Callable[[str, object], None] | None = None, timeout: float = 600) -> Run:
        """Queue an API prompt and follow it to its end; see `submit` and `wait`."""
        return self.wait(self.submit(prompt), on_event, timeout)

    def _wait(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _open(self) -> None:
        self._session = aiohttp.ClientSession()
        self._socket = await self._session.ws_connect(f"{self.url}/ws?clientId={self.id}", max_msg_size=0)
        self._listening = asyncio.create_task(self._listen())

    async def _close(self) -> None:
        await self._socket.close()
        await self._listening
        await self._session.close()

    async def _listen(self) -> None:
        async for message in self._socket:
            if message.type == aiohttp.WSMsgType.TEXT:
                event = json.loads(message.data)
                self._events.put((event["type"], event["data"]))
            elif message.type == aiohttp.WSMsgType.BINARY:
                self._events.put(("preview", _preview(message.data)))
        self._events.put((GONE, None))

    async def _request(self, method: str, path: str, ok: tuple[int, ...] = (200,), **options) -> bytes:
        async with self._session.request(method, self.url + path, **options) as answer:
            if answer.status not in ok:
                answer.raise_for_status()
            return await answer.read()


def _preview(message: bytes) -> bytes:
    """The image in a binary message: 4 bytes kind, then 4 bytes format or the length of the JSON before the image."""
    kind, second = struct.unpack_from(">II", message)
    return message[8 + second :] if kind == PREVIEW_WITH_METADATA else message[8:]


def _refusal(answer: dict) -> str:
    problems = [answer["error"]["message"]] if isinstance(answer.get("error"), dict) else [str(answer.get("error"))]
    for node, found in (answer.get("node_errors") or {}).items():
        problems += [f"{found['class_type']} (node {node}): {error['message']}: {error['details']}" for error in found["errors"]]
    return "; ".join(problems)
