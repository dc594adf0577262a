"""Textures for synthetic defects: procedural ones, seeded by the caller, or the photographs of DTD."""
