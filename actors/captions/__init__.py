"""Captions: rewritten by a grammar, a model here or a server elsewhere, and checked."""
