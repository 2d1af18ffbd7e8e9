"""The procedural data set `shapes`: textured things made of named parts."""

from vitjax.data.shapes.source import ShapesSource, open_shapes

__all__ = ["ShapesSource", "open_shapes"]
