"""The method in plain torch: checkpoint format, noise schedule, DDIM, prompts, masks, metrics. No ComfyUI, no diffusers."""
