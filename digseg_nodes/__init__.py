"""DiGSeg for ComfyUI: text-to-mask nodes built on a fine-tuned Stable Diffusion U-Net."""
