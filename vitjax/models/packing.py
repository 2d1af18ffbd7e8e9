"""Crops of several sizes in one sequence of tokens, each attending to itself alone.

B images, k crops of one size of each, p side of a patch, D width.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np


class Group(NamedTuple):
    """k crops of h x w patches of each image."""

    crops: int
    h: int
    w: int


def strip(images, patch: int):
    """(all patches of all crops below one another [B, n * p, p, 3], the Groups).

    images: a tuple of [B, k, H, W, 3], sides in multiples of p. One convolution of stride p then
    embeds them all.
    """
    rows, groups = [], []
    for crops in images:
        B, k, H, W, C = crops.shape
        h, w = H // patch, W // patch
        cut = crops.reshape(B, k, h, patch, w, patch, C).transpose(0, 1, 2, 4, 3, 5, 6)
        rows.append(cut.reshape(B, k * h * w * patch, patch, C))
        groups.append(Group(k, h, w))
    return jnp.concatenate(rows, axis=1), groups


def repeated(tables, groups):
    """Positions of the patches of all crops, [n, D], from those [h, w, D] of each group."""
    rows = [
        jnp.tile(table.reshape(-1, table.shape[-1]), (group.crops, 1))
        for table, group in zip(tables, groups, strict=True)
    ]
    return jnp.concatenate(rows)


def pack(x, groups, prefix):
    """[B, n, D] patches of all crops -> [B, N, D], before those of each crop the prefix.

    prefix: [1, P, D], class token and registers.
    """
    parts, start = [], 0
    for k, h, w in groups:
        crops = x[:, start : start + k * h * w].reshape(x.shape[0], k, h * w, x.shape[-1])
        before = jnp.broadcast_to(prefix[:, None], (x.shape[0], k, *prefix.shape[1:]))
        crops = jnp.concatenate([before.astype(x.dtype), crops], axis=2)
        parts.append(crops.reshape(x.shape[0], -1, x.shape[-1]))
        start += k * h * w
    return jnp.concatenate(parts, axis=1)


def unpack(x, groups, prefix: int):
    """[B, N, D] -> for each group [B * k, prefix + h * w, D]: what `pack` put together."""
    parts, start = [], 0
    for k, h, w in groups:
        tokens = k * (prefix + h * w)
        parts.append(x[:, start : start + tokens].reshape(-1, prefix + h * w, x.shape[-1]))
        start += tokens
    return parts


def segments(lengths: tuple[int, ...], images: int):
    """int32 [images, N]: which crop each token belongs to. lengths: tokens of each crop."""
    row = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    return jnp.broadcast_to(jnp.asarray(row), (images, row.size))
