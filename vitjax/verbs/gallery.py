"""The pictures and the page of `vitjax features`."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from vitjax.evaluators.tokencut import discover
from vitjax.ops.statistics import cka, rankme
from vitjax.pictures import attention, embedding, foreground, matches, neighbours, pca, sheet
from vitjax.pictures.page import Picture, Section, Table, page

MAPPED = 1000  # images of the embedding map: t-SNE takes a minute for 10,000
THUMBNAILS = 200
QUERIES, NEAREST = 5, 7


def make(seen: Sequence, names, classes, crops: Callable, out: Path, query=None) -> Path:
    """Draw everything and write index.html; returns its path.

    seen: what each encoder made of the images (features.Seen), the one in question first. names:
    of all images; classes: names by label. crops(rows) -> uint8 [n, S, S, 3]. query: the patch
    whose attention is drawn.
    """
    first = seen[0]
    sections = [numbers(seen), parts(seen, out), objects(first, out)]
    if first.weights is not None:
        sections.append(attended(first, query, out))
    sections += [
        correspondences(first, out),
        near(first, names, classes, crops, out),
        overview(first, classes, crops, out),
    ]
    N, D = first.frozen.pooled.shape
    summary = f"{N:,} images, {D} numbers each; the embeddings lie beside this page."
    file = out / "index.html"
    file.write_text(page(f"What {first.name} knows", sections, summary))
    return file


def numbers(seen) -> Section:
    """Rank of the features, and their likeness to those of the other encoders."""
    rows = [[each.name, each.frozen.pooled.shape[1], rankme(each.frozen.pooled)] for each in seen]
    tables = [Table("Width and effective rank (RankMe)", ["encoder", "width", "rank"], rows)]
    if len(seen) > 1:
        alike = [[a.name, *(cka(a.frozen.pooled, b.frozen.pooled) for b in seen)] for a in seen]
        header = ["linear CKA", *(each.name for each in seen)]
        tables.append(Table("How alike the encoders are, 0 to 1", header, alike))
    return Section("Numbers", tables=tables)


def parts(seen, out) -> Section:
    """PCA maps: of every encoder on the same images, and the components of the first."""
    sample = seen[0].sample
    maps = {each.name: pca.pca_map(each.sample.patches) for each in seen}
    sheet.side_by_side(sample.images, maps, out / "pca.png")
    pca.draw_components(sample.images, pca.components(sample.patches), out / "components.png")
    return Section(
        "Parts by colour",
        ["Patches of like features have like colours, over all images of a row."],
        [
            Picture(
                out / "pca.png",
                "Photos, and below them their patches coloured by three principal components",
                "The first three principal components as red, green and blue; signs by skewness.",
            ),
            Picture(
                out / "components.png",
                "Photos with a map for each of the first principal components",
                "The same components one by one.",
            ),
        ],
    )


def objects(first, out) -> Section:
    sample = first.sample
    found = np.stack([discover(patches, 0.2) for patches in sample.patches])
    foreground.draw_foreground(
        sample.images, sample.patches, {"TokenCut": found}, out / "foreground.png"
    )
    picture = Picture(
        out / "foreground.png",
        "Photos, and what two ways without labels cut out of them as the object",
        "By the first principal component, and by TokenCut (the second eigenvector of the graph "
        "of patches).",
    )
    return Section("Object and background", pictures=[picture])


def attended(first, query, out) -> Section:
    sample = first.sample
    grid = sample.patches.shape[1:3]
    query = (grid[0] // 2, grid[1] // 2) if query is None else query
    pictures = []
    for name, asks in (("attention", None), ("attention_patch", query)):
        taken = attention.attended(first.weights, grid, first.prefix, asks)
        attention.draw_attention(sample.images[0], taken, out / f"{name}.png")
        pictures.append(
            Picture(
                out / f"{name}.png",
                f"A photo and what each head takes from its patches, asked by {taken.query}",
                f"Asked by {taken.query}. Nats are the entropy of a head's attention, keys its "
                "exponential: how many patches it takes from.",
            )
        )
    return Section("Attention of the last block", pictures=pictures)


def correspondences(first, out) -> Section:
    """Between the two images that are most alike."""
    sample = first.sample
    alike = neighbours.cosine(sample.pooled, sample.pooled)
    np.fill_diagonal(alike, -np.inf)
    a, b = np.unravel_index(np.argmax(alike), alike.shape)
    found = matches.mutual_matches(sample.patches[a], sample.patches[b])
    matches.draw_matches((sample.images[a], sample.images[b]), found, out / "matches.png")
    picture = Picture(
        out / "matches.png",
        "Two photos with lines between patches that correspond",
        matches.caption(found),
    )
    return Section("Which part is which", pictures=[picture])


def near(first, names, classes, crops, out) -> Section:
    """Nearest neighbours of some images among all."""
    frozen = first.frozen
    rows = evenly(len(names), QUERIES)
    found, similarity = neighbours.nearest(frozen.pooled[rows], frozen.pooled, NEAREST, rows)
    images = crops(frozen.rows[np.concatenate([rows, found.ravel()])])
    count = len(rows)
    neighbours.draw_neighbours(
        images[:count],
        images[count:].reshape(*found.shape, *images.shape[1:]),
        similarity,
        out / "neighbours.png",
        names=class_names(frozen.label[rows], classes),
        neighbour_names=class_names(frozen.label[found], classes),
    )
    picture = Picture(
        out / "neighbours.png",
        "Images, each in a row with the images nearest to it",
        "The cosine of their features stands below; a red frame is another class.",
    )
    return Section("Nearest neighbours", pictures=[picture])


def overview(first, classes, crops, out) -> Section:
    """A map of the images: near each other where their features are."""
    frozen = first.frozen
    rows = evenly(len(frozen.label), MAPPED)
    points = embedding.embed(frozen.pooled[rows])
    few = evenly(len(rows), THUMBNAILS)
    embedding.draw_embedding(
        points, out / "map.png", classes=class_names(frozen.label[rows], classes)
    )
    embedding.draw_thumbnails(
        points[few], crops(frozen.rows[rows[few]]), out / "map_thumbnails.png"
    )
    return Section(
        "A map of the images",
        ["t-SNE of the features: only nearness means anything, neither distance nor direction."],
        [
            Picture(out / "map.png", "Points, one per image, marked by class", "One per image."),
            Picture(out / "map_thumbnails.png", "The images themselves at their places", "Some."),
        ],
    )


def class_names(label: np.ndarray, classes) -> list | None:
    """The names of labels [N] or [Q, k]; None where there is but one, which tells nothing."""
    return np.asarray(classes, object)[label].tolist() if len(classes) > 1 else None


def evenly(total: int, most: int) -> np.ndarray:
    """At most so many of range(total), evenly spread."""
    return np.unique(np.linspace(0, total - 1, min(total, most)).astype(int))
