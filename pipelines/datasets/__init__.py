"""Datasets on storage: made, looked into, compared, checked and cleaned."""
