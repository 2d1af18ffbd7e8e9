"""The page: whole in itself, well formed, readable to those who do not see it."""

import base64
import io
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from vitjax.pictures.page import Picture, Section, Table, page

BAD = "<script>alert('x')</script> & \"quoted\""
VOID = {"meta", "link", "img"}


class Reader(HTMLParser):
    """Tags as (name, attributes), text by the tag it stands in; a tag left open is an error."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text, self.open = [], [], []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append((self.open[-1] if self.open else "", data))

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    def texts(self, tag):
        return [data for name, data in self.text if name == tag]


@pytest.fixture
def read(tmp_path):
    file = tmp_path / "a.png"
    Image.fromarray(np.full((6, 9, 3), 80, np.uint8)).save(file)
    rows = [[BAD, 0.123456, 10, None], ["b", np.float32(2.0), np.int64(7), BAD]]
    sections = [
        Section("Numbers", ["One.", BAD], tables=[Table("n = 3", ["a", "b", "c", BAD], rows)]),
        Section(BAD, pictures=[Picture(file, BAD, BAD)]),
        Section("Numbers", pictures=[Picture(np.zeros((2, 4, 3), np.uint8), "black")]),
        Section("!?", tables=[Table("empty", ["a", "b"], [])]),
    ]
    return Reader(page(BAD, sections, summary=BAD))


def test_text_is_text(read):
    assert not read.all("script") and not read.all("b")
    for tag in ("title", "h1", "p", "h2", "figcaption", "th", "a"):
        assert any("<script>" in text for text in read.texts(tag)), tag
    assert read.all("img")[0]["alt"] == BAD


def test_nothing_is_loaded_from_elsewhere(read):
    for _, attributes in read.tags:
        for key in ("src", "href"):
            if key in attributes:
                assert attributes[key].startswith(("#", "data:"))
    style = "".join(read.texts("style"))
    assert "url(" not in style and "@import" not in style and "http" not in style


def test_pictures_are_inside_at_the_size_they_are_read_at(read):
    first, second = read.all("img")
    for attributes, shape, grey in ((first, (6, 9, 3), 80), (second, (2, 4, 3), 0)):
        data = base64.b64decode(attributes["src"].split(",")[1])
        pixels = np.asarray(Image.open(io.BytesIO(data)))
        assert pixels.shape == shape and np.abs(pixels.astype(int) - grey).max() <= 2
        assert (attributes["width"], attributes["height"]) == (str(shape[1]), str(shape[0]))
    assert first["style"] == "--width: 6px"  # 9 dots at 144 to the inch
    assert second["style"] == "--width: 4px"


def test_the_page_can_be_walked_without_eyes_or_mouse(read):
    assert read.all("html")[0]["lang"] == "en"
    assert "width=device-width" in read.all("meta")[1]["content"]
    assert [tag for tag, _ in read.tags if tag in ("h1", "h2", "h3")] == ["h1"] + 4 * ["h2"]
    ids = [attributes["id"] for _, attributes in read.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    links = [attributes["href"][1:] for attributes in read.all("a")]
    assert set(links) <= set(ids) and len(links) == 5  # past the contents, and to each section
    assert {attributes["aria-labelledby"] for attributes in read.all("section")} <= set(ids)
    for attributes in read.all("div"):  # what scrolls can be reached by key, and has a name
        assert attributes["tabindex"] == "0" and attributes["aria-label"]
    assert all(attributes["scope"] in ("col", "row") for attributes in read.all("th"))
    assert len(read.all("caption")) == len(read.all("table")) == 2


def test_numbers_have_four_digits(read):
    assert read.texts("td") == ["0.1235", "10", "–", "2", "7", BAD]


def test_a_picture_needs_words():
    black = np.zeros((2, 2, 3), np.uint8)
    with pytest.raises(ValueError, match="expected what is to be seen"):
        page("t", [Section("a", pictures=[Picture(black, " ")])])
