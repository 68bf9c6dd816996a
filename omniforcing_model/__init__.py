"""The paper in PyTorch: layout, mask, cache, transformer, rollout, distillation, codecs."""
