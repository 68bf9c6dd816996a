"""Macro-block by macro-block: the causal mask, the rolling cache and the rollout."""
