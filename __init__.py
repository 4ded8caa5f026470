"""DiGSeg for ComfyUI: what the host imports."""

from .digseg_nodes.nodes import DiGSegExtension

WEB_DIRECTORY = "./digseg_nodes/web"


async def comfy_entrypoint() -> DiGSegExtension:
    """The extension that registers the pack's nodes."""
    return DiGSegExtension()


__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
