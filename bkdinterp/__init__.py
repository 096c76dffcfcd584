"""bkdinterp: mechanistic interpretability of backdoored language models."""
