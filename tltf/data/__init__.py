"""From a folder, a table or a named set to batches: sources, scan, splits, decoding, augmentation."""
