"""The regions as Triton kernels, one each, imported only where Triton is installed.

They compute in float32 and round once, what they write: a plain form in bfloat16 also rounds the
norm before its modulation or rotation, and a gate before its product. The sum of a residual stream
is rounded as it is kept, and its norm is of that, as in the plain form.
"""
