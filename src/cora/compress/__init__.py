"""Smaller detectors: quantization, distillation, pruning, architecture search."""
