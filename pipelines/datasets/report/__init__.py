"""The page about a dataset, with some of its clips to look at and listen to."""
