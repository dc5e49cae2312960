"""One training run in plain PyTorch; it knows nothing of the search."""
