"""The networks: bases to start from, file layouts, LoRA, texts, export."""
