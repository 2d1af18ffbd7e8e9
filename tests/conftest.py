"""Every test runs on eight simulated CPU devices, with jax's silent promotions made errors."""

import copy
import os
import tempfile

import jax
import pytest

# Compiling is most of the suite's time, and what is compiled runs once: do not optimise it. The
# parity group runs models of full size, and says so.
if "VITJAX_TEST_OPTIMISED" not in os.environ:
    os.environ["XLA_FLAGS"] = " ".join(
        [
            os.environ.get("XLA_FLAGS", ""),
            "--xla_backend_optimization_level=0",
            "--xla_llvm_disable_expensive_passes=true",
        ]
    )
# Most tests of a run compile the same step. What one process of the suite compiled, the others and
# those that tests start read; CI keeps it for its groups.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    CACHE = tempfile.TemporaryDirectory(prefix="compiled.")  # removed at exit, by its maker alone
    os.environ["JAX_COMPILATION_CACHE_DIR"] = CACHE.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# A tiny run on the digits: what the tests of the trainer and the verbs vary.
VIT = {"name": "vit", "variant": "Ti/2", "width": 16, "depth": 2, "mlp": 24, "heads": 2}


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """Where the digits lie as ArrayRecord."""
    from vitjax.data import prepare  # seconds of imports that most tests do without

    folder = tmp_path_factory.mktemp("digits")
    prepare.prepare_digits(folder, "random")
    return str(folder)


@pytest.fixture
def recipe(settings):
    """Settings of a run of 4 steps; change what a test is about."""
    return copy.deepcopy(settings)


@pytest.fixture(scope="session")
def settings(digits):
    """What `recipe` copies."""
    return {
        "batch_size": 16,
        "steps": 4,
        "encoder": VIT,
        "objective": {"name": "supervised", "classes": 10},
        "data": {"name": "digits", "data_dir": digits, "fraction": 0.1},
        "input": {"canvas": 8, "threads": 1},
        "views": {"size": 8, "crop": "pad", "pad": 1, "flip": False},
        "eval_views": {"crop": 1.0},
        "optimizer": {
            "name": "adamw",
            "lr": 3e-3,
            "schedule": {"name": "cosine", "warmup_steps": 1},
        },
        "evaluators": {"accuracy": {}, "knn": {"k": [5]}},
        "evaluate": {"train_examples": 50},
        "checkpoint": {"keep": 2},
        "log": {"every_steps": 1},
    }
