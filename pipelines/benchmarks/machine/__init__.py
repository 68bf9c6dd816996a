"""What a figure needs of the machine: its devices, its own rate, memory, the record of a run."""
