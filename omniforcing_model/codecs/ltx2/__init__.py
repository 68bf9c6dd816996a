"""LTX-2's codecs and text path, through diffusers and transformers, decoded as streams."""
