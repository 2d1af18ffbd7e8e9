"""Pictures of what frozen features know: plain arrays in, uint8 pictures and PNG files out."""
