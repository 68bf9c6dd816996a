"""The small codecs that ship with the package: linear codes and a vocoder without weights."""
