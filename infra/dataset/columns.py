"""The names of a dataset's columns and folders, once for all who write or read them."""

# Columns with the seconds of work that a stage spent on each row: this, and the stage's name.
SECONDS_OF = "seconds_of_"
