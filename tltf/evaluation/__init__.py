"""From predictions to numbers with intervals, a verdict and a page to read. No TensorFlow."""
