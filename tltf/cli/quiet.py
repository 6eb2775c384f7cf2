"""TensorFlow's start-up lines are not for the people who use a command line."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator

from tltf import legacy


def import_tensorflow() -> None:
    """Imports TensorFlow and finds its devices without its C++ lines on stderr.

    They are written to the file descriptor before any log level applies. If the import
    fails they are shown, since then they are the explanation.
    """
    legacy.refuse()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # A GPU is asked for what is needed, as it is needed: others use it too, and what runs out of
    # memory is then the batch, not the neighbour.
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    if "tensorflow" in sys.modules:
        return
    with _held_stderr():
        import tensorflow as tf

        tf.config.list_physical_devices()
    tf.get_logger().setLevel("ERROR")


@contextlib.contextmanager
def _held_stderr() -> Iterator[None]:
    """Sends file descriptor 2 to a temporary file, and shows it only after an exception."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            os.dup2(kept, 2)
            held.seek(0)
            os.write(2, held.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
