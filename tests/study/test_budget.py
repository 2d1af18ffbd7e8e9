"""Budgets match to the step."""

import numpy as np
import pytest

from vitjax.study import budget


def test_equal_flops_are_equal_to_within_a_step():
    rng = np.random.default_rng(0)
    for flops, reference in rng.uniform(1e6, 1e9, (100, 2)):
        if reference < flops / 500:
            continue
        count = budget.steps(
            {"steps": 500, "flops_of": "cnn"},
            **dict(examples=77, batch_size=16, flops=flops, reference=reference),
        )
        total, wanted = count * 16 * flops, 500 * 16 * reference
        assert abs(total - wanted) <= 16 * flops / 2 * (1 + 1e-9)


@pytest.mark.parametrize(("examples", "count"), [(20, 12), (160, 100), (1, 1)])
def test_equal_epochs_are_equal_to_within_a_step(examples, count):
    numbers = dict(examples=examples, batch_size=16, flops=1.0, reference=1.0)
    assert budget.steps({"epochs": 10}, **numbers) == count
    assert budget.steps({"steps": 40}, **numbers) == 40


def test_a_budget_says_what_is_equal():
    assert "200 updates" in budget.say({"steps": 200})
    assert "30 times" in budget.say({"epochs": 30})
    assert "as 200 updates of cnn" in budget.say({"steps": 200, "flops_of": "cnn"})
