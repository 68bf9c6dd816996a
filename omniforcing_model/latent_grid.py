"""How many latents a picture has in each direction."""


def latent_grid(height: int, width: int, spatial_stride: int) -> tuple[int, int]:
    """Latent (height, width) of a picture whose sides are multiples of `spatial_stride` pixels."""
    return height // spatial_stride, width // spatial_stride
