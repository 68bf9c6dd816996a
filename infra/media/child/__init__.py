"""The program that opens untrusted clips: it runs in a child process of its own, on PyAV alone.

Only `clip_child.py` starts it. It imports the standard library and `av`, nothing of ours outside
this folder, so that it starts in a tenth of a second.
"""
