"""What a command line says becomes a config; what it cannot mean is one line."""

import argparse

import pytest

from vitjax.verbs import arguments


def settings(*argv):
    parser = argparse.ArgumentParser()
    arguments.add_to(parser)
    return arguments.settings_of(parser.parse_args(argv))


CONFIG = ("--config", "configs/digits_vit.py:smoke")


def test_every_flag_changes_its_part_of_the_config():
    plain = settings(*CONFIG)
    changed = settings(
        *CONFIG,
        "--encoder=pixels:side=8,patch=2",
        "--data=folder:path=a/b.tar,minival=0.2",
        "--set=evaluators.knn.k=(3, 5)",
        "--set=evaluate.sample_examples=7",
    )
    assert changed["encoder"] == {"name": "pixels", "side": 8, "patch": 2}
    assert changed["data"] == {"name": "folder", "path": "a/b.tar", "minival": 0.2}
    assert changed["evaluators"]["knn"] == {"k": (3, 5)}
    assert changed["evaluate"] == plain["evaluate"] | {"sample_examples": 7}
    untouched = set(plain) - {"encoder", "data", "evaluators", "evaluate"}
    assert {name: plain[name] for name in untouched} == {name: changed[name] for name in untouched}


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (("--config", "nowhere.py"), "there is no Python file nowhere.py"),
        ((*CONFIG, "--data=folder:path"), "--data='folder:path': 'path' has no value"),
        ((*CONFIG, "--set=batch_size"), "--set 'batch_size': expected KEY=VALUE"),
        ((*CONFIG, "--set=batch_size.more=1"), "config key batch_size is not a section"),
        (("--checkpoint", "nowhere"), "--checkpoint='nowhere' is no folder of a run"),
        (("--checkpoint", "x", "--encoder=pixels"), "--encoder='pixels' with --checkpoint"),
    ],
)
def test_what_cannot_be_meant_is_one_line_that_names_it(argv, named):
    with pytest.raises(ValueError, match=r"^[^\n]*$") as error:
        settings(*argv)
    assert named in str(error.value)
