from omniforcing_model.latent_grid import latent_grid


def test_a_grid_has_height_before_width():
    assert latent_grid(512, 768, 32) == (16, 24)
    assert latent_grid(64, 32, 32) == (2, 1)
