"""What a cloud of features looks like: rank, spread, and likeness to another. NumPy, float64.

n examples, D width.
"""

import numpy as np


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """Rows [n, D] divided by their Euclidean norm, which counts as at least 1e-12; float64."""
    rows = rows.astype(np.float64)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def rankme(rows: np.ndarray) -> float:
    """Effective rank, 1 .. min(n, D): the exponential of the entropy of p_i = s_i / sum(s) + 1e-7
    for the singular values s of rows [n, D], as they come (arXiv:2210.02885, sec. 3.1). It grows
    with n: compare at equal n.
    """
    rows = rows.astype(np.float64)
    gram = rows.T @ rows if len(rows) > rows.shape[1] else rows @ rows.T
    # Half the digits of s are lost in its square: what is below 1e-7 of the sum does not count.
    singular = np.sqrt(np.maximum(np.linalg.eigvalsh(gram), 0.0))
    p = singular / max(singular.sum(), 1e-300) + 1e-7
    return float(np.exp(-np.sum(p * np.log(p))))


def uniformity(cosines: np.ndarray) -> float:
    """log of the mean of exp(-2 |x - y|^2) over pairs on the unit sphere (arXiv:2005.10242, sec.
    4.1).

    cosines [n, n], n > 1; the diagonal does not count. 0 where all are one; lower is more even.
    """
    potential = np.exp(-4.0 * (1.0 - cosines))  # |x - y|^2 = 2 - 2 cos
    n = len(cosines)
    return float(np.log((potential.sum() - np.trace(potential)) / (n * (n - 1))))


def cka(x: np.ndarray, y: np.ndarray) -> float:
    """Likeness of two representations x [n, D], y [n, E] of the same n examples, 0 .. 1.

    Linear centred kernel alignment (arXiv:1905.00414, sec. 3): |Y'X|^2 / (|X'X| |Y'Y|), Frobenius
    norms, columns centred. Not debiased: where n is not far above the widths, unlike ones are alike
    too. Rotations and scales do not matter. 0 where one is constant.
    """
    x, y = centred(x), centred(y)
    if len(x) > max(x.shape[1], y.shape[1]):
        shared, own = np.sum((y.T @ x) ** 2), [rows.T @ rows for rows in (x, y)]
    else:  # the same numbers from the kernels [n, n], which are smaller
        own = [rows @ rows.T for rows in (x, y)]
        shared = np.sum(own[0] * own[1])
    return float(shared / max(np.linalg.norm(own[0]) * np.linalg.norm(own[1]), 1e-300))


def unbiased_cka(x: np.ndarray, y: np.ndarray, batch: int = 256) -> float:
    """`cka` whose estimate does not grow with the widths: of independent x and y about 0, at any n.

    Batch after batch of the rows, so that n may be large (arXiv:2010.15327; its HSIC is
    that of Song et al. 2012, which has no bias from 4 rows on). NaN where one is constant.
    """
    sums = np.zeros(3)
    for start in range(0, len(x), batch):
        rows = [each[start : start + batch].astype(np.float64) for each in (x, y)]
        if len(rows[0]) < 4:
            break
        kernels = [each @ each.T for each in map(centred, rows)]
        for kernel in kernels:
            np.fill_diagonal(kernel, 0.0)
        K, L = kernels
        sums += unbiased_hsic(K, L), unbiased_hsic(K, K), unbiased_hsic(L, L)
    shared, own, other = sums
    return float(shared / np.sqrt(own * other)) if min(own, other) > 0 else float("nan")


def unbiased_hsic(K, L):
    """Of two kernels [n, n] with zeros on the diagonal, n > 3."""
    n = len(K)
    pairs = K.sum() * L.sum() / ((n - 1) * (n - 2))
    return (np.sum(K * L) + pairs - 2 * K.sum(0) @ L.sum(0) / (n - 2)) / (n * (n - 3))


def centred(rows):
    rows = rows.astype(np.float64)
    return rows - rows.mean(axis=0)
