"""Every key of a config is an argument of something, or an error that names it."""

import dataclasses

import pytest

from vitjax.config import ConfigError, call, call_named, check, flatten, parse_arg, steps_of


@dataclasses.dataclass(frozen=True)
class Args:
    variant: str = "S/16"
    res: int = 224
    rate: float = 0.1
    smoke: bool = False


def test_arguments_are_parsed_by_the_type_of_their_field():
    got = parse_arg("variant=L/16,res=384,rate=1e-3,smoke", Args)
    assert got == Args("L/16", 384, 1e-3, True)
    assert parse_arg("", Args) == parse_arg(None, Args) == Args()
    assert parse_arg("smoke=false", Args) == Args()


@pytest.mark.parametrize(
    ("arg", "message"),
    [
        ("varient=L/16", "'varient' is unknown; did you mean 'variant'"),
        ("res=big", "res='big' is not of type int"),
        ("res", "'res' needs a value"),
        ("smoke=maybe", "smoke='maybe' is not of type bool"),
    ],
)
def test_a_bad_argument_is_one_clear_line(arg, message):
    with pytest.raises(ConfigError, match=message) as error:
        parse_arg(arg, Args)
    assert "\n" not in str(error.value)


def area(width, *, height=2, unit="px"):
    return width * height, unit


def test_call_hands_over_the_section_and_names_what_it_does_not_take():
    assert call(area, {"height": 5}, "shape", width=3) == (15, "px")
    with pytest.raises(ConfigError, match=r"shape\.hieght is unknown; did you mean 'height'"):
        call(area, {"hieght": 5}, "shape", width=3)
    # What the program gives is not the user's to set.
    with pytest.raises(ConfigError, match=r"shape\.width is unknown"):
        call(area, {"width": 5}, "shape", width=3)
    with pytest.raises(ConfigError, match=r"shape\.width is missing"):
        call(area, {}, "shape")


def test_a_function_with_keywords_is_checked_against_the_function_they_go_to():
    def outer(name, *, share=1.0, **settings):
        return area(**settings)

    check(outer, {"share": 2, "height": 5}, "data", given=("name", "width"), beyond=area)
    with pytest.raises(ConfigError, match=r"data\.higth is unknown; did you mean 'height'"):
        check(outer, {"higth": 5}, "data", given=("name", "width"), beyond=area)


def test_call_named_finds_the_function_by_name():
    table = {"area": area}
    assert call_named(table, {"name": "area", "width": 4}, "shape") == (8, "px")
    with pytest.raises(ValueError, match=r"shape\.name='aera' is unknown; did you mean 'area'"):
        call_named(table, {"name": "aera"}, "shape")
    with pytest.raises(ConfigError, match=r"shape\.name is missing"):
        call_named(table, {"width": 4}, "shape")


@pytest.mark.parametrize(
    ("given", "steps"),
    [({"every_steps": 7}, 7), ({"every_epochs": 2}, 20), ({"every_examples": 96}, 3), ({}, None)],
)
def test_durations_become_steps(given, steps):
    got, rest = steps_of({"keep": 3, **given}, "every_", "save.", batch_size=32, examples=320)
    assert (got, rest) == (steps, {"keep": 3})


def test_a_short_duration_is_one_step_and_zero_is_none():
    for value, steps in ((0.001, 1), (0, 0)):
        assert steps_of({"epochs": value}, "", "", batch_size=32, examples=320)[0] == steps


def test_two_units_or_no_number_are_errors():
    size = {"batch_size": 32, "examples": 320}
    with pytest.raises(ConfigError, match="steps and epochs are both set"):
        steps_of({"steps": 3, "epochs": 1}, "", "", **size)
    for value in ("ten", True, -1):
        with pytest.raises(ConfigError, match="is not a number of epochs"):
            steps_of({"epochs": value}, "", "", **size)


def test_flatten_joins_keys_with_dots():
    assert flatten({"a": {"b": 1, "c": {"d": 2}}, "e": 3}) == {"a.b": 1, "a.c.d": 2, "e": 3}
