"""Which words an answer leans on: integrated gradients over the token embeddings.

Sundararajan et al. 2017, equation 1, by the midpoint rule: the attribution of token t is

    a_t = (e_t - b_t) . mean over k of dF(b + (k - 1/2) / K (e - b)) / de_t

with e the embeddings of the text, b those of padding in the place of every word, F the logit of
the class and K steps. The sum over tokens approaches F(e) - F(b).
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tltf.backbones.network import Backbone
from tltf.backbones.tokens import TokenEmbedding, tokens_layer
from tltf.data.textbytes import text_bytes
from tltf.errors import ArgumentError
from tltf.models import heads
from tltf.models.classifier import backbone_of

STEPS = 24


@dataclass(frozen=True, kw_only=True)
class Attribution:
    """One explained answer.

    Args:
      text: what was read.
      label: the class that is explained.
      tokens, scores: the pieces and what each adds to the class' logit.
      total: the sum that the scores should have: the logit less that of the empty text.
    """

    text: str
    label: str
    tokens: tuple[str, ...]
    scores: tuple[float, ...]
    total: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def attribute(
    model: keras.Model,
    texts: Sequence[str],
    *,
    classes: Sequence[str],
    max_length: int,
    labels: Sequence[str] | None = None,
    steps: int = STEPS,
) -> list[Attribution]:
    """Attributions of texts, one at a time.

    Args:
      model: a :func:`tltf.classifier` on a text backbone.
      classes: names in the order of the logits; for a regression one name.
      max_length: tokens of a text.
      labels: the class to explain for each text; None for the likeliest.
      steps: K; more are more exact.

    Raises:
      ArgumentError: not a text model, or fewer than one step.
    """
    layer, backbone = tokens_layer(model), backbone_of(model)
    if layer is None or backbone is None or steps < 1:
        raise ArgumentError("attributions need a text model and steps >= 1", where="attribute")
    below, above = _parts(model, backbone)
    tokenizer = layer.tokenizer
    found = []
    for i, text in enumerate(texts):
        encoded = tokenizer.encode([text_bytes(text)], max_length=max_length)
        ids = encoded.ids.to_tensor()
        empty = tf.where((ids == tokenizer.cls) | (ids == tokenizer.sep), ids, tokenizer.pad)
        # The mask is the text's own in both: only what stands in the places changes.
        (e, mask), (b, _) = below(ids), below(empty)
        ends = tf.cast(above([tf.concat([e, b], 0), tf.repeat(mask, 2, axis=0)]), tf.float32)
        at = classes.index(labels[i]) if labels else int(tf.argmax(ends[0]))
        places = tf.reshape((tf.range(steps, dtype=tf.float32) + 0.5) / steps, (-1, 1, 1))
        path = b + places * (e - b)
        with tf.GradientTape() as tape:
            tape.watch(path)
            logits = above([path, tf.repeat(mask, steps, axis=0)])
            chosen = tf.reduce_sum(tf.cast(logits, tf.float32)[:, at])
        slope = tf.reduce_mean(tape.gradient(chosen, path), axis=0)
        scores = tf.reduce_sum((e - b)[0] * slope, axis=-1).numpy()
        found.append(
            Attribution(
                text=text,
                label=classes[at],
                tokens=tuple(tokenizer.vocabulary[t] for t in ids.numpy()[0]),
                scores=tuple(float(np.round(s, 6)) for s in scores),
                total=float(ends[0, at] - ends[1, at]),
            )
        )
    return found


def _parts(model: keras.Model, backbone: Backbone) -> tuple[keras.Model, keras.Model]:
    """ids -> (embeddings, mask), and (embeddings, mask) -> logits; both share the variables."""
    mask = tokens_layer(backbone)
    embedding = next(
        x for x in backbone.layers if isinstance(x, TokenEmbedding | keras.layers.Embedding)
    )
    crossing = [embedding.output, mask.output if mask is not None else embedding.output]
    below = keras.Model(backbone.input, crossing, name="below")
    inputs = [keras.Input(t.shape[1:], dtype=t.dtype) for t in crossing]
    upper = Backbone(crossing, backbone.outputs[0], name="above_embeddings")
    head = model.get_layer(heads.HEAD)
    return below, keras.Model(inputs, head(upper(inputs, training=False)), name="above")


def page(found: Sequence[Attribution], *, title: str) -> str:
    """An HTML page with each text's pieces shaded: green speaks for the class, red against it."""
    rows = "\n".join(f"<p><b>{html.escape(a.label)}</b> {highlighted(a)}</p>" for a in found)
    return (
        f'<!doctype html><meta charset="utf-8"><title>{html.escape(title)}</title>'
        "<style>body{font:16px/1.8 sans-serif;max-width:50em;margin:2em auto}"
        "span{border-radius:3px}b{margin-right:1em}</style>"
        f"<h1>{html.escape(title)}</h1><p>Green pieces speak for the class in bold, red ones"
        f" against it (integrated gradients).</p>\n{rows}\n"
    )


def highlighted(found: Attribution) -> str:
    """The pieces as ``span`` elements; names and texts are escaped."""
    most = max((abs(s) for s in found.scores), default=0.0) or 1.0
    parts = []
    for token, score in zip(found.tokens, found.scores, strict=True):
        if token in ("[CLS]", "[SEP]"):
            continue
        joined = token.startswith("##")
        colour = "0,150,60" if score > 0 else "200,30,30"
        parts.append(
            f"{'' if joined else ' '}"
            f'<span style="background:rgba({colour},{abs(score) / most:.2f})"'
            f' title="{score:.3f}">{html.escape(token.removeprefix("##"))}</span>'
        )
    return "".join(parts).strip()
