"""Where a patch is: fixed embeddings, rotations, and tables moved to another grid."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from vitjax.lookup import lookup

# h x w grid of patches, N tokens, H heads, D width (of one head, for rotations).


def sincos_2d(h, w, dim, temperature=10_000.0):
    """Fixed two-dimensional sine-cosine embedding (MoCo v3, arXiv:2104.02057; big_vision's form).

    Returns [h, w, dim] float32: for frequencies omega_i = temperature ** (-i / (dim/4 - 1)),
    i = 0 .. dim/4 - 1, the channels are [sin(x omega), cos(x omega), sin(y omega), cos(y omega)]
    with column x and row y in whole patches. MAE's table differs: it divides by dim/4.
    Raises ValueError unless dim is a multiple of 4 and at least 8.
    """
    if dim % 4 or dim < 8:
        raise ValueError(
            f"a sin-cos position embedding needs a width that is a multiple of 4 and at least 8, "
            f"got {dim}: change encoder.width, or set encoder.positions to learned"
        )
    # In float64 on the host: the table is a constant of the compiled program.
    omega = temperature ** (-np.arange(dim // 4) / (dim // 4 - 1))
    y, x = np.mgrid[:h, :w]
    angle_x, angle_y = x[..., None] * omega, y[..., None] * omega
    table = [np.sin(angle_x), np.cos(angle_x), np.sin(angle_y), np.cos(angle_y)]
    return jnp.asarray(np.concatenate(table, axis=-1), jnp.float32)


def rotary_2d(h, w, dim, base=100.0):
    """Angles of two-dimensional rotary positions (DINOv3, arXiv:2508.10104, sec. 3.2).

    Patch centres in [-1, 1] on each axis, whatever the grid; dim / 4 periods base^(4k / dim) on
    each axis: angle = 2 pi coordinate / period. Returns [h, w, dim / 2] float32, the angles of rows
    before those of columns: dimension j of a head is rotated with j + dim / 2 by angle j.
    Raises ValueError unless dim is a multiple of 4.
    """
    if dim % 4:
        raise ValueError(
            f"rotary positions need heads whose width is a multiple of 4, got {dim}: change "
            f"encoder.heads, or set encoder.positions to learned"
        )
    periods = base ** (4 * np.arange(dim // 4) / dim)
    y, x = (2 * (np.arange(n) + 0.5) / n - 1 for n in (h, w))
    rows = np.broadcast_to((2 * np.pi * y[:, None] / periods)[:, None], (h, w, dim // 4))
    columns = np.broadcast_to((2 * np.pi * x[:, None] / periods)[None], (h, w, dim // 4))
    return jnp.asarray(np.concatenate([rows, columns], axis=-1), jnp.float32)


def rotate(x, angles):
    """Turn queries or keys by their positions (arXiv:2104.09864, eq. 34), in float32.

    x: [B, N, H, D], the last h * w tokens are patches, those before them are left alone. angles:
    [h, w, D / 2]. Returns x's shape and dtype.
    """
    angles = angles.reshape(1, -1, 1, angles.shape[-1])
    prefix = x.shape[1] - angles.shape[1]
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    left, right = jnp.split(x[:, prefix:].astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1)
    return jnp.concatenate([x[:, :prefix], turned.astype(x.dtype)], axis=1)


def resample(table, h, w, method):
    """A table of positions for another grid; unchanged where it is made for that grid.

    table: [h0, w0, D]. method: a name in RESAMPLINGS. Returns [h, w, D] float32.
    """
    weights = lookup(RESAMPLINGS, method, "encoder.resample")
    if table.shape[:2] == (h, w):
        return table
    if weights is None:
        return jax.image.resize(table, (h, w, table.shape[-1]), "cubic", antialias=True)
    # On the host, in float64: two small matrices are constants of the compiled program.
    rows = jnp.asarray(weights(table.shape[0], h), jnp.float32)
    columns = jnp.asarray(weights(table.shape[1], w), jnp.float32)
    highest = jax.lax.Precision.HIGHEST
    return jnp.einsum("ih,jw,hwd->ijd", rows, columns, table, precision=highest)


def relative_bias(table, h, w):
    """A table over offsets as a bias on the scores of an h x w map (arXiv:2106.04803, eq. 3).

    table: [2h - 1, 2w - 1, H], entry [dy + h - 1, dx + w - 1] for a query dy rows below and dx
    columns right of its key. Returns [H, N, N], queries before keys.
    """
    dy, dx = (np.arange(n)[:, None] - np.arange(n)[None] + n - 1 for n in (h, w))
    bias = table[dy[:, None, :, None], dx[None, :, None, :]]  # [h, w, h, w, H]
    return bias.reshape(h * w, h * w, -1).transpose(2, 0, 1)


def resample_offsets(table, h, w):
    """[2H - 1, 2W - 1, heads], made for an H x W map -> [2h - 1, 2w - 1, heads]: bilinear between
    the centres of its entries, edges repeated; offset 0 stays offset 0, its own size is left alone.
    """
    return jax.image.resize(
        table, (2 * h - 1, 2 * w - 1, table.shape[-1]), "linear", antialias=False
    )


def log_offsets(h, w):
    """[2h - 1, 2w - 1, 2] float32: sign(d) log(1 + |d|) of each offset, rows before columns."""
    dy, dx = np.mgrid[1 - h : h, 1 - w : w]
    offsets = np.stack([dy, dx], axis=-1)
    return jnp.asarray(np.sign(offsets) * np.log1p(np.abs(offsets)), jnp.float32)


def _linear_weights(before, after):
    """[after, before]: linear, the first and last positions stay the first and last."""
    at = np.linspace(0, before - 1, after) if after > 1 else np.zeros(1)
    return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(before)))


def _cubic_weights(before, after, offset=0.0):
    """[after, before]: cubic convolution with a = -0.75 (PyTorch's) between pixel centres, edges
    repeated, no low-pass. offset: added to `after` in the scale, not in the count."""
    a = -0.75
    at = (np.arange(after) + 0.5) * before / (after + offset) - 0.5
    weights = np.zeros((after, before))
    for tap in range(-1, 3):
        source = np.floor(at) + tap
        d = np.abs(at - source)
        near = (a + 2) * d**3 - (a + 3) * d**2 + 1
        far = a * (d**3 - 5 * d**2 + 8 * d - 4)
        column = np.clip(source, 0, before - 1).astype(int)
        np.add.at(weights, (np.arange(after), column), np.where(d <= 1, near, far))
    return weights


# How published models move their tables. big_vision: scipy.ndimage.zoom(order=1). DINOv2's models
# with registers and timm: bicubic with a low-pass, as PIL and jax.image have it (None). DINOv2's
# first models: PyTorch's bicubic, the scale 0.1 patches off. Hugging Face's ViT: without that.
RESAMPLINGS = {
    "cubic_antialias": None,
    "cubic": _cubic_weights,
    "cubic_offset": partial(_cubic_weights, offset=0.1),
    "linear": _linear_weights,
}


def mover(name, method):
    """How the array of that name is moved to another grid: (array, shape) -> array, float32 of that
    shape, or None where it is no table of positions.

    name: the "/"-joined path of a parameter, maybe with a leading layer axis. method: as in
    `resample`; tables over offsets have their own way.
    """
    kind = name.rpartition("/")[2]
    if kind == "position_embedding":
        return lambda table, shape: resample(table, *shape[:2], method)
    if kind == "position_bias":

        def move(table, shape):
            h, w = (shape[-3] + 1) // 2, (shape[-2] + 1) // 2
            move_one = partial(resample_offsets, h=h, w=w)
            return jax.vmap(move_one)(table) if table.ndim == 4 else move_one(table)

        return move
    return None
