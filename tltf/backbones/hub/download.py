"""Downloads one TF Hub module: ``python download.py URL``, into ``$TFHUB_CACHE_DIR``.

Run as a script, in a process of its own: it imports nothing of tltf, and what the import of
TF Hub brings along stays here.
"""

import sys

import tensorflow_hub

if __name__ == "__main__":
    print(tensorflow_hub.resolve(sys.argv[1]))
