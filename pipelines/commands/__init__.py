"""The commands of `omniforcing`, one module each; the first line of a module is its summary."""
