"""metrics.jsonl survives kills and holds each step once."""

import pytest

from vitjax.train import metrics


@pytest.fixture
def file(tmp_path):
    writer = metrics.Writer(tmp_path)
    for step in (1, 2, 3):
        writer.write(step, {"train/loss": 1.0 / step, "eval/validation/knn/protocol": "c0ffee"})
    writer.close()
    return tmp_path / "metrics.jsonl"


def test_a_run_that_goes_on_drops_what_it_will_do_again(file):
    writer = metrics.Writer(file.parent, resume_step=2)
    writer.write(3, {"train/loss": None})
    writer.close()
    assert [row["step"] for row in metrics.read(file)] == [1, 2, 3]
    assert metrics.curve(writer.history, "train/loss") == ([1, 2], [1.0, 0.5])


def test_a_line_cut_off_by_a_kill_is_left_out(file):
    file.write_text(file.read_text()[:-10])
    assert [row["step"] for row in metrics.read(file)] == [1, 2]


def test_damage_elsewhere_is_named_by_line(file):
    file.write_text(file.read_text().replace('{"step": 2', '{"step" 2'))
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2 is damaged"):
        metrics.read(file)
