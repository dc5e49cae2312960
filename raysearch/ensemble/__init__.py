"""From the prediction library of a run to a verified ensemble artifact and its predictions."""
