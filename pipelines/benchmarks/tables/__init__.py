"""Benchmarks as tables for people."""
