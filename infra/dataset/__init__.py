"""Datasets as files: columns, shards, manifest, log, outcomes, and what training reads."""
