"""Photographs of individualised products, generated: see generate.py."""
