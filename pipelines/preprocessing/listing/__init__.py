"""The clips of a folder and its tars, each with its caption from a table or a file beside it."""
