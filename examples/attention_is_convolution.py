"""The same 3 x 3 kernel as a convolution and as nine attention heads (arXiv:1911.03584).

    python examples/attention_is_convolution.py --out attention_is_convolution.png

Each head looks at one neighbour of the query, wherever the query is: its scores are
-alpha |offset - centre|^2. The head's output matrix is the kernel's weight at that place, and the
sum over heads is the convolution. The photo is scikit-learn's china.jpg (CC BY 2.0, see
sklearn.datasets.load_sample_image), or --photo.
"""

import argparse

import jax
import matplotlib
import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_image

from vitjax.ops.attention import attention_weights
from vitjax.ops.quadratic import attend, init_as_convolution, quadratic_bias

SIDE = 44  # pixels: every one is a token
GRID = 7  # of the little maps
ALPHAS = (1.0, 3.0, 20.0)
KERNEL = np.array([[-1, -2, -1], [0, 0, 0], [1, 2, 1]], np.float32)  # horizontal edges


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photo", help="an image file")
    parser.add_argument("--out", default="attention_is_convolution.png")
    args = parser.parse_args(argv)
    photo = (
        Image.open(args.photo) if args.photo else Image.fromarray(load_sample_image("china.jpg"))
    )
    side = min(photo.size)
    photo = photo.convert("L").crop((0, 0, side, side)).resize((SIDE, SIDE), Image.BICUBIC)
    image = np.asarray(photo, np.float32)[None, ..., None] / 255  # [1, SIDE, SIDE, 1]
    kernel = KERNEL[..., None, None]
    names = ("NHWC", "HWIO", "NHWC")
    want = jax.lax.conv_general_dilated(image, kernel, (1, 1), "SAME", dimension_numbers=names)
    found = {}
    for alpha in ALPHAS:
        layer = init_as_convolution(kernel, alpha=alpha)
        got = jax.jit(attend, static_argnames="padding")(layer, image, padding=1)
        error = float(abs(got - want).max() / abs(want).max())
        found[alpha] = np.asarray(got[0, ..., 0]), error
        print(f"alpha {alpha:g}: largest difference {error:.1e} of the largest value")
    draw(image[0, ..., 0], np.asarray(want[0, ..., 0]), found, args.out)


def middle_weights(alpha):
    """[9, GRID, GRID]: what the query in the middle takes, by head."""
    layer = init_as_convolution(KERNEL[..., None, None], alpha=alpha)
    nothing = np.zeros((1, GRID * GRID, 9, 1), np.float32)
    bias = quadratic_bias(layer.centres, layer.alpha, GRID, GRID)
    weights = attention_weights(nothing, nothing, bias=bias)[0, :, GRID * GRID // 2]
    return np.asarray(weights).reshape(9, GRID, GRID)


def off(error):
    """Words for the largest difference, as a share of the largest value."""
    return f"{error:.0%} off" if error > 0.01 else f"{error:.0e} off"


def draw(image, convolved, found, out):
    matplotlib.use("agg")
    from matplotlib import pyplot

    figure = pyplot.figure(figsize=(13, 8.6), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1, 1.9), hspace=0.04)
    largest = np.quantile(abs(convolved), 0.98)  # zeros around the image make a bright border

    def show(axis, values, title):
        axis.imshow(values, cmap="RdBu", vmin=-largest, vmax=largest)
        axis.set_title(title, fontsize=11)
        axis.set_axis_off()

    above.suptitle("As a convolution", fontweight="bold", fontsize=14)
    axes = above.subplots(1, 4, width_ratios=(1, 0.7, 1, 1))
    axes[0].imshow(image, cmap="gray")
    axes[0].set_title(f"the image, {SIDE} x {SIDE}", fontsize=11)
    axes[0].set_axis_off()
    axes[1].imshow(KERNEL, cmap="RdBu", vmin=-3, vmax=3)
    for (y, x), value in np.ndenumerate(KERNEL):
        axes[1].text(x, y, f"{value:+.0f}" if value else "0", ha="center", va="center", fontsize=13)
    axes[1].set_title("a 3 x 3 kernel", fontsize=11)
    axes[1].set_xticks([])
    axes[1].set_yticks([])
    show(axes[2], convolved, "the convolution")
    alpha, (values, error) = list(found.items())[-1]
    show(axes[3], values, f"nine heads, alpha {alpha:g}: {off(error)}")

    below.suptitle(
        "As attention: what the query in the middle (ring) takes through each of nine heads",
        fontweight="bold",
        fontsize=14,
    )
    columns = below.subfigures(1, len(found), wspace=0.04)
    for column, (alpha, (_, error)) in zip(columns, found.items(), strict=True):
        column.suptitle(f"alpha = {alpha:g}: {off(error)} the convolution", fontsize=12)
        heads = column.subplots(3, 3)
        weights = middle_weights(alpha)
        for axis, head, value in zip(heads.flat, weights, KERNEL.flat, strict=True):
            axis.imshow(head, cmap="Greys", vmin=0, vmax=1)
            axis.plot(GRID // 2, GRID // 2, "o", mfc="none", mec="tab:orange", ms=9, mew=1.8)
            axis.set_title(f"times {value:+.0f}" if value else "times 0", fontsize=9)
            axis.set_xticks(np.arange(GRID + 1) - 0.5, labels=[])
            axis.set_yticks(np.arange(GRID + 1) - 0.5, labels=[])
            axis.tick_params(length=0)
            axis.grid(color="0.85", linewidth=0.5)
    figure.savefig(out, dpi=80)
    print(f"-> {out}")


if __name__ == "__main__":
    main()
