from vitjax.optim.optimizer import create

__all__ = ["create"]
