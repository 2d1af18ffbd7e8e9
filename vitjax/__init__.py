"""vitjax: pretrain image encoders at scale in JAX, and learn what their frozen features know."""

import os

__version__ = "0.1.0"

# libtpu compiles in threads of 64 KiB of stack; strided blocks of a ResNet for v6e take more, and
# the process is killed (0.0.42.1, SIGSEGV). It reads its flags once, when it is loaded.
_STACK = "--fibers_default_thread_stack_size"
_flags = os.environ.get("LIBTPU_INIT_ARGS", "")
if _STACK not in _flags:
    os.environ["LIBTPU_INIT_ARGS"] = f"{_flags} {_STACK}={8 * 2**20}".strip()
