"""From what people have (archives, CSVs, folders) to verified Arrow shards to tensors."""
