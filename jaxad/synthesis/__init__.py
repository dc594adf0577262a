"""Procedural images: noise, textures and what is made of them, seeded by the `np.random.Generator` given in."""
