"""Networks: uint8 images in `preprocess`, logits out of `registry.build_model`."""
