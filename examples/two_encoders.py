"""The same photo through a ResNet-18 and a ViT-B/16: the same call, the same fields, other eyes.

    python examples/two_encoders.py --out two_encoders.png
    python examples/two_encoders.py --resnet resnet18.safetensors --vit vit_b16.safetensors

Without files the weights are fresh: what the pictures show then is what the architectures look at
before they have learned anything. The photo is scikit-learn's china.jpg (CC BY 2.0, see
sklearn.datasets.load_sample_image), or --photo.
"""

import argparse

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_image

from vitjax import interop
from vitjax.interop.layout import Spec
from vitjax.pictures.pca import pca_map

SIDE = 224  # pixels


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photo", help="an image file")
    parser.add_argument("--resnet", help="weights of a ResNet, of any project")
    parser.add_argument("--vit", help="weights of a ViT, of any project")
    parser.add_argument("--out", default="two_encoders.png")
    args = parser.parse_args(argv)
    photo = centre(Image.open(args.photo) if args.photo else load_sample_image("china.jpg"))
    # zero_init would make every block of a fresh ResNet its shortcut.
    fresh = {
        "ResNet-18": {"name": "resnet", "variant": "18", "zero_init": False},
        "ViT-B/16": {"name": "vit", "variant": "B/16", "pool": "cls"},
    }
    seen = {}
    for (title, section), file in zip(fresh.items(), (args.resnet, args.vit), strict=True):
        model, variables, images = opened(section, file, photo)
        logits, features = jax.jit(model.apply)(variables, images)
        print(f"{title}: images {images.shape} -> logits {logits.shape}, {features.patches.shape}")
        seen[title] = features.patches[0], influence(model, variables, images)
    draw(photo, seen, args.out)


def opened(section, file, photo):
    """(model, variables, the photo as these weights want it [1, SIDE, SIDE, 3])."""
    if file is None:
        model = interop.build(Spec(section, classes=1000, image_size=SIDE))
        variables = jax.jit(model.init)(jax.random.key(0))
    else:
        model, variables = interop.load(file)
    want = model.spec.preprocessing
    scaled = (photo / 255.0 - np.array(want.mean)) / np.array(want.std)
    return model, variables, jnp.asarray(scaled[None], jnp.float32)


def influence(model, variables, images, probes=8):
    """[SIDE, SIDE]: how much each pixel moves the patch in the middle of the last map, its
    effective receptive field (arXiv:1701.04128): the size of the gradient of random mixtures of the
    patch's features, averaged over `probes` mixtures."""

    def middle(images, mixture):
        patches = model.apply(variables, images)[1].patches[0]
        return (patches[patches.shape[0] // 2, patches.shape[1] // 2] * mixture).sum()

    mixtures = jax.random.normal(jax.random.key(1), (probes, model.encoder.width))
    gradient = jax.jit(jax.grad(middle))
    sizes = [jnp.abs(gradient(images, mixture)[0]).sum(-1) for mixture in mixtures]
    return np.mean(sizes, axis=0)


def centre(photo):
    """The middle square of a photo, SIDE pixels, uint8."""
    photo = Image.fromarray(photo) if isinstance(photo, np.ndarray) else photo.convert("RGB")
    side, (width, height) = min(photo.size), photo.size
    left, top = (width - side) // 2, (height - side) // 2
    box = (left, top, left + side, top + side)
    return np.asarray(photo.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=box))


def draw(photo, seen, out):
    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 5, figsize=(15, 3.5), layout="constrained")
    axes[0].imshow(photo)
    axes[0].set_title("the photo")
    for place, (title, (patches, gradient)) in enumerate(seen.items()):
        maps, pixels = axes[1 + 2 * place], axes[2 + 2 * place]
        maps.imshow(pca_map(np.asarray(patches)[None])[0], interpolation="nearest")
        maps.set_title(f"{title}: its {patches.shape[0]} x {patches.shape[1]} map")
        # Each square root makes the faint parts visible.
        pixels.imshow(np.sqrt(gradient / gradient.max()), cmap="magma")
        pixels.set_title("pixels that move its middle")
    for axis in axes:
        axis.set_axis_off()
    figure.savefig(out, dpi=80)
    print(f"-> {out}")


if __name__ == "__main__":
    main()
