"""vitjax: pretrain image encoders at scale in JAX, and learn what their frozen features know."""

__version__ = "0.1.0"
