"""CLIP: its two towers, their parameters under three naming systems, and its tokenizer."""
