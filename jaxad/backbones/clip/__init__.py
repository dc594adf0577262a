"""CLIP: its two towers, their parameters by three sets of names, its tokenizer."""
