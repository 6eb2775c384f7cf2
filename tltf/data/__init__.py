"""From a folder, a table or a named set to batches of images and targets."""
