"""Preprocessing beside a plain loop, stage by stage, and a dry run of many rows."""
