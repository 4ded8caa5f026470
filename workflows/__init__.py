"""The example graphs, and what runs them over ComfyUI's HTTP API: `api` (the client), `demo` and its pictures."""
